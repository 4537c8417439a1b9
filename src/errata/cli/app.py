"""The command line as a whole: its verbs, and what becomes of errors."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Annotated

import typer

from errata.cli.apply import apply
from errata.cli.bench import bench
from errata.cli.combine import combine
from errata.cli.console import fleet_here, in_fleet, warnings_as_lines
from errata.cli.demo import demo
from errata.cli.diff import diff
from errata.cli.doctor import doctor
from errata.cli.edit import edit
from errata.cli.ending import TRACEBACK, epilogue, one_line_per_error
from errata.cli.evaluate import evaluate
from errata.cli.export import export
from errata.cli.methods import methods
from errata.cli.report import report
from errata.cli.show import show_edit
from errata.cli.statistics import statistics
from errata.cli.store import store_app
from errata.cli.study import study
from errata.cli.take import take
from errata.cli.undo import undo

app = typer.Typer(
    no_args_is_help=True,
    help="Edit facts into language models by changing their weights, and measure what else changes.",
)
for verb in (
    demo,
    edit,
    take,
    apply,
    undo,
    export,
    combine,
    diff,
    evaluate,
    bench,
    study,
    report,
    statistics,
    doctor,
    methods,
):
    app.command()(verb)
app.command("show")(show_edit)
app.add_typer(store_app, name="store")


def show_versions(wanted: bool) -> None:
    """Print the version of errata and of what its numbers depend on, and stop."""
    if wanted:
        typer.echo(", ".join(f"{name} {version(name)}" for name in ("errata", "torch", "transformers")))
        raise typer.Exit


def show_tracebacks(wanted: bool) -> None:
    """Let mistakes in errata show where they are."""
    if wanted:
        os.environ[TRACEBACK] = "1"


@app.callback(epilog=epilogue())
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_versions, is_eager=True, help="Print the versions and stop.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", callback=show_tracebacks, help="Show where a mistake in errata is.")
    ] = False,
) -> None:
    """Edit facts into language models by changing their weights, and measure what else changes."""


def main() -> None:
    """The console script: ends in SystemExit with one of the codes of `errata.cli.ending`."""
    with one_line_per_error() as speaker:
        here = fleet_here()
        speaker.rank = here.rank if here else 0
        with in_fleet(here), warnings_as_lines():
            app()
