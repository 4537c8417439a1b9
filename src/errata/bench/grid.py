"""Grid: what shall be run. Its cells, and how it is written in a file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from errata.bench.settings import Settings, Value, check_paths, check_values, parse_value, paths_of
from errata.dataset import OnConflict
from errata.errors import SHOWN, ErrataError, UnknownName, in_words
from errata.evaluate import probes as probes_of
from errata.method import Method
from errata.methods import METHODS
from errata.methods import method as row_of
from errata.paper import paper_table


class BadGrid(ErrataError):
    """A grid has a key nobody knows, or a value of the wrong kind."""


def _listed(value: Any) -> Any:
    """One value where a list of them is meant, and `a,b` for text."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return [value] if isinstance(value, int) else value


def _values(value: Any) -> Any:
    """Values of a swept setting; YAML reads 1e3 as text, and 3-7 stays text."""
    listed = value if isinstance(value, list | tuple) else [value]
    joined = [",".join(map(str, v)) if isinstance(v, list) else v for v in listed]
    return [parse_value(v) if isinstance(v, str) else v for v in joined]


Names = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
Counts = Annotated[tuple[Annotated[int, Field(gt=0)], ...], BeforeValidator(_listed), Field(min_length=1)]
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_listed), Field(min_length=1)]
Values = Annotated[tuple[Value, ...], BeforeValidator(_values), Field(min_length=1)]


@checked(frozen=True, config=ConfigDict(extra="forbid", arbitrary_types_allowed=True))
class Grid:
    """Every combination is a cell. A setting with one value is fixed; with several it is swept.

    `paper` names the published table that the scores are printed beside; no cell depends on it.
    """

    models: Names
    datasets: Names
    methods: Names
    edits: Counts = (100,)
    seeds: Seeds = (0,)
    sweep: dict[str, Values] = field(default_factory=dict)
    probes: Names = ("belief", "subjects", "specificity", "free")
    split: str | None = "report"
    recipe: str | None = None
    corpus: str | None = None
    practice: str | None = None
    on_conflict: OnConflict = "refuse"
    layout: str | None = None
    dtype: str | None = None
    device: str | None = None
    paper: str | None = None
    table: Mapping[str, Method] | None = None
    """Where names of methods are looked up, in place of METHODS; a file cannot set it."""

    def check(self) -> None:
        """Raises UnknownMethod, UnknownName, BadRecipe or SolveError for what cannot be run on any model."""
        rows = [self.row(method) for method in self.methods]
        probes_of(*self.probes)
        if self.paper is not None:
            paper_table(self.paper)
        check_paths(self.sweep, rows)
        for method in self.methods:
            for settings in self.settings(method):
                check_values(settings, self.row(method))

    def row(self, method: str) -> Method:
        """The method of that name. Raises UnknownMethod."""
        return row_of(method, self.known_methods)

    @property
    def known_methods(self) -> Mapping[str, Method]:
        """Where names of methods are looked up."""
        return self.table or METHODS

    def settings(self, method: str) -> list[Settings]:
        """The combinations of swept values; settings that mean nothing to the method are left out of them."""
        mine = [path for path in self.sweep if path in paths_of(self.row(method))]
        return [dict(zip(mine, c, strict=True)) for c in itertools.product(*(self.sweep[path] for path in mine))]

    def cells(self, model: str, dataset: str) -> Iterator[Cell]:
        """The cells of one model on one dataset: those that share anchors next to each other."""
        for edits, seed, method in itertools.product(self.edits, self.seeds, self.methods):
            for settings in self.settings(method):
                yield Cell(model, dataset, method, edits, seed, settings)

    def __len__(self) -> int:
        """The number of cells."""
        per_set = sum(len(self.settings(method)) for method in self.methods)
        return per_set * math.prod(map(len, (self.models, self.datasets, self.edits, self.seeds)))


@dataclass(frozen=True)
class Cell:
    """One edit to be made and scored, or (method `unedited`) one set of cases the unedited model is scored on."""

    model: str
    dataset: str
    method: str
    edits: int
    seed: int
    settings: Settings = field(default_factory=dict)

    def label(self) -> str:
        """What it is, to read."""
        parts = [self.method, f"{self.edits} edits", f"seed {self.seed}", *setting_texts(self.settings)]
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def setting_texts(settings: Settings) -> list[str]:
    """`weight=300`: each path by its last part."""
    return [f"{path.rsplit('.', 1)[-1]}={value_text(value)}" for path, value in settings.items()]


def value_text(value: Value) -> str:
    """A value as it is shown, and as it stands in the name of a folder."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_grid(path: Path | None, given: Mapping[str, Any]) -> Grid:
    """A grid from a YAML file (None: from flags alone); what is given besides it takes its place.

    Raises BadGrid naming each unknown key, with the nearest known one, or bad value.
    """
    where = str(path) if path else "flags"
    row: Any = {}
    if path is not None:
        try:
            row = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise BadGrid(f"{where}: could not be read: {error}") from error
    if not isinstance(row, dict):
        raise BadGrid(f"{where}: expected keys and values, found {type(row).__name__}")
    merged = row | {key: value for key, value in given.items() if value}
    for one, many in (("model", "models"), ("dataset", "datasets"), ("method", "methods")):
        if one in merged:
            merged.setdefault(many, merged.pop(one))
    merged.setdefault("datasets", ["pocket"] if "pocket" in str(merged.get("models")) else [])
    if "table" in merged:
        raise BadGrid(f"{where}: {UnknownName('key', 'table', _keys())}")
    try:
        return TypeAdapter(Grid).validate_python(merged)
    except ValidationError as error:
        raise BadGrid(f"{where}: " + "\n  ".join(map(_problem, error.errors()[:SHOWN]))) from None


def _problem(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return str(UnknownName("key", place, _keys()))
    if problem["type"] in ("missing", "missing_argument") or problem["input"] in ([], ()):
        return f"no {place} given"
    return in_words(problem)


def _keys() -> Sequence[str]:
    return [name for name in Grid.__dataclass_fields__ if name != "table"]
