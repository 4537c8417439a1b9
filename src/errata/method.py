"""Method: a way to edit that a recipe's numbers make complete. A pair of the two axes, or an editor of another kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from errata.editors.base import Pipeline
from errata.editors.locate_then_edit import LocateThenEdit
from errata.errors import SHOWN, BadRecipe, UnknownName, in_words
from errata.recipe import Recipe
from errata.solvers import Solver
from errata.targets import Search, TargetConstruction


@dataclass(frozen=True)
class Paper:
    """Where a method was published: a short label, and the address of the paper or the code."""

    label: str = "-"
    link: str = ""


def arxiv(label: str, number: str) -> Paper:
    """A paper on arXiv, by its number."""
    return Paper(label, f"https://arxiv.org/abs/{number}")


def github(label: str, repository: str) -> Paper:
    """Published code, by owner/name."""
    return Paper(label, f"https://github.com/{repository}")


class Method(ABC):
    """A way to edit. `METHODS` names the published ones; any other object of this kind edits as well."""

    paper: Paper
    needs: frozenset[str]
    """Which supplies its pipeline asks for."""

    @property
    def batch(self) -> int | None:
        """Facts edited together unless told otherwise; None: all."""
        return None

    @property
    @abstractmethod
    def title(self) -> str:
        """What it is in a few words, for a method that has no name."""

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
    paper: Paper = Paper()
    batch: int | None = None

    needs = LocateThenEdit.needs

    @property
    def title(self) -> str:
        return f"{in_short(self.construction)}:{in_short(self.solver)}"

    def pipeline(self, recipe: Recipe, depth: int) -> LocateThenEdit:
        solver = configured(self.solver, recipe.solvers)
        return LocateThenEdit(self.construction, solver, recipe.window, recipe.anchor, recipe.share)

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
    paper: Paper
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """What is part of the name, unless a recipe says otherwise."""

    @property
    def title(self) -> str:
        return self.kind.__name__

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
        made: Pipeline = checked(self.kind, values, f"editors.{self.name}")
        return made

    def settings(self) -> list[str]:
        return [f"editors.{self.name}.{f.name}" for f in fields(self.kind)]  # type: ignore[arg-type]


def in_short(part: object) -> str:
    """A construction, search or solver with the settings that differ from its defaults: `BackwardSpreading (sqrt)`."""
    changed = []
    for f in fields(part):  # type: ignore[arg-type]
        value = getattr(part, f.name)
        if isinstance(value, Search):
            changed += list(_departures(value))
        elif is_dataclass(value) and value != f.default:
            changed.append(in_short(value))
        elif value != f.default:
            changed.append(str(value) if isinstance(value, str) else f"{f.name}={value}")
    return type(part).__name__ + (f" ({', '.join(changed)})" if changed else "")


def _departures(search: Search) -> Iterator[str]:
    for f in fields(search):
        value = getattr(search, f.name)
        if value != f.default:
            yield in_short(value) if is_dataclass(value) else f"{f.name}={value}"


def solver_name(solver: Solver) -> str:
    """`LeastSquares` is `least_squares` in recipes."""
    name = type(solver).__name__
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


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
        changed[key] = checked(types[key], value, f"solvers.{name}.{key}")
    for key in {f.name for f in fields(solver)} - set(own):
        changed[key] = configured(getattr(solver, key), settings)
    return replace(solver, **changed)


def checked(kind: Any, value: object, place: str) -> Any:
    """`value` as the type it is for: `5e-1`, which YAML reads as text, is a number (method 5.25). Raises BadRecipe."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise BadRecipe("\n  ".join(in_words(problem, place) for problem in error.errors()[:SHOWN])) from None
