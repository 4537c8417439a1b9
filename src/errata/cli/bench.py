"""errata bench: methods side by side over models, data, numbers of edits, seeds and settings."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from errata.bench import Bench, Dataset, Grid, Observer, Reckoning, Results, read_grid
from errata.bench.cluster import run_on_ray
from errata.bench.settings import parse_values
from errata.cli.console import (
    CorpusName,
    Device,
    Dtype,
    Practice,
    RecipeName,
    Trust,
    corpus_of,
    err,
    fail,
    fleet,
    lines,
    open_decoder,
    out,
    practice_of,
    progress,
    show,
)
from errata.errors import BadRecord, ErrataError, UnknownName
from errata.evaluate import Case
from errata.evaluate.benchmarks import named_cases
from errata.paper import PaperTable, paper_table
from errata.pocket.cases import cases as pocket_cases
from errata.report.bench_tables import COSTS, rendered, write_tables
from errata.report.comparison import comparison, comparison_note
from errata.report.frontier import COMPARED, frontiers
from errata.report.summary import cost_rows, over_seeds, sections
from errata.store import Store

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
    if form not in FORMATS:
        raise UnknownName("format", form, FORMATS)
    path = Path(what) if what.endswith((".yaml", ".yml")) else None
    given: dict[str, Any] = {"models": None if path else what, "methods": methods, "datasets": dataset}
    given |= {"edits": _numbers(edits), "seeds": _numbers(seeds), "sweep": _swept(sweep), "split": split}
    given |= {"probes": probes, "recipe": recipe, "corpus": corpus, "practice": practice}
    given |= {"dtype": dtype, "device": device, "paper": paper}
    grid = read_grid(path, given)
    beside = paper_table(grid.paper) if grid.paper else None
    command = " ".join(["errata", *sys.argv[1:]])

    def made(observer: Observer | None = None) -> Bench:
        return Bench(
            grid,
            output.absolute(),
            lambda model: open_decoder(model, grid.dtype, grid.device, trust_remote_code),
            lambda name: _dataset(name, grid),
            lambda model: corpus_of(model, grid.corpus),
            store=Store.default(),
            observer=observer,
            command=command,
            fleet=fleet(),
        )

    if ray and fleet().size > 1:
        raise ErrataError("--ray gives each cell a process of its own; start it without a launcher of many processes.")
    with _observer() as observer:
        bench = made(observer)
        if dry_run:
            reckoning = bench.reckon()
        else:
            try:
                if ray and not finished:
                    bench.results = run_on_ray(bench, made, ray)
                else:
                    bench.run((lambda plan: False) if finished else (lambda plan: True))
            finally:
                results = bench.results
                failed = [failure.label for failure in results.failures]
                wanted = results.records and fleet().leads
                told = write_tables(results.records, output, failed, beside) if wanted else []
    if dry_run:
        _tell_reckoning(reckoning)
        return
    if not fleet().leads:
        return
    _tell_results(results, form, output, beside)
    for message in told:
        err.print(f"[yellow]{escape(message)}[/yellow]", highlight=False)
    if results.failures:
        raise typer.Exit(1)


def _tell_results(results: Results, form: str, output: Path, beside: PaperTable | None = None) -> None:
    rows = over_seeds(results.records)
    if form == "text":
        for title, table in sections(rows, "below").items():
            show(table, f"\n{title}")
        for title, table in frontiers(rows, COMPARED[:2]).items():
            if not title.endswith("points"):
                show(table, f"\n{title}")
        if beside and (compared := comparison(rows, beside)):
            for title, table in compared.items():
                show(table, f"\n{title}")
            for note in comparison_note(beside, rows):
                out.print(note, style="dim", highlight=False)
        if (costs := cost_rows(rows)).rows:
            show(costs, f"\n{COSTS}")
        out.print(
            "second line: half the range over seeds, or of a single seed half its 95 % interval over records\n"
            f"{results.computed} cells computed, {results.found} found; tables and cells are in {output}",
            style="dim",
            highlight=False,
        )
    else:
        typer.echo(rendered(rows, form, paper=beside))
    for failure in results.failures:
        fail(f"failed: {failure.label}: {failure.error}")


def _tell_reckoning(found: Reckoning) -> None:
    lines(
        [
            ("cells", found.cells),
            ("done", found.done),
            ("failed before", found.failed),
            ("unedited", f"{found.unedited} sets of cases to be scored"),
            ("anchors", f"{sum(map(len, found.anchors.values()))} to optimise at most: those in the store are not"),
            *(("", f"{len(names)} at {where}") for where, names in sorted(found.anchors.items())),
        ]
    )


def _dataset(name: str, grid: Grid) -> Dataset:
    if name != "pocket":
        return Dataset(lambda n, seed: _first(name, n), "contexts", lambda: practice_of(name, grid.practice))
    split: Any = None if grid.split in (None, "all") else grid.split

    def read(n: int, seed: int) -> Sequence[Case]:
        try:
            return pocket_cases(n, seed, split)
        except ValueError as error:
            raise BadRecord(f"pocket: {error}") from error

    # What is edited is of one half of the facts, so the other is there to practise with.
    return Dataset(read, practice=lambda: practice_of("pocket" if split == "report" else "", grid.practice))


def _first(path: str, n: int) -> Sequence[Case]:
    cases = named_cases(path, limit=n)
    if len(cases) < n:
        raise BadRecord(f"{path}: {n} edits were asked for, it has {len(cases)} records")
    return cases


def _swept(given: Sequence[str] | None) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for text in given or ():
        path, equals, values = text.partition("=")
        if not equals or not values:
            raise ErrataError(f"--sweep {text!r}: write PATH=VALUE,VALUE such as solvers.least_squares.weight=100,300")
        found[path.strip()] = [*found.get(path.strip(), ()), *parse_values(path.strip(), values)]
    return found


def _numbers(text: str | None) -> list[int] | None:
    """`0,1,2` or `0-4`."""
    if text is None:
        return None
    try:
        ends = [[int(part) for part in piece.split("-")] for piece in text.split(",")]
    except ValueError:
        raise ErrataError(f"{text!r}: expected whole numbers such as 0,1,2 or 0-4") from None
    return [number for end in ends for number in range(end[0], end[-1] + 1)]


@contextmanager
def _observer() -> Iterator[Observer]:
    """A line for each cell begun; a bar over all cells, and one for each stage of the cell at work."""
    with progress() as tell:

        class Cells:
            def cell(self, label: str, done: int, total: int) -> None:
                if label and fleet().leads:
                    err.print(f"{done}/{total} {label}", highlight=False, markup=False, soft_wrap=True)
                tell("cells", done, total)

            def stage(self, stage: str, done: int, total: int) -> None:
                tell(stage, done, total)

        yield Cells()
