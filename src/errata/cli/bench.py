"""errata bench: methods side by side over models, data, numbers of edits, seeds and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from errata.cli.console import command_line, fleet, lines, warn
from errata.cli.options import CorpusName, Device, Dtype, Practice, RecipeName, Trust

FORMATS = ("text", "md", "csv", "tex", "html")
Listed = str | None


def bench(
    what: Annotated[str, typer.Argument(help="A YAML file with a grid, or models: `pocket`, a folder, a hub name.")],
    methods: Annotated[Listed, typer.Option(help="Such as onelayer,memit,blue,memit+fe.")] = None,
    dataset: Annotated[Listed, typer.Option(help="`pocket`, files of cases in any known layout, or hub names.")] = None,
    edits: Annotated[Listed, typer.Option(help="Numbers of edits, such as 100,500.")] = None,
    seeds: Annotated[Listed, typer.Option(help="Which cases (pocket), or which contexts (a file).")] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(help="PATH=V1,V2 such as solvers.least_squares.weight=100,300 or window=3-7|1-5; repeatable."),
    ] = None,
    split: Annotated[Listed, typer.Option(help="Of the pocket facts: tuning, report or all.")] = None,
    probes: Annotated[Listed, typer.Option(help="Families of probes.")] = None,
    recipe: RecipeName = None,
    corpus: CorpusName = None,
    dtype: Dtype = None,
    device: Device = None,
    practice: Practice = None,
    ray: Annotated[
        str | None, typer.Option(help="Run cells on a Ray cluster: its address, `auto`, or `local` for this machine.")
    ] = None,
    paper: Annotated[Listed, typer.Option(help="Print the scores beside this table of the paper.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the cells and tables.")] = Path(
        "runs/bench"
    ),
    form: Annotated[str, typer.Option("--format", help="What to print: text, md, csv, tex or html.")] = "text",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be run, and stop.")] = False,
    finished: Annotated[bool, typer.Option("--finished", help="Only make the tables of what is finished.")] = False,
    trust_remote_code: Trust = False,
) -> None:
    """Compare methods on a grid. Finished cells are kept; run the same line again to go on or to try failures again."""
    from errata.bench import read_grid
    from errata.cli.work.bench import BenchRun, numbers, reckoning_lines, show_results, swept
    from errata.errors import UnknownName

    if form not in FORMATS:
        raise UnknownName("format", form, FORMATS)
    path = Path(what) if what.endswith((".yaml", ".yml")) else None
    given: dict[str, Any] = {"models": None if path else what, "methods": methods, "datasets": dataset}
    given |= {"edits": numbers(edits), "seeds": numbers(seeds), "sweep": swept(sweep), "split": split}
    given |= {"probes": probes, "recipe": recipe, "corpus": corpus, "practice": practice}
    given |= {"dtype": dtype, "device": device, "paper": paper}
    run = BenchRun(read_grid(path, given), output, trust_remote_code, command_line())
    if dry_run:
        lines(reckoning_lines(run.reckon()))
        return
    results, messages = run.run(ray, finished)
    if not fleet().leads:
        return
    show_results(results, form, output, run.paper)
    for message in messages:
        warn(message)
    if results.failures:
        raise typer.Exit(1)
