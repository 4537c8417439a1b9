"""Planning: a cell with its recipe and cases resolved, and what its scores depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from errata.bench.grid import Cell, Grid, setting_texts
from errata.bench.settings import schedule_of, with_settings
from errata.editor import practice_of
from errata.editors.schedule import Schedule
from errata.editors.supplies import Supplies
from errata.errors import BadRecord
from errata.evaluate import Case
from errata.method import Pair
from errata.recipe import Recipe
from errata.record.cell import UNEDITED
from errata.record.run import Run


@dataclass(frozen=True)
class Dataset:
    """`read(n, seed)` gives cases. Where the cases are always the same, the seed chooses the contexts.

    `practice` gives others, from which a method that has to learn how to edit does so.
    """

    read: Callable[[int, int], Sequence[Case]]
    seeds_choose: Literal["cases", "contexts"] = "cases"
    practice: Callable[[], Sequence[Case]] = tuple


class AtHand:
    """One model by its name in the grid, what its cells draw on, and the scores of the unedited model."""

    def __init__(self, name: str, supplies: Supplies) -> None:
        self.name, self.supplies, self.decoder, self.recipe = name, supplies, supplies.decoder, supplies.recipe
        self.unedited: list[dict[str, Any]] = []

    def under(self, plan: Planned) -> Supplies:
        """The supplies of a cell; what other cells ask for alike is made once."""
        return self.supplies.under(plan.recipe, [practice_of(case) for case in plan.practice])


@dataclass(frozen=True)
class Planned:
    """A cell with its recipe resolved. `identity`, all that its scores depend on, is hashed into the folder's name."""

    grid: Grid
    cell: Cell
    recipe: Recipe
    schedule: Schedule
    cases: Sequence[Case]
    practice: Sequence[Case]
    identity: dict[str, Any]
    folder: Path

    @property
    def run(self) -> Run | None:
        """The finished record, if there is a whole one."""
        try:
            run, _ = Run.read(self.folder)
        except BadRecord:
            return None
        return run if run.settings.get("identity") == json.loads(json.dumps(self.identity)) else None


def planned(grid: Grid, datasets: Mapping[str, Dataset], at_hand: AtHand, out: Path) -> Iterator[Planned]:
    """Cells in the order they are run; before the first on each set of cases, that set's unedited scores.

    Raises WindowOutside, and what reading the cases raises.
    """
    seen: set[Path] = set()
    for name, dataset in datasets.items():
        sets: dict[tuple[int, int], tuple[Sequence[Case], str]] = {}
        for cell in grid.cells(at_hand.name, name):
            chosen = (cell.edits, cell.seed if dataset.seeds_choose == "cases" else grid.seeds[0])
            if chosen not in sets:
                cases = dataset.read(*chosen)
                sets[chosen] = cases, digest([case.to_json() for case in cases])
            contexts = {} if dataset.seeds_choose == "cases" else {"context_seed": cell.seed}
            for each in (Cell(at_hand.name, name, UNEDITED, *chosen), cell):
                settings = contexts | dict(each.settings)
                plan = _planned(each, settings, *sets[chosen], dataset.practice, grid, at_hand, out)
                if plan.folder not in seen:
                    seen.add(plan.folder)
                    yield plan


def _planned(
    cell: Cell,
    settings: Mapping[str, Any],
    cases: Sequence[Case],
    cases_digest: str,
    practice_of: Callable[[], Sequence[Case]],
    grid: Grid,
    at_hand: AtHand,
    out: Path,
) -> Planned:
    recipe, schedule = with_settings(at_hand.recipe, settings), schedule_of(settings)
    identity: dict[str, Any] = {
        "model": at_hand.decoder.identity.key,
        "cases": cases_digest,
        "probes": list(grid.probes),
    }
    practice: Sequence[Case] = ()
    if cell.method != UNEDITED:
        row = grid.row(cell.method)
        pipeline = row.pipeline(recipe, at_hand.decoder.depth)
        at_hand.decoder.check_window(pipeline.edited)
        corpus = given.name if (given := at_hand.supplies.given_corpus) else recipe.statistics.corpus
        identity |= pipeline.describe() | {"schedule": asdict(schedule) | {"batch": schedule.batch or row.batch}}
        if "contexts" in row.needs:
            identity["context_seed"] = recipe.context_seed
        if "statistics" in row.needs:
            identity["statistics"] = asdict(recipe.statistics) | {"corpus": corpus}
        if "practice" in row.needs:
            practice = practice_of()
            identity["practice"] = digest([case.to_json() for case in practice])
    parts = [Path(cell.model).name, Path(cell.dataset).stem, cell.method, f"n{cell.edits}", f"s{cell.seed}"]
    name = "".join(c if c.isalnum() or c in "+=.,_-" else "-" for c in ".".join(parts + setting_texts(cell.settings)))
    return Planned(
        grid, cell, recipe, schedule, cases, practice, identity, out / f"{name[:120]}-{digest(identity)[:8]}"
    )


def anchors_needed(plan: Planned) -> dict[str, set[str]]:
    """The anchors a cell needs, by where; cells that share one name it alike."""
    row = plan.grid.row(plan.cell.method)
    if not isinstance(row, Pair):
        return {}
    construction, window = row.construction, plan.recipe.window
    made_of = [plan.identity[key] for key in ("model", "anchor", "context_seed")]
    shared = digest([*made_of, repr(construction.search)])
    facts = [repr(case.fact) for case in plan.cases]
    size = plan.identity["schedule"]["batch"] if plan.schedule.targets == "current" else None
    first, later = facts[: size or len(facts)], facts[size or len(facts) :]
    found = {
        f"layer {layer}": {f"{shared} {layer} {fact}" for fact in first} for layer in construction.anchored(window)
    }
    anew = {step.read for step in construction.steps(window) if step.anew}
    for layers, own in ((construction.anchored(window), later), (anew, facts)):
        for layer in layers:
            names = found.setdefault(f"layer {layer}, on edited models", set())
            names |= {f"{plan.folder} {layer} {fact}" for fact in own}
    return {where: names for where, names in found.items() if names}


def digest(value: Any) -> str:
    """A hash of JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
