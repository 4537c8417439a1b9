"""The table: published names of methods, each a target construction with a solver or an editor of another kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from errata.editors.fine_tuning import FineTuning
from errata.editors.rledit import RLEdit
from errata.editors.wise import Wise
from errata.errors import UnfitParts, UnknownName
from errata.method import Method, Pair, Paper, Sibling, arxiv, github, nested, solver_name
from errata.plugins import installed_method
from errata.recipe import Recipe
from errata.solvers import (
    EqualityConstrained,
    LeastSquares,
    NullSpace,
    RankOne,
    Restrained,
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
)

FE = arxiv("FE", "2605.00358")
MEMIT = arxiv("MEMIT", "2210.07229")
BLUE = arxiv("BLUE", "2502.03748")
PMET = arxiv("PMET", "2308.08742")
ROME = arxiv("ROME", "2202.05262")
ALPHAEDIT = arxiv("AlphaEdit", "2410.02355")
RECT = arxiv("RECT", "2401.04700")
PRUNE = arxiv("PRUNE", "2405.16821")
EMMET = arxiv("EMMET", "2403.14236")
WISE = arxiv("WISE", "2405.14768")
RLEDIT = arxiv("RLEdit", "2502.05759")
IN_FE = "jugechengzi/FE"
BLUE_IN_FE = github("BLUE in FE", IN_FE)
ADAEDIT = github("AdaEdit", IN_FE)
NAMET = github("NAMET", IN_FE)
LTI = github("LTI", IN_FE)
ROME_ORIGINAL = github("ROME's code", "kmeng01/rome")
RECT_AFTER = github("RECT later", "jianghoucheng/AlphaEdit")
FT_M = github("FT-M", "zjunlp/EasyEdit")
LOCFT_BF = github("LocFT-BF", "ICT-STAR/LocFT")
ERRATA = Paper("errata")


def _layers(first: float, last: float) -> Callable[[int], Mapping[str, Any]]:
    """Layers from one share of the depth to another."""
    return lambda depth: {"layers": tuple(range(int(first * depth), int(last * depth) + 1))}


MLP = Search("mlp")
PROJECTION = Search("mlp", alone=True)
LEFT_PADDED = Search(padding="left")
IN_CONTEXT = Search(objective=Imagined())

METHODS: Mapping[str, Method] = MappingProxyType(
    {
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
)
"""The published methods, by name. Fixed: `METHODS | {"mine": Pair(...)}` is a table of one's own, which an Editor, a
Grid of the bench and a Trial of a study take."""


def method(name: str | Method, table: Mapping[str, Method] = METHODS) -> Method:
    """The row of that name; `A:B` is A's targets with B's solver, `A:B:C` has B's wrapper around C's solver.

    Names are looked up in the table, then among the methods that installed packages bring. A method is itself.
    Raises UnknownMethod with the nearest names, BadPlugin, and UnfitParts where rows cannot be put together so.
    """
    if isinstance(name, Method):
        return name
    rows = [table[part] if part in table else installed_method(part, table) for part in name.split(":")]
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


def check_names(recipe: Recipe, methods: Iterable[Method] = ()) -> None:
    """Raises UnknownName for settings of a solver or another editor that neither the table nor `methods` have."""
    rows = [*METHODS.values(), *methods]
    solvers = {solver_name(s) for row in rows if isinstance(row, Pair) for s in nested(row.solver)}
    editors = {row.name for row in rows if isinstance(row, Sibling)}
    for kind, given, known in (("solver", recipe.solvers, solvers), ("editor", recipe.editors, editors)):
        for name in given:
            if name not in known:
                raise UnknownName(f"{kind} in the recipe {recipe.name!r}", name, known)
