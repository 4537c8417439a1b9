"""errata bench: compare methods over models, data, numbers of edits, seeds and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from errata.cli.console import command_line, fleet, lines, warn
from errata.cli.ending import INCOMPLETE
from errata.cli.options import Conflict, CorpusName, Device, Dtype, Layout, Plugin, Practice, RecipeName, Trust

FORMATS = ("text", "md", "csv", "tex", "html")
Listed = str | None


def bench(
    what: Annotated[
        str,
        typer.Argument(
            help="A YAML file that describes a grid, or models separated by commas: `pocket`, folders, hub names."
        ),
    ],
    methods: Annotated[
        Listed, typer.Option(help="Methods to compare, separated by commas, such as onelayer,memit,blue,memit+fe.")
    ] = None,
    dataset: Annotated[
        Listed,
        typer.Option(help="Where facts come from, separated by commas: `pocket`, benchmark files, hub datasets."),
    ] = None,
    edits: Annotated[Listed, typer.Option(help="Numbers of facts to edit, such as 100,500.")] = None,
    seeds: Annotated[
        Listed,
        typer.Option(help="Seeds, such as 0-2. A seed chooses the facts (pocket) or the context prefixes (files)."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            help="Values of a setting, such as solvers.least_squares.weight=100,300 or window=3-7|1-5. Repeatable."
        ),
    ] = None,
    split: Annotated[
        Listed, typer.Option(help="Which half of the pocket model's facts to use: tuning, report or all.")
    ] = None,
    probes: Annotated[
        Listed, typer.Option(help="Families of probes to score, separated by commas, such as belief,specificity.")
    ] = None,
    plugin: Plugin = None,
    recipe: RecipeName = None,
    corpus: CorpusName = None,
    dtype: Dtype = None,
    device: Device = None,
    practice: Practice = None,
    on_conflict: Annotated[
        Conflict | None,
        typer.Option(
            help="Records that repeat or contradict each other: refuse the file, or keep the first or last of them."
        ),
    ] = None,
    layout: Layout = None,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Run the cells of the grid on a Ray cluster: its address, `auto`, or `local` for this machine."
        ),
    ] = None,
    paper: Annotated[
        Listed, typer.Option(help="Compare the scores with a table of the paper, such as table3_llama3_mcf.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results and tables.")] = Path(
        "runs/bench"
    ),
    form: Annotated[
        str, typer.Option("--format", help="Format of the printed tables: text, md, csv, tex or html.")
    ] = "text",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be run, and stop.")] = False,
    finished: Annotated[
        bool, typer.Option("--finished", help="Run nothing; make the tables of what is finished.")
    ] = False,
    trust_remote_code: Trust = False,
) -> None:
    """Compare methods over a grid of models, data and settings. The same command continues an interrupted run."""
    from errata.bench import read_grid
    from errata.cli.work.bench import BenchRun, numbers, reckoning_lines, show_results, swept
    from errata.errors import UnknownName
    from errata.files import check_folder

    if form not in FORMATS:
        raise UnknownName("format", form, FORMATS)
    path = Path(what) if what.endswith((".yaml", ".yml")) else None
    given: dict[str, Any] = {"models": None if path else what, "methods": methods, "datasets": dataset}
    given |= {"edits": numbers(edits), "seeds": numbers(seeds), "sweep": swept(sweep), "split": split}
    given |= {"probes": probes, "recipe": recipe, "corpus": corpus, "practice": practice}
    given |= {"on_conflict": on_conflict and on_conflict.value, "layout": layout and str(layout)}
    given |= {"dtype": dtype, "device": device, "paper": paper}
    grid = read_grid(path, given)
    run = BenchRun(grid, output, trust_remote_code, command_line(), plugin and plugin.absolute())
    if dry_run:
        lines(reckoning_lines(run.reckon()))
        return
    if fleet().leads:
        check_folder(output)
    results, messages = run.run(ray, finished)
    if not fleet().leads:
        return
    show_results(results, form, output, run.paper)
    for message in messages:
        warn(message)
    if results.failures:
        raise typer.Exit(INCOMPLETE)
