"""errata study: why one method beats another on this model. Tables, figures, and every number behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import command_line, fleet, progress, say, show, warn
from errata.cli.options import (
    Conflict,
    CorpusName,
    Device,
    Dtype,
    Format,
    Layout,
    Model,
    OnConflict,
    Plugin,
    RecipeName,
    Trust,
    Window,
)
from errata.errors import ErrataError

STUDIES = ("cosines", "residuals", "steering", "stability", "tracing", "contribution")


def study(
    model: Model,
    what: Annotated[str, typer.Argument(help=f"Studies to run, separated by commas: {', '.join(STUDIES)}; or all.")],
    facts_file: Annotated[
        str | None, typer.Argument(help="A file of facts or of a benchmark's cases. `pocket` has facts of its own.")
    ] = None,
    facts: Annotated[int, typer.Option(min=1, help="Number of facts to use.")] = 100,
    seed: Annotated[
        int, typer.Option(help="Seed for the choice of facts (pocket), for noise and for start vectors.")
    ] = 0,
    methods: Annotated[
        str | None,
        typer.Option(help="For cosines, residuals and steering: methods to look at, in place of the usual ones."),
    ] = None,
    plugin: Plugin = None,
    window: Window = None,
    layers: Annotated[
        str | None, typer.Option(help="For tracing: layers whose states are put back, such as 0-11. Default: all.")
    ] = None,
    recipe: RecipeName = None,
    corpus: CorpusName = None,
    format: Format = None,
    on_conflict: OnConflict = Conflict.refuse,
    dtype: Dtype = None,
    device: Device = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder in which each study gets a folder of its own.")
    ] = Path("runs/study"),
    layout: Layout = None,
    trust_remote_code: Trust = False,
) -> None:
    """Measure how locate-then-edit works: cosines, residuals, Jacobians, stability, tracing, contributions."""
    from errata.cli.work.opening import corpus_of, open_decoder, recipe_of, table_of
    from errata.cli.work.study import StudyRun, facts_of, studies_of
    from errata.editors.supplies import Supplies
    from errata.files import check_folder
    from errata.recipe import parse_window
    from errata.store import Store
    from errata.study import Trial

    if fleet().size > 1:
        raise ErrataError(f"a study runs in one process, and {fleet().size} were started; leave the launcher out.")
    if facts_file is None and model != "pocket":
        raise typer.BadParameter("give a file of facts; only `pocket` has facts of its own", param_hint="FACTS_FILE")
    table = table_of(plugin)
    places = None if layers is None else parse_window(layers)
    studies = studies_of(what, methods.split(",") if methods else None, places, seed)
    wanted = facts_of(facts_file, format, facts, seed, on_conflict.value)
    check_folder(output)
    decoder = open_decoder(model, dtype, device, trust_remote_code, layout)
    chosen = recipe_of(decoder, recipe, window)
    supplies = Supplies(decoder, chosen, corpus=corpus_of(model, corpus), store=Store.default())
    run = StudyRun(Trial(tuple(wanted), supplies, table), facts_file, seed, command_line())
    for name, function in studies.items():
        with progress() as tell:
            finding = run.one(name, function, output / name, tell)
        for title, grid in finding.tables().items():
            show(grid, f"\n{title}")
        say(finding.note, "dim")
    for message in dict.fromkeys(run.warnings):
        warn(message)
    say(f"\n{len(wanted)} facts, {decoder.name}; numbers, tables and figures are in {output}")
