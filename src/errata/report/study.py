"""Study: what `errata study` measured, read leniently: its tables, and curves over layers found in its data."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from errata.record.run import RECORD
from errata.record.tables import Table
from errata.report.chart import Axis, Line, Point

_OUTER = ("methods", "layers", "effects")
"""Keys that only hold what a study is about."""


@dataclass(frozen=True)
class Drawn:
    """A chart to be: lines on two axes."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line]


FIGURES: Mapping[str, Mapping[str, tuple[str, Sequence[str]]]] = {
    "cosines": {"Cosines of true, intended and passive shifts": ("cosine", ("achieved", "intended", "solved"))},
    "steering": {
        "Ends of the spectrum of S": ("eigenvalue", ("lowest", "highest")),
        "Rayleigh quotients of the true shifts": (
            "quotient",
            ("directions.intended.quotient", "directions.achieved.quotient"),
        ),
    },
    "residuals": {
        "Left to the method's own last target": ("share left", ("own.ratios",)),
        "Left to a common target": ("share left", ("common.anchor.ratios",)),
    },
    "contribution": {
        "P(new answer), that layer alone edited": (
            "probability",
            ("spread.probability", "whole.probability", "own.probability"),
        ),
        "Steps that an anchor takes": ("evaluations", ("evaluations", "evaluations_after")),
    },
    "stability": {
        "Shifts to the target between seeds": ("cosine", ("between.optimised.shifts", "between.replayed.shifts")),
        "States between seeds": ("cosine", ("between.optimised.states", "between.replayed.states")),
    },
    "tracing": {
        "One state put back": ("rise of P(answer)", ("state.rise",)),
        "MLP outputs put back": ("rise of P(answer)", ("mlp.rise",)),
        "One state put back, modules behind it severed": ("rise of P(answer)", ("severed.rise",)),
    },
}
"""Study -> chart title -> (unit, which numbers are its lines). Of other studies every number is a chart."""


@dataclass(frozen=True)
class Study:
    what: str
    title: str
    note: str
    figures: Sequence[Drawn]
    tables: Mapping[str, Table]
    command: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Study:
        """From a study's JSON, of which `what`, `title` and `data` have to be there.

            {"kind": "study", "what": "cosines", "title": ..., "note": ...,
             "tables": {title: {"columns": [...], "rows": [[...]], "text_columns": 1}},
             "data": {"methods": {"memit": [{"layer": 3, "achieved": {"mean": 0.3, "error": 0.1}}, ...]}}}

        In `data`, wherever it stands: a list of objects with a `layer` is curves over layers, one per number in them
        (a number, or an object with its `mean` and half-width `error`); `spectrum` is a list of eigenvalues.
        """
        what, data = str(record["what"]), record["data"]
        tables = {
            str(title): Table.plain(
                [*map(_told, grid.get("columns", []))],
                [[*map(_told, row)] for row in grid.get("rows", [])],
                grid.get("text_columns", 1),
            )
            for title, grid in (record.get("tables") or {}).items()
        }
        return cls(
            what=what,
            title=str(record["title"]),
            note=str(record.get("note") or ""),
            figures=[*_over_layers(what, data), *_spectra(data)],
            tables=tables,
            command=str(record.get("command") or ""),
            settings=record.get("settings") or {},
            versions=record.get("versions") or {},
        )


def studies_in(folder: Path) -> list[Study]:
    """Every JSON file in the folder that says it is a study, by its `kind`."""
    found = []
    for path in sorted(folder.glob("*.json")):
        if path.name == RECORD:
            continue
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, Mapping) and record.get("kind") == "study" and {"what", "title", "data"} <= set(record):
            found.append(Study.of(record))
    return found


def _over_layers(what: str, data: Any) -> Iterator[Drawn]:
    """A chart per group of numbers; a line per number and place (method) it stands at."""
    curves: dict[str, dict[str, list[Point]]] = {}
    for group, place, rows in _layered(data):
        for row in rows:
            for key, point in _numbers(row, float(row["layer"])):
                curves.setdefault(f"{group}{key}", {}).setdefault(place, []).append(point)
    groups = FIGURES.get(what) or {key: ("", (key,)) for key in curves}
    for title, (unit, keys) in groups.items():
        single = len({place for key in keys for place in curves.get(key, {})}) == 1
        shared = set.intersection(*(set(key.split(".")) for key in keys))
        lines = []
        for key in keys:
            own = ", ".join(part for part in key.split(".") if part not in shared)
            for place, points in curves.get(key, {}).items():
                name = place if not own else own if single else f"{own}, {place}"
                lines.append(Line(name or key, points))
        layers = sorted({point.x for line in lines for point in line.points})
        if len(layers) > 1:
            name = title.replace("_", " ").replace(".", ", ")
            yield Drawn(name, Axis("layer", ticks=layers), Axis(unit or name), lines)


def _spectra(data: Any) -> Iterator[Drawn]:
    """A spectrum per method and layer, that of the first fact looked at, against the rank from 0 to 1."""
    lines: list[Line] = []
    for place, values in _named(data, "spectrum"):
        if any(line.name.rsplit(", fact")[0] == place.rsplit(", fact")[0] for line in lines):
            continue
        numbers = sorted(v for v in values if _is_number(v)) if isinstance(values, list) else []
        if len(numbers) > 1:
            lines.append(Line(place, [Point(i / (len(numbers) - 1), v) for i, v in enumerate(numbers)]))
    if lines:
        yield Drawn("Eigenvalue spectrum", Axis("rank, smallest to largest", low=0.0), Axis("eigenvalue"), lines)


def _layered(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str, list[Mapping[str, Any]]]]:
    """Lists of rows with a layer: what they are about, the name they stand under, the rows."""
    if isinstance(value, list) and value:
        if all(isinstance(row, Mapping) and _is_number(row.get("layer")) for row in value):
            *groups, place = [name for name in path if name not in _OUTER] or [""]
            yield "".join(f"{name}." for name in groups), place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _layered(inner, (*path, str(key)))


def _numbers(value: Mapping[str, Any], layer: float, path: str = "") -> Iterator[tuple[str, Point]]:
    for key, inner in value.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(inner, Mapping) and _is_number(inner.get("mean")):
            mean, error = inner["mean"], inner.get("error")
            low, high = (mean - error, mean + error) if _is_number(error) and error else (None, None)
            yield name, Point(layer, mean, low, high, f"{name}, layer {layer:g}: {mean:.4g}")
        elif isinstance(inner, Mapping):
            yield from _numbers(inner, layer, name)
        elif _is_number(inner) and key != "layer":
            yield name, Point(layer, inner, tip=f"{name}, layer {layer:g}: {inner:.4g}")


def _named(value: Any, name: str, place: str = "") -> Iterator[tuple[str, Any]]:
    """Values under this name anywhere, with the method, layer and fact they belong to."""
    if isinstance(value, Mapping):
        told = [f"{key} {value[key]}" for key in ("layer", "fact") if _is_number(value.get(key))]
        here = ", ".join(filter(None, [place, *told]))
        for key, inner in value.items():
            if key == name:
                yield here or name, inner
            elif isinstance(inner, Mapping | list):
                passed = isinstance(inner, list) and key == "dense"
                yield from _named(inner, name, here if told or passed or key in _OUTER else str(key))
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner, name, place)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _told(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
