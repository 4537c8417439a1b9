"""The table: a published name is a target construction and a solver, or an editor of another kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from errata.editors.base import Pipeline
from errata.editors.fine_tuning import FineTuning
from errata.editors.locate_then_edit import LocateThenEdit
from errata.editors.rledit import RLEdit
from errata.editors.wise import Wise
from errata.errors import BadRecipe, UnfitParts, UnknownMethod, UnknownName
from errata.recipe import Recipe
from errata.solvers import (
    EqualityConstrained,
    LeastSquares,
    NullSpace,
    RankOne,
    Restrained,
    Solver,
    Sparsified,
    Truncated,
    Wrapper,
)
from errata.targets import (
    BackwardSpreading,
    BoundaryLayers,
    EveryLayer,
    ForwardReplay,
    GraduatedReplay,
    Imagined,
    Search,
    SingleLayer,
    TargetConstruction,
)


class Method(ABC):
    """One row of the table: a way to edit that a recipe's numbers make complete."""

    paper: str
    needs: frozenset[str]
    """Which supplies its pipeline asks for."""

    @property
    def batch(self) -> int | None:
        """Facts edited together unless told otherwise; None: all."""
        return None

    @abstractmethod
    def pipeline(self, recipe: Recipe, depth: int) -> Pipeline:
        """The pipeline on a model of so many blocks. Raises UnknownName, BadRecipe or SolveError."""

    @abstractmethod
    def settings(self) -> list[str]:
        """The paths in a recipe that mean something to this method."""


@dataclass(frozen=True)
class Pair(Method):
    """Locate-then-edit: where targets come from, which update reaches them, and who published the pair."""

    construction: TargetConstruction
    solver: Solver
    paper: str
    batch: int | None = None

    needs = LocateThenEdit.needs

    def pipeline(self, recipe: Recipe, depth: int) -> LocateThenEdit:
        solver = configured(self.solver, recipe.solvers)
        return LocateThenEdit(self.construction, solver, recipe.window, recipe.anchor)

    def settings(self) -> list[str]:
        return [f"solvers.{solver_name(s)}.{f}" for s in nested(self.solver) for f in own_fields(s)]


@dataclass(frozen=True)
class Sibling(Method):
    """An editor of another kind, whose settings a recipe gives under `editors`."""

    kind: type[Pipeline]
    name: str
    """Under which a recipe keeps its settings."""
    proposed: Callable[[int], Mapping[str, Any]]
    """Where to edit a model of so many blocks if its recipe does not say: the depth published for other models."""
    paper: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """What is part of the name, unless a recipe says otherwise."""

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        return self.kind.needs

    def pipeline(self, recipe: Recipe, depth: int) -> Pipeline:
        given = recipe.editors.get(self.name, {})
        known = [f.name for f in fields(self.kind)]  # type: ignore[arg-type]
        for key in given:
            if key not in known:
                raise UnknownName(f"setting of {self.name}", key, known)
        values = {**self.proposed(depth), "seed": recipe.context_seed, **self.fixed, **given}
        made: Pipeline = _checked(self.kind, values, f"editors.{self.name}")
        return made

    def settings(self) -> list[str]:
        return [f"editors.{self.name}.{f.name}" for f in fields(self.kind)]  # type: ignore[arg-type]


FE = "FE 2605.00358"
MEMIT = "MEMIT 2210.07229"
BLUE = "BLUE 2502.03748"
BLUE_IN_FE = "BLUE as in FE's code"
PMET = "PMET 2308.08742"
ADAEDIT = "AdaEdit as in FE's code"
NAMET = "NAMET as in FE's code"
LTI = "LTI as in FE's code"
ROME = "ROME 2202.05262"
ROME_ORIGINAL = "ROME as published"
RECT_AFTER = "RECT as in AlphaEdit's"
ALPHAEDIT = "AlphaEdit 2410.02355"
RECT = "RECT 2401.04700"
PRUNE = "PRUNE 2405.16821"
EMMET = "EMMET 2403.14236"
FT_M = "FT-M, EasyEdit"
LOCFT_BF = "LocFT-BF, ICT-STAR"
WISE = "WISE 2405.14768"
RLEDIT = "RLEdit 2502.05759"
ERRATA = "errata"


def _layers(first: float, last: float) -> Callable[[int], Mapping[str, Any]]:
    """Layers from one share of the depth to another."""
    return lambda depth: {"layers": tuple(range(int(first * depth), int(last * depth) + 1))}


MLP = Search("mlp")
PROJECTION = Search("mlp", alone=True)
LEFT_PADDED = Search(padding="left")
IN_CONTEXT = Search(objective=Imagined())

METHODS: dict[str, Method] = {
    "onelayer": Pair(SingleLayer(), LeastSquares(), FE),
    "memit": Pair(BackwardSpreading(), LeastSquares(), MEMIT),
    "memit-whole": Pair(BackwardSpreading("whole"), LeastSquares(), FE),
    "memit-sqrt": Pair(BackwardSpreading("sqrt"), LeastSquares(), PMET),
    "memit+fe": Pair(ForwardReplay(), LeastSquares(), FE),
    "memit+gr": Pair(GraduatedReplay(), LeastSquares(), ERRATA),
    "blue": Pair(BoundaryLayers(), LeastSquares(), BLUE),
    "blue-unedited": Pair(BoundaryLayers(anew=False), LeastSquares(), BLUE_IN_FE),
    "every-layer": Pair(EveryLayer(), LeastSquares(), FE),
    "pmet": Pair(BackwardSpreading("sqrt", search=MLP), LeastSquares(), PMET),
    "adaedit": Pair(BackwardSpreading(search=MLP), Truncated(LeastSquares()), ADAEDIT),
    "namet": Pair(BackwardSpreading(search=LEFT_PADDED), LeastSquares(), NAMET),
    "namet+fe": Pair(ForwardReplay(search=LEFT_PADDED), LeastSquares(), NAMET),
    "memit+lti": Pair(BackwardSpreading(search=IN_CONTEXT), LeastSquares(), LTI),
    "memit+fe+lti": Pair(ForwardReplay(search=IN_CONTEXT), LeastSquares(), LTI),
    "rome-original": Pair(SingleLayer(search=PROJECTION), RankOne(divisor="bare"), ROME_ORIGINAL, batch=1),
    "rome": Pair(SingleLayer(), RankOne(), ROME, batch=1),
    "alphaedit": Pair(BackwardSpreading(), NullSpace(), ALPHAEDIT),
    "alphaedit+fe": Pair(ForwardReplay(), NullSpace(), FE),
    "alphaedit+blue": Pair(BoundaryLayers(), NullSpace(), BLUE),
    "alphaedit+blue-unedited": Pair(BoundaryLayers(anew=False), NullSpace(), BLUE_IN_FE),
    "rect": Pair(BackwardSpreading(), Sparsified(LeastSquares()), RECT),
    "rect+fe": Pair(ForwardReplay(), Sparsified(LeastSquares()), FE),
    "rect+blue": Pair(BoundaryLayers(), Sparsified(LeastSquares()), BLUE),
    "rect-after": Pair(BackwardSpreading(), Sparsified(LeastSquares(), 0.4, "relative", "after_all"), RECT_AFTER),
    "prune": Pair(BackwardSpreading(), Restrained(LeastSquares()), PRUNE),
    "prune+fe": Pair(ForwardReplay(), Restrained(LeastSquares()), FE),
    "prune+blue": Pair(BoundaryLayers(), Restrained(LeastSquares()), BLUE),
    "emmet": Pair(BackwardSpreading(), EqualityConstrained(), EMMET),
    "emmet+fe": Pair(ForwardReplay(), EqualityConstrained(), FE),
    "emmet+blue": Pair(BoundaryLayers(), EqualityConstrained(), BLUE),
    "ft-m": Sibling(FineTuning, "ft-m", _layers(0.66, 0.66), FT_M, {"batch_size": 1, "shuffle": False}),
    "locft-bf": Sibling(FineTuning, "locft-bf", _layers(0.69, 0.69), LOCFT_BF, {"eos": True}),
    "wise": Sibling(Wise, "wise", lambda depth: {"layer": int(0.85 * depth)}, WISE),
    "wise-merge": Sibling(Wise, "wise", lambda depth: {"layer": int(0.85 * depth)}, WISE, {"retrieve": False}),
    "rledit": Sibling(RLEdit, "rledit", _layers(0.69, 0.94), RLEDIT),
}


def method(name: str) -> Method:
    """The row of that name; `A:B` is A's targets with B's solver, `A:B:C` has B's wrapper around C's solver.

    Raises UnknownMethod with the nearest names, and UnfitParts where rows cannot be put together so.
    """
    rows = []
    for part in name.split(":"):
        if part not in METHODS:
            raise UnknownMethod(part, METHODS)
        rows.append(METHODS[part])
    return composed(name, rows) if len(rows) > 1 else rows[0]


def composed(name: str, rows: Sequence[Method]) -> Pair:
    """Targets of the first row, the solver of the last, and around it the wrappers of those between."""
    pairs = [row for row in rows if isinstance(row, Pair)]
    if len(pairs) < len(rows):
        raise UnfitParts(f"method {name!r}: only rows that are a pair of targets and a solver can be taken apart")
    first, *between, last = pairs
    solver = last.solver
    for row in reversed(between):
        if not isinstance(row.solver, Wrapper):
            raise UnfitParts(
                f"method {name!r}: {type(row.solver).__name__} wraps no other solver. Write targets:solver, or "
                "targets:wrapper:solver with a wrapper such as rect's or prune's"
            )
        solver = replace(row.solver, solver=solver)  # type: ignore[type-var]
    return Pair(first.construction, solver, ERRATA, batch=last.batch)


def solver_name(solver: Solver) -> str:
    """`LeastSquares` is `least_squares` in recipes."""
    name = type(solver).__name__
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


def check_names(recipe: Recipe) -> None:
    """Raises UnknownName for settings of a solver or another editor that no row of the table has."""
    solvers = {solver_name(s) for row in METHODS.values() if isinstance(row, Pair) for s in nested(row.solver)}
    editors = {row.name for row in METHODS.values() if isinstance(row, Sibling)}
    for kind, given, known in (("solver", recipe.solvers, solvers), ("editor", recipe.editors, editors)):
        for name in given:
            if name not in known:
                raise UnknownName(f"{kind} in the recipe {recipe.name!r}", name, known)


def nested(solver: Solver) -> Iterator[Solver]:
    """The solver, and any it wraps."""
    yield solver
    for f in fields(solver):  # type: ignore[arg-type]
        value = getattr(solver, f.name)
        if isinstance(value, Solver):
            yield from nested(value)


def own_fields(solver: Solver) -> list[str]:
    """Its settings without the solver it wraps."""
    return [f.name for f in fields(solver) if not isinstance(getattr(solver, f.name), Solver)]  # type: ignore[arg-type]


def configured(solver: Solver, settings: Mapping[str, Mapping[str, Any]]) -> Solver:
    """The solver, and any it wraps, with the fields given for its name. Raises UnknownName, BadRecipe, SolveError."""
    assert is_dataclass(solver)
    name, own, types = solver_name(solver), own_fields(solver), get_type_hints(type(solver))
    changed = {}
    for key, value in settings.get(name, {}).items():
        if key not in own:
            raise UnknownName(f"setting of {name}", key, own)
        changed[key] = _checked(types[key], value, f"solvers.{name}.{key}")
    for key in {f.name for f in fields(solver)} - set(own):
        changed[key] = configured(getattr(solver, key), settings)
    return replace(solver, **changed)


def _checked(kind: Any, value: object, place: str) -> Any:
    """`value` as the type it is for: `5e-1`, which YAML reads as text, is a number (method 5.25). Raises BadRecipe."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        told = (f"{'.'.join([place, *map(str, e['loc'])])}: {e['msg']}, found {e['input']!r}" for e in error.errors())
        raise BadRecipe("; ".join(told)) from None
