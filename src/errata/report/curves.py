"""The page's charts: what is left of the residual, frontiers, and what studies measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from errata.record.tables import Table
from errata.report import frontier
from errata.report.chart import Axis, Line, Point, line_chart
from errata.report.headline import chosen
from errata.report.markup import figure, folded, grid_table, heading, listed, note
from errata.report.material import Material
from errata.report.study import Drawn, Study
from errata.report.summary import Row, between, named_apart, section_title

LEFT = "Residual left at the last layer's target"
OWN = "Residual left at the edited layer's own target"
NORM = "Size of the update"

FAR = 2.0
"""Shares left above this are not drawn: a few facts that had next to no way to go would hide all the others."""

Read = Callable[[Mapping[str, Any], str], float | None]


def left_at_last(step: Mapping[str, Any], last: str) -> float | None:
    """Share of the way to the last layer's target that is left after this step (method 6.2); None before it is set."""
    return (step.get("remaining") or {}).get(last)


def left_at_own(step: Mapping[str, Any], last: str) -> float | None:
    """The same for the target of the layer just edited, if it has one."""
    return (step.get("remaining") or {}).get(str(step["edit"]))


def update_norm(step: Mapping[str, Any], last: str) -> float | None:
    """Frobenius norm of the change of weights."""
    return step.get("update_norm")


PANELS: Sequence[tuple[str, str, Read, float]] = (
    (LEFT, "share left", left_at_last, FAR),
    (OWN, "share left", left_at_own, FAR),
    (NORM, "Frobenius norm", update_norm, math.inf),
)


def by_layer(row: Row, material: Material, read: Read) -> dict[int, list[float]]:
    """Edited layer -> a number per seed, each the mean over batches."""
    found: dict[int, list[float]] = {}
    for trial in material.of(row):
        mine: dict[int, list[float]] = {}
        steps = trial.ledger.get("rows", [])
        last = max((layer for step in steps for layer in step.get("remaining") or {}), key=int, default="")
        for step in steps:
            value = read(step, last)
            if value is not None:
                mine.setdefault(step["edit"], []).append(value)
        for layer, values in mine.items():
            found.setdefault(layer, []).append(fmean(values))
    return dict(sorted(found.items()))


def residual_curves(material: Material) -> str:
    """Per section: a chart per reading of the ledgers, the methods as lines; every setting in a table below."""
    sections = list(frontier.by_section(material.rows()))
    parts = []
    for rows in sections:
        charts = []
        for title, unit, read, cap in PANELS:
            read_off = {row.method: by_layer(row, material, read) for row in chosen(rows)}
            drawn = {name: layers for name, layers in read_off.items() if layers}
            if drawn and any(len(layers) > 1 for layers in drawn.values()):
                charts.append(_layer_chart(drawn, title, unit, cap))
        if charts:
            parts.append(heading(section_title(rows), len(sections) > 1))
            parts.append(f'<div class="figures">{"".join(charts)}</div>')
            parts.append(folded("The numbers, for every setting", _residual_table(rows, material)))
        parts += [note(f"{row.method}: {text}") for row in chosen(rows) for text in _notes(row, material)]
    if not parts:
        return ""
    words = (
        "After editing each layer: the mean over facts of what is left of the distance to its target, as a share of "
        "the distance at first. 0 is arrived, 1 has not moved, above 1 is further away. Bars span the seeds."
    )
    return note(words) + "\n".join(parts)


def frontiers(material: Material) -> str:
    """Per section with a swept setting: scores against D_KL, and the tables of matched scores."""
    parts = []
    for rows in frontier.by_section(material.rows()):
        charts = []
        for score in frontier.COMPARED[:3]:
            drawn = [curve for curve in frontier.curves(rows, score) if curve.points]
            if any(len(curve.points) > 1 for curve in drawn):
                charts.append(figure(_frontier_chart(drawn, rows, score), f"{frontier.title(score)} against drift"))
        if charts:
            grids = frontier.frontiers(rows)
            tables = "".join(heading(title) + grid_table(grid, title) for title, grid in grids.items())
            parts.append(heading(section_title(rows)) + f'<div class="figures">{"".join(charts)}</div>')
            parts.append(folded("Scores at matched drift, areas, and the points", tables))
    if not parts:
        return ""
    words = (
        "A method's one point says little: more pressure buys more generalisation and more drift. Up and to the left "
        "is better. Each point is one setting, its bar the range over seeds (of one seed, its 95\u00a0% interval); in "
        "the shaded stretch most methods can be compared."
    )
    return note(words) + "\n".join(parts)


def studies(found: Sequence[Study]) -> str:
    """Every study with its figures and tables."""
    parts = []
    for study in found:
        charts = "".join(figure(_study_chart(drawn), drawn.title) for drawn in study.figures)
        tables = "".join(heading(title) + grid_table(grid, title) for title, grid in study.tables.items())
        parts.append(heading(study.title) + (note(study.note) if study.note else ""))
        parts.append(f'<div class="figures">{charts}</div>' if charts else "")
        parts.append(folded("Tables", tables) if charts else tables)
    return "\n".join(parts)


def _layer_chart(drawn: Mapping[str, Mapping[int, Sequence[float]]], title: str, unit: str, cap: float) -> str:
    lines, beyond = [], []
    for name, layers in drawn.items():
        points = []
        for layer, values in layers.items():
            mean, low, high = fmean(values), min(values), min(cap, max(values))
            if mean > cap:
                beyond.append(f"{name} is at {mean:,.1f} after layer {layer}")
                continue
            spread = f" ({between(min(values), max(values))})" if len(values) > 1 else ""
            points.append(Point(layer, mean, low, high, f"{name}, layer {layer}: {mean:.3f}{spread}"))
        lines.append(Line(name, points))
    ticks = sorted({layer for layers in drawn.values() for layer in layers})
    told = f"{title}, after editing layers {ticks[0]} to {ticks[-1]}, for {', '.join(drawn)}."
    chart = line_chart(lines, Axis("edited layer", ticks=ticks), Axis(unit, low=0.0), told)
    return figure(chart, title, f"Not drawn: {listed(beyond)}." if beyond else "")


def _residual_table(rows: Sequence[Row], material: Material) -> str:
    found = {named_apart(row, rows): by_layer(row, material, left_at_last) for row in rows}
    layers = sorted({layer for mine in found.values() for layer in mine})
    lines = [
        [name, *(f"{fmean(mine[layer]):.3f}" if layer in mine else "-" for layer in layers)]
        for name, mine in found.items()
        if mine
    ]
    return grid_table(Table.plain(["after layer", *map(str, layers)], lines), LEFT) if lines else ""


def _notes(row: Row, material: Material) -> list[str]:
    return list(dict.fromkeys(text for trial in material.of(row) for text in trial.ledger.get("notes", [])))


def _frontier_chart(drawn: Sequence[frontier.Curve], rows: Sequence[Row], score: str) -> str:
    spreads = {
        (row.scores[frontier.KL].mean, row.scores[score].mean): row
        for row in rows
        if frontier.KL in row.scores and score in row.scores
    }
    name, lines = frontier.title(score), []
    for curve in drawn:
        points = []
        for kl, value in curve.points:
            row = spreads[kl, value]
            tip = f"{named_apart(row, rows)}: {name} {row.scores[score].told('beside')} at D_KL {kl:.3f}"
            points.append(Point(kl, value, row.scores[score].low, row.scores[score].high, tip))
        lines.append(Line(curve.name, points))
    told = f"{name} against D_KL on the neighbourhood for {', '.join(curve.name for curve in drawn)}."
    x = Axis("D_KL on the neighbourhood, nats", "log")
    return line_chart(lines, x, Axis(name, low=0.0), told, frontier.common_range(drawn))


def _study_chart(drawn: Drawn) -> str:
    told = f"{drawn.title}, against {drawn.x.title}: {', '.join(line.name for line in drawn.lines)}."
    return line_chart(drawn.lines, drawn.x, drawn.y, told)
