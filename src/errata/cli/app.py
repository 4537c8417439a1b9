"""The command line as a whole: its verbs, and what becomes of errors."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Annotated

import typer

from errata.cli.bench import bench
from errata.cli.console import fail, fleet_here, in_fleet
from errata.cli.demo import demo
from errata.cli.doctor import doctor
from errata.cli.edit import edit
from errata.cli.evaluate import evaluate
from errata.cli.methods import methods
from errata.cli.report import report
from errata.cli.statistics import statistics
from errata.cli.store import store_app
from errata.cli.study import study
from errata.errors import ErrataError

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM

app = typer.Typer(
    no_args_is_help=True,
    help="Edit facts into language models by changing their weights, and measure what else changes.",
)
for verb in (demo, edit, evaluate, bench, study, report, statistics, doctor, methods):
    app.command()(verb)
app.add_typer(store_app, name="store")


def show_versions(wanted: bool) -> None:
    """Print the version of errata and of what its numbers depend on, and stop."""
    if wanted:
        typer.echo(", ".join(f"{name} {version(name)}" for name in ("errata", "torch", "transformers")))
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_versions, is_eager=True, help="Print the versions and stop.")
    ] = False,
) -> None:
    """Edit facts into language models by changing their weights, and measure what else changes."""


def main() -> None:
    """The console script: an error of errata's own becomes one message and exit code 1.

    Ctrl-C becomes 130. SIGTERM, by which schedulers end a job, is handled like it, and becomes 143.
    """
    rank = 0
    with terminated_like_interrupted() as signals:
        try:
            here = fleet_here()
            rank = here.rank if here else 0
            with in_fleet(here):
                app()
        except ErrataError as error:
            fail(f"{type(error).__name__}: {error}", rank)
            sys.exit(1)
        except (SystemExit, KeyboardInterrupt) as left:  # the latter before a verb has begun
            if isinstance(left, SystemExit) and left.code != INTERRUPTED:
                raise
            fail("Interrupted. The model is unchanged; anchors computed so far are kept for the next run.")
            sys.exit(TERMINATED if signals else INTERRUPTED)


@contextmanager
def terminated_like_interrupted() -> Iterator[list[int]]:
    """Inside, SIGTERM raises KeyboardInterrupt in the main thread, so that what is half done is undone; once only.

    Yields the signals that came.
    """
    signals: list[int] = []

    def stop(number: int, frame: object) -> None:
        if not signals:
            signals.append(number)
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGTERM, before)
