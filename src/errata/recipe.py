"""Recipe: one model's numbers, each with its source. The only reader of recipe files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields, replace
from functools import cache
from importlib import resources
from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from errata.decoder.corpus import TOKENS_PER_DIMENSION
from errata.decoder.decoder import Decoder
from errata.errors import BadRecipe, UnknownName, WindowOutside, in_words, printable
from errata.targets.anchor import AnchorSettings

_STRICT = ConfigDict(extra="forbid")
WINDOW_LAYERS = 5
MOST_LAYERS = 10_000
"""More than any model has: a typing error shall not fill the memory with layers."""
SHOWN = 5
"""Problems of a recipe that are named at once."""
LARGEST = 1 << 20
"""Characters of a recipe file: a larger one is something else."""
BRACKETS = 1000
"""Opening brackets in a recipe file: lists within lists by the thousand would take minutes to read."""


@checked(frozen=True, config=_STRICT)
class StatisticsSettings:
    """Which text the key statistics come from, and how much of it; None: errata's defaults (method 1.6)."""

    corpus: str | None = None
    tokens: int | None = None
    """Of the sample; 0: all of the corpus; None: `per_dimension` for each entry of a key."""
    max_length: int | None = None
    per_dimension: Annotated[int, Field(ge=1)] = TOKENS_PER_DIMENSION
    shrinkage: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """What share of the moment is replaced by its diagonal."""


@checked(frozen=True, config=_STRICT)
class Recipe:
    """Numbers that follow from the model: window, anchor settings, and settings by solver's or other editor's name."""

    name: str
    window: Annotated[tuple[int, ...], Field(min_length=1)]
    models: tuple[str, ...] = ()
    anchor: AnchorSettings = field(default_factory=AnchorSettings)
    solvers: dict[str, dict[str, float | str]] = field(default_factory=dict)
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """What every step of a sweep writes of its share of the residual (method 2.19)."""
    editors: dict[str, dict[str, Any]] = field(default_factory=dict)
    statistics: StatisticsSettings = field(default_factory=StatisticsSettings)
    context_seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 0
    source: dict[str, str] = field(default_factory=dict)
    proposed: bool = False

    def with_window(self, window: tuple[int, ...]) -> Recipe:
        """The same numbers over other layers."""
        return replace(self, window=window, source=self.source | {"window": "given"})

    def with_solver(self, solver: str, **settings: float | str) -> Recipe:
        """The same numbers with some settings of one solver replaced."""
        merged = {**self.solvers, solver: {**self.solvers.get(solver, {}), **settings}}
        return replace(self, solvers=merged, source=self.source | {f"solvers.{solver}": "given"})

    def with_share(self, share: float, source: Mapping[str, str]) -> Recipe:
        """The same numbers with another share of each step written; `source`: where it and others come from."""
        return replace(self, share=share, source={**self.source, **source})

    def to_json(self) -> dict[str, Any]:
        """All settings as JSON types."""
        found: dict[str, Any] = TypeAdapter(Recipe).dump_python(self, mode="json")
        return found


def parse_window(text: str) -> tuple[int, ...]:
    """`3-7` or `1,3,5` as layers. Raises WindowOutside."""
    try:
        first, last = (int(part) for part in text.split("-")) if "-" in text else (0, 0)
        layers = range(first, last + 1) if "-" in text else [int(part) for part in text.split(",")]
    except ValueError:
        layers = []
    if not layers:
        raise WindowOutside(f"window {text[:40]!r}: write a range such as 3-7 or layers such as 1,3,5")
    if max(layers[0], layers[-1]) >= MOST_LAYERS:
        raise WindowOutside(f"window {text[:40]!r}: no model has so many layers")
    return tuple(layers)


def read_recipe(text: str, where: str) -> Recipe:
    """A recipe from YAML. Raises BadRecipe naming each unknown key (with the nearest known one) or bad value.

    Numbers written as `5e-1`, which YAML reads as text, are numbers (method 5.25).
    """
    row = _plain(text, where)
    if not isinstance(row, Mapping) or not all(isinstance(key, str) for key in row):
        raise BadRecipe(f"{where}: expected names of settings and their values, found {printable(row)}")
    return validated(row, where)


def validated(row: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from plain values, as `Recipe.to_json` gives them. Raises BadRecipe."""
    try:
        return TypeAdapter(Recipe).validate_python(dict(row))
    except ValidationError as error:
        problems = [_line_of(problem) for problem in error.errors()]
        more = [f"and {len(problems) - SHOWN} more problems"] if len(problems) > SHOWN else []
        raise BadRecipe(f"{where}: " + "\n  ".join(problems[:SHOWN] + more)) from None


def _plain(text: str, where: str) -> object:
    """What YAML says, if it is plain: aliases, by which a few lines stand for billions of values, are refused."""
    if len(text) > LARGEST:
        raise BadRecipe(f"{where}: {len(text):,} characters; a recipe has a few thousand")
    if sum(map(text.count, "[{")) > BRACKETS:  # nested by the thousand they would be read for minutes
        raise BadRecipe(f"{where}: more than {BRACKETS} opening brackets; a recipe has a few")
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise BadRecipe(f"{where}: YAML aliases (*name) are not read; write the values out")
        row = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BadRecipe(f"{where}: not valid YAML: {reason or type(error).__name__}") from error
    if (value := _not_finite(row)) is not None:
        raise BadRecipe(f"{where}: {value} is not a number that a setting can have")
    return row


def _not_finite(value: object) -> float | None:
    if isinstance(value, Mapping):
        return next((bad for item in value.values() if (bad := _not_finite(item)) is not None), None)
    if isinstance(value, list):
        return next((bad for item in value if (bad := _not_finite(item)) is not None), None)
    return value if isinstance(value, float) and not isfinite(value) else None


def _line_of(problem: Any) -> str:
    """One of pydantic's problems on one line; of an unknown name, the nearest known one."""
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        owner = {"anchor": AnchorSettings, "statistics": StatisticsSettings}.get(str(problem["loc"][0]), Recipe)
        known = [f.name for f in fields(owner)]
        return str(UnknownName("recipe key", str(problem["loc"][-1]), known))
    return in_words(problem)


@cache
def known_recipes() -> dict[str, Recipe]:
    """Recipes shipped with errata, by name."""
    folder = resources.files("errata").joinpath("recipes")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    found = [read_recipe(f.read_text(encoding="utf-8"), f.name) for f in files]
    return {recipe.name: recipe for recipe in found}


def recipe_for(decoder: Decoder, wanted: str | Path | Recipe | None = None) -> Recipe:
    """The recipe asked for (a name, a YAML file or a Recipe), the one that lists this model, or a proposed one."""
    if isinstance(wanted, Recipe):
        return wanted
    if wanted is not None:
        path = Path(wanted)
        if path.suffix in (".yaml", ".yml"):
            if not path.is_file():
                raise BadRecipe(f"{path}: no such recipe file")
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise BadRecipe(f"{path}: not read as a UTF-8 text: {error}") from error
            return read_recipe(text, str(path))
        if str(wanted) not in known_recipes():
            raise UnknownName("recipe", str(wanted), known_recipes(), see="`errata methods --recipes`")
        return known_recipes()[str(wanted)]
    names = {decoder.name, Path(decoder.name).name, str(decoder.model.config.name_or_path)}
    listed = (recipe for recipe in known_recipes().values() if names & {recipe.name, *recipe.models})
    return next(listed, None) or proposed(decoder)


def proposed(decoder: Decoder) -> Recipe:
    """Settings for a model without a recipe: five layers from an eighth of the depth on, the usual anchor."""
    count = min(WINDOW_LAYERS, decoder.depth)
    first = min(round(decoder.depth / 8), decoder.depth - count)
    source = {"window": "proposed from depth: five layers from an eighth on", "anchor": "errata's defaults"}
    return Recipe(decoder.name, tuple(range(first, first + count)), source=source, proposed=True)
