"""Recipe: one model's numbers, each with its source. The only reader of recipe files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from errata.decoder.decoder import Decoder
from errata.errors import BadRecipe, UnknownName, WindowOutside
from errata.targets.anchor import AnchorSettings

_STRICT = ConfigDict(extra="forbid")
WINDOW_LAYERS = 5


@checked(frozen=True, config=_STRICT)
class StatisticsSettings:
    """Which text the key statistics come from, and how much of it; None: errata's defaults (method 1.6)."""

    corpus: str | None = None
    tokens: int | None = None
    max_length: int | None = None


@checked(frozen=True, config=_STRICT)
class Recipe:
    """Numbers that follow from the model: window, anchor settings, and settings by solver's or other editor's name."""

    name: str
    window: Annotated[tuple[int, ...], Field(min_length=1)]
    models: tuple[str, ...] = ()
    anchor: AnchorSettings = field(default_factory=AnchorSettings)
    solvers: dict[str, dict[str, float | str]] = field(default_factory=dict)
    editors: dict[str, dict[str, Any]] = field(default_factory=dict)
    statistics: StatisticsSettings = field(default_factory=StatisticsSettings)
    context_seed: int = 0
    source: dict[str, str] = field(default_factory=dict)
    proposed: bool = False

    def with_window(self, window: tuple[int, ...]) -> Recipe:
        """The same numbers over other layers."""
        return replace(self, window=window, source=self.source | {"window": "given"})

    def with_solver(self, solver: str, **settings: float | str) -> Recipe:
        """The same numbers with some settings of one solver replaced."""
        merged = {**self.solvers, solver: {**self.solvers.get(solver, {}), **settings}}
        return replace(self, solvers=merged, source=self.source | {f"solvers.{solver}": "given"})

    def to_json(self) -> dict[str, Any]:
        """All settings as JSON types."""
        found: dict[str, Any] = TypeAdapter(Recipe).dump_python(self, mode="json")
        return found


def parse_window(text: str) -> tuple[int, ...]:
    """`3-7` or `1,3,5` as layers. Raises WindowOutside."""
    try:
        if "-" in text:
            first, last = (int(part) for part in text.split("-"))
            return tuple(range(first, last + 1))
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise WindowOutside(f"window {text!r}: write a range such as 3-7 or layers such as 1,3,5") from None


def read_recipe(text: str, where: str) -> Recipe:
    """A recipe from YAML. Raises BadRecipe naming each unknown key (with the nearest known one) or bad value.

    Numbers written as `5e-1`, which YAML reads as text, are numbers (method 5.25).
    """
    try:
        row = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadRecipe(f"{where}: not valid YAML: {error}") from error
    if not isinstance(row, Mapping):
        raise BadRecipe(f"{where}: expected keys and values, found {type(row).__name__}")
    try:
        return TypeAdapter(Recipe).validate_python(dict(row))
    except ValidationError as error:
        raise BadRecipe(f"{where}: " + "; ".join(_told(problem) for problem in error.errors())) from None


def _told(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        owner = {"anchor": AnchorSettings, "statistics": StatisticsSettings}.get(str(problem["loc"][0]), Recipe)
        known = [f.name for f in fields(owner)]
        return str(UnknownName("recipe key", str(problem["loc"][-1]), known))
    return f"{place}: {problem['msg']}, found {problem['input']!r}"


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
            return read_recipe(path.read_text(encoding="utf-8"), str(path))
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
