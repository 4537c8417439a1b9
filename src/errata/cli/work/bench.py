"""The parts of errata bench: what is asked for, running the grid, and showing what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from errata.bench import Bench, Dataset, Grid, Observer, Reckoning, Results
from errata.bench.cluster import run_on_ray
from errata.bench.settings import parse_values
from errata.cli.console import fail, fleet, progress, report, say, show, warn, write_out
from errata.cli.work.opening import corpus_of, open_decoder, practice_of, table_of
from errata.dataset import OnConflict, named_cases
from errata.errors import BadRecord, ErrataError
from errata.evaluate import Case
from errata.paper import PaperTable, paper_table
from errata.pocket.cases import cases as pocket_cases
from errata.report.bench_tables import COSTS, rendered, write_tables
from errata.report.comparison import comparison, comparison_note
from errata.report.frontier import COMPARED, frontiers
from errata.report.summary import Summary, cost_rows, over_seeds, sections
from errata.store import Store

MOST_NUMBERS = 10_000
"""More seeds, or numbers of edits, than anybody means."""


@dataclass(frozen=True)
class BenchRun:
    """A grid to run, and the folder its cells and tables go to."""

    grid: Grid
    output: Path
    trust: bool
    command: str
    plugin: Path | None = None
    """Run again in every process of a cluster."""

    @property
    def layout(self) -> Path | None:
        """The file that says where models of an unknown family have their parts."""
        return Path(self.grid.layout) if self.grid.layout else None

    @cached_property
    def paper(self) -> PaperTable | None:
        """The published table to compare with, if one was asked for."""
        return paper_table(self.grid.paper) if self.grid.paper else None

    def bench(self, observer: Observer | None = None) -> Bench:
        """The bench that runs it; a process of a cluster makes one of its own."""
        grid = replace(self.grid, table=table_of(self.plugin))
        return Bench(
            grid,
            self.output.absolute(),
            lambda model: open_decoder(model, grid.dtype, grid.device, self.trust, self.layout),
            lambda name: _dataset(name, grid),
            lambda model: corpus_of(model, grid.corpus),
            store=Store.default(),
            observer=observer,
            command=self.command,
            fleet=fleet(),
        )

    def reckon(self) -> Reckoning:
        """What is done and what would be run."""
        with _observer() as observer:
            return self.bench(observer).reckon()

    def run(self, ray: str | None, finished: bool) -> tuple[Results, list[str]]:
        """Run what is missing (nothing if `finished`), and write the tables even if the run is cut short.

        Returns the results and what the reader should be told of the tables.
        """
        if ray and fleet().size > 1:
            raise ErrataError(
                "--ray gives each cell a process of its own; start it without a launcher of many processes."
            )
        self.paper  # noqa: B018  an unknown table is refused before the work
        messages: list[str] = []
        with _observer() as observer:
            bench = self.bench(observer)
            try:
                if ray and not finished:
                    bench.results = run_on_ray(bench, self.bench, ray)
                else:
                    bench.run(lambda plan: not finished)
            finally:
                failed = [failure.label for failure in bench.results.failures]
                if bench.results.records and fleet().leads:
                    messages = write_tables(bench.results.records, self.output, failed, self.paper)
        return bench.results, messages


def show_results(results: Results, form: str, output: Path, paper: PaperTable | None = None) -> None:
    """Print the tables in a form, and what failed."""
    rows = over_seeds(results.records)
    if form == "text":
        _show_tables(rows, paper)
        say(
            "Below each score: half the range over seeds; with a single seed, half its 95 % interval over records.\n"
            f"{results.computed} cells computed, {results.found} taken from earlier runs; everything is in {output}",
            "dim",
        )
    else:
        write_out(rendered(rows, form, paper=paper))
    for failure in results.failures:
        fail(f"failed: {failure.label}: {failure.error}")


def _show_tables(rows: list[Summary], paper: PaperTable | None) -> None:
    for title, table in sections(rows, "below").items():
        show(table, f"\n{title}")
    for title, table in frontiers(rows, COMPARED[:2]).items():
        if not title.endswith("points"):
            show(table, f"\n{title}")
    if paper and (compared := comparison(rows, paper)):
        for title, table in compared.items():
            show(table, f"\n{title}")
        for note in comparison_note(paper, rows):
            say(note, "dim")
    if (costs := cost_rows(rows)).rows:
        show(costs, f"\n{COSTS}")


def reckoning_lines(reckoning: Reckoning) -> list[tuple[str, object]]:
    """What would be run, for `lines`."""
    anchors = {place: len(names) for place, names in sorted(reckoning.anchors.items())}
    return [
        ("cells", reckoning.cells),
        ("done", reckoning.done),
        ("failed before", reckoning.failed),
        ("unedited", f"{reckoning.unedited} sets of cases to score on the unedited model"),
        ("anchors", f"at most {sum(anchors.values())} to optimise; those in the store are used again"),
        *(("", f"{count} at {place}") for place, count in anchors.items()),
    ]


def _dataset(name: str, grid: Grid) -> Dataset:
    if name != "pocket":
        return Dataset(lambda n, seed: _first(name, n, grid.on_conflict), "contexts", lambda: _practice(name, grid))
    split: Any = None if grid.split in (None, "all") else grid.split

    def read(n: int, seed: int) -> Sequence[Case]:
        try:
            return pocket_cases(n, seed, split)
        except ValueError as error:
            raise BadRecord(f"pocket: {error}") from error

    # What is edited is of one half of the facts, so the other is there to practise with.
    return Dataset(read, practice=lambda: _practice("pocket" if split == "report" else "", grid))


def _practice(dataset: str, grid: Grid) -> Sequence[Case]:
    return practice_of(dataset, grid.practice, grid.on_conflict)


def _first(path: str, n: int, on_conflict: OnConflict) -> Sequence[Case]:
    """The first n facts: of the first n records, or of all of them where some of those are left out."""
    cases = named_cases(path, limit=n, on_conflict=on_conflict, note=lambda _: None)
    if len(cases) < n:
        cases = named_cases(path, on_conflict=on_conflict, note=warn)
    if len(cases) < n:
        raise BadRecord(f"{path}: {n} edits were asked for, it has {len(cases)} facts")
    return cases[:n]


def swept(given: Sequence[str] | None) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for text in given or ():
        path, equals, values = text.partition("=")
        if not equals or not values:
            raise ErrataError(f"--sweep {text!r}: write PATH=VALUE,VALUE such as solvers.least_squares.weight=100,300")
        found[path.strip()] = [*found.get(path.strip(), ()), *parse_values(path.strip(), values)]
    return found


def numbers(text: str | None) -> list[int] | None:
    """`0,1,2` or `0-4`."""
    if text is None:
        return None
    try:
        ends = [[int(part) for part in piece.split("-")] for piece in text.split(",")]
    except ValueError:
        raise ErrataError(f"{text[:40]!r}: expected whole numbers such as 0,1,2 or 0-4") from None
    if sum(end[-1] - end[0] + 1 for end in ends) > MOST_NUMBERS or any(end[-1] < end[0] for end in ends):
        raise ErrataError(f"{text[:40]!r}: expected up to {MOST_NUMBERS} ascending numbers such as 0,1,2 or 0-4")
    return [number for end in ends for number in range(end[0], end[-1] + 1)]


@contextmanager
def _observer() -> Iterator[Observer]:
    """A line for each cell begun; a bar over all cells, and one for each stage of the cell at work."""
    with progress() as tell:

        class Cells:
            def cell(self, label: str, done: int, total: int) -> None:
                if label:
                    report(f"{done}/{total} {label}")
                tell("cells", done, total)

            def stage(self, stage: str, done: int, total: int) -> None:
                tell(stage, done, total)

        yield Cells()
