"""Settings by dotted path: which ones there are for a method, and a recipe with some of them replaced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from errata.editors.schedule import Schedule
from errata.errors import SHOWN, UnknownName, in_words
from errata.method import Method
from errata.recipe import BadRecipe, Recipe, StatisticsSettings, parse_window
from errata.targets.anchor import AnchorSettings

Value = int | float | bool | str | None
"""What a path can be set to; a window is text, `3-7` or `1,3,5`."""

Settings = Mapping[str, Value]
T = TypeVar("T")

_SHARED = (
    *(f"anchor.{f.name}" for f in fields(AnchorSettings)),
    *(f"statistics.{f.name}" for f in fields(StatisticsSettings)),
    *(f"schedule.{f.name}" for f in fields(Schedule)),
    "share",
    "window",
    "context_seed",
)
_ALWAYS = ("schedule.batch", "context_seed")


def paths_of(row: Method) -> set[str]:
    """Every path that means something to a method: the shared ones, and its own; without anchors, none of theirs."""
    shared = [path for path in _SHARED if "statistics" in row.needs or path in _ALWAYS]
    return {*shared, *row.settings()}


def check_paths(paths: Iterable[str], methods: Iterable[Method]) -> None:
    """Raises UnknownName, with the nearest paths, for one that means nothing to any of the methods."""
    known = {path for row in methods for path in paths_of(row)}
    for path in paths:
        if path not in known:
            raise UnknownName("setting", path, known)


def with_settings(recipe: Recipe, settings: Settings) -> Recipe:
    """The recipe with the values at those paths replaced. Raises BadRecipe or WindowOutside for a bad value."""
    row = recipe.to_json()
    for path, value in settings.items():
        *rooms, name = path.split(".")
        if rooms[:1] == ["schedule"]:
            continue
        place = row
        for room in rooms:
            place = place.setdefault(room, {})
        place[name] = parse_window(str(value)) if _is_layers(path) else value
        row["source"][path] = "given to the bench"
    return _checked(Recipe, row, "")


def schedule_of(settings: Settings) -> Schedule:
    """In which portions facts are edited: `schedule.batch` and its kin. Raises BadRecipe for a bad value."""
    row = {path.removeprefix("schedule."): v for path, v in settings.items() if path.startswith("schedule.")}
    if isinstance(batch := row.get("batch"), int) and batch < 1:
        raise BadRecipe(f"schedule.batch: expected a whole number from 1 on, or null, found {batch}")
    return _checked(Schedule, row, "schedule")


def _checked(kind: type[T], row: Mapping[str, object], where: str) -> T:
    try:
        return TypeAdapter(kind).validate_python(row)
    except ValidationError as error:
        raise BadRecipe("\n  ".join(in_words(problem, where) for problem in error.errors()[:SHOWN])) from None


def check_values(settings: Settings, row: Method) -> None:
    """Raises BadRecipe or SolveError if a value is of the wrong kind or out of range; needs no model."""
    schedule_of(settings)
    recipe = with_settings(Recipe("any", (0,)), settings)
    row.pipeline(recipe, depth=1)


def parse_values(path: str, text: str) -> tuple[Value, ...]:
    """`100,300,1000`, or with `|` between values that hold commas: `3-7|1,3,5`."""
    parts = text.split("|") if "|" in text or _is_layers(path) else text.split(",")
    return tuple(part.strip() if _is_layers(path) else parse_value(part.strip()) for part in parts)


def parse_value(text: str) -> Value:
    """Text as a number, true, false or null if it reads as one."""
    known: dict[str, Value] = {"true": True, "false": False, "null": None, "none": None}
    if text.lower() in known:
        return known[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _is_layers(path: str) -> bool:
    return path == "window" or path.endswith(".layers")
