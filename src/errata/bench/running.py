"""Bench: runs the cells of a grid, keeps what is finished, and goes on where it was."""

from __future__ import annotations

import gc
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import psutil
import torch

from errata.bench.grid import Grid
from errata.bench.planning import AtHand, Dataset, Planned, anchors_needed, planned
from errata.bench.record import FAILED, read_failure, write_failure, write_record
from errata.decoder.corpus import Corpus
from errata.decoder.decoder import Decoder
from errata.editor import Editor
from errata.editors.supplies import Supplies
from errata.errors import ErrataError
from errata.evaluate import evaluate, probes, retokenised
from errata.evaluate.generation import said
from errata.fleet import SOLO, Fleet
from errata.recipe import recipe_for
from errata.record.cell import UNEDITED, CellRecord
from errata.record.run import Run, versions
from errata.store import Store


class Observer(Protocol):
    """Told how far the bench is: cells done of all, and the stage of the one at work."""

    def cell(self, label: str, done: int, total: int) -> None: ...

    def stage(self, stage: str, done: int, total: int) -> None: ...


class _Nobody:
    def cell(self, label: str, done: int, total: int) -> None: ...

    def stage(self, stage: str, done: int, total: int) -> None: ...


@dataclass(frozen=True)
class Failure:
    """A cell that ended in an error, or a model that could not be opened."""

    label: str
    error: str
    folder: Path | None = None


@dataclass
class Results:
    """Every whole record of the grid, the unedited ones first on each set of cases, and what failed."""

    records: list[CellRecord] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    computed: int = 0
    found: int = 0
    settled: int = 0


@dataclass
class Reckoning:
    """What a run would do. `anchors`: where -> those the cells to be run need, each named once."""

    cells: int = 0
    done: int = 0
    failed: int = 0
    unedited: int = 0
    anchors: dict[str, set[str]] = field(default_factory=dict)


class Bench:
    """The cells of a grid, with everything that must be opened for them given as functions of a name."""

    def __init__(
        self,
        grid: Grid,
        out: Path,
        open_decoder: Callable[[str], Decoder],
        open_dataset: Callable[[str], Dataset],
        open_corpus: Callable[[str], Corpus | None],
        *,
        store: Store | None = None,
        observer: Observer | None = None,
        command: str = "",
        fleet: Fleet = SOLO,
    ) -> None:
        """`fleet`: the processes that share the work of each cell; the leading one writes the records.

        Raises UnknownMethod, UnknownName, BadRecipe or SolveError for a grid that no model could run."""
        grid.check()
        self.grid, self.out, self.command = grid, out, command
        self.open_decoder, self.open_corpus = open_decoder, open_corpus
        self.store, self.observer = store or Store.default(), observer or _Nobody()
        self.fleet = fleet
        self.datasets = {name: open_dataset(name) for name in grid.datasets}
        self.results = Results()

    def run(self, wanted: Callable[[Planned], bool] = lambda plan: True) -> Results:
        """All cells, those not finished before only if `wanted`. A failure is recorded and the next cell begun; an
        interrupt leaves every finished cell whole. A cell not wanted that failed before is among the failures.

        `self.results` holds what there is at any time. Raises ErrataError if not even one model can be opened.
        """
        self.results = Results()
        for model in self.grid.models:
            try:
                at_hand = self._opened(model)
                plans = list(planned(self.grid, self.datasets, at_hand, self.out))
            except ErrataError as error:
                if len(self.grid.models) == 1:
                    raise
                self.results.failures.append(Failure(model, f"{type(error).__name__}: {error}"))
                continue
            for plan in plans:
                if wanted(plan) or self._has(plan):
                    self._settle(at_hand, plan)
                elif told := read_failure(plan):
                    self.results.failures.append(Failure(plan.cell.label(), told, plan.folder))
            del at_hand, plans
            gc.collect()
        self.observer.cell("", len(self.grid), len(self.grid))
        return self.results

    def _has(self, plan: Planned) -> bool:
        """Whether the record of a cell is finished, as the leading rank sees it."""
        return bool(self.fleet.tell(lambda: plan.run is not None))

    def plans(self) -> Iterator[Planned]:
        """All cells of all models, in the order they are run. Opens the models, and computes nothing."""
        for model in self.grid.models:
            yield from planned(self.grid, self.datasets, self._opened(model), self.out)

    def reckon(self) -> Reckoning:
        """What `run` would do. Opens the models, and computes nothing."""
        found = Reckoning()
        for plan in self.plans():
            done = plan.run is not None
            if plan.cell.method == UNEDITED:
                found.unedited += not done
                continue
            found.cells += 1
            found.done += done
            found.failed += (plan.folder / FAILED).is_file()
            if not done:
                for where, names in anchors_needed(plan).items():
                    found.anchors.setdefault(where, set()).update(names)
        return found

    def _opened(self, model: str) -> AtHand:
        decoder = self.open_decoder(model)
        recipe = recipe_for(decoder, self.grid.recipe)
        given: dict[str, Any] = {"store": self.store, "progress": self.observer.stage, "fleet": self.fleet}
        return AtHand(model, Supplies(decoder, recipe, corpus=self.open_corpus(model), **given))

    def _settle(self, at_hand: AtHand, plan: Planned) -> None:
        """The record of one cell: found, or computed and written, or its failure."""
        results, unedited = self.results, plan.cell.method == UNEDITED
        self.observer.cell(plan.cell.label(), results.settled, len(self.grid))
        if unedited:
            at_hand.unedited = []
        run: Run | None = None
        if self._has(plan):
            run = plan.run
            results.found += not unedited
        else:
            try:
                run = self._computed(at_hand, plan)
                if self.fleet.leads:
                    write_record(run, plan)
                self.fleet.tell(lambda: None)  # no rank goes on to the next cell before this one is whole
            except Exception as error:
                run, told = None, write_failure(error, plan) if self.fleet.leads else str(error)
                results.failures.append(Failure(plan.cell.label(), told, plan.folder))
                self.fleet.regroup(error)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
            finally:
                at_hand.decoder.restore()
            results.computed += run is not None and not unedited
        results.settled += not unedited
        if run is not None:
            results.records.append(CellRecord.of(run))
            if unedited:
                at_hand.unedited = [{**score, "per_case": [], "weights": []} for score in run.scores[UNEDITED]]

    def _computed(self, at_hand: AtHand, plan: Planned) -> Run:
        decoder, cell = at_hand.decoder, plan.cell
        facts = [case.fact for case in plan.cases]
        settings: dict[str, Any] = {"cell": cell.to_json(), "identity": plan.identity, "device": _device(decoder)}
        settings["records"] = [case.id for case in plan.cases]
        settings["retokenised"] = retokenised(decoder, plan.cases)
        title = f"{Path(cell.dataset).stem} on {Path(cell.model).name}: {cell.label()}"
        run = Run(title, self.command, settings, versions())
        _forget_peak(decoder)
        started = perf_counter()
        if cell.method != UNEDITED:
            run.scores[UNEDITED] = at_hand.unedited
            editor = Editor(decoder, cell.method, methods=self.grid.known_methods, supplies=at_hand.under(plan))
            if "contexts" in editor.pipeline.needs:
                with _timed(run.seconds, "contexts"):
                    settings["contexts"] = editor.supplies.contexts.groups
            if "statistics" in editor.pipeline.needs:
                with _timed(run.seconds, "statistics"):
                    gathered = editor.statistics()
                settings["statistics"] = {str(layer): s.count for layer, s in gathered.items()}
            settings["recipe"] = plan.recipe.to_json()
            outcome = editor.edit(facts, **asdict(plan.schedule))
            run.ledgers[cell.method] = outcome.ledger.to_json()
            run.seconds = outcome.ledger.seconds | run.seconds
        with _timed(run.seconds, "scores"):
            scores = evaluate(decoder, plan.cases, probes(*self.grid.probes), self.observer.stage, self.fleet)
        run.scores[cell.method] = scores.to_json()
        state = "before" if cell.method == UNEDITED else cell.method
        answers = zip(facts, said(decoder, facts), strict=True)
        run.answers = [{"prompt": f.text, "to say": f.target_new, state: text} for f, text in answers]
        run.seconds["total"] = perf_counter() - started
        run.memory = _peak(decoder)
        return run


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = perf_counter()
    yield
    seconds[stage] = perf_counter() - start


def _device(decoder: Decoder) -> str:
    if decoder.device.type == "cuda":
        return torch.cuda.get_device_name(decoder.device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _forget_peak(decoder: Decoder) -> None:
    """What `_peak` tells begins here; the process's own peak cannot be forgotten but on Linux."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if decoder.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(decoder.device)


def _peak(decoder: Decoder) -> dict[str, float]:
    """MiB since `_forget_peak`; elsewhere than on Linux `process` is the most that this process ever held."""
    try:
        import resource

        process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
            2**20 if platform.system() == "Darwin" else 2**10
        )
    except ImportError:  # Windows
        process = psutil.Process().memory_info().rss / 2**20
    device = decoder.device
    return {"process": process} | (
        {"device": torch.cuda.max_memory_allocated(device) / 2**20} if device.type == "cuda" else {}
    )
