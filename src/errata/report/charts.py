"""Charts of runs: what is left of the residual layer by layer, scores against drift, scores of all methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from errata.record.chart import Axis, Chart, Line, Point
from errata.record.tables import Table, number
from errata.report import frontier
from errata.report.blocks import Block, Figures, Heading, Note, SortedTable, folded, listed
from errata.report.headline import ON_CARDS, chosen
from errata.report.material import Material
from errata.report.summary import Summary, between, named_apart, section_title

LEFT = "Residual left at the last layer's target"
OWN = "Residual left at the edited layer's own target"
NORM = "Size of the update"
RESIDUALS = (
    "After editing each layer: the mean over facts of what is left of the distance to its target, as a share of the "
    "distance at first. 0 is arrived, 1 has not moved, above 1 is further away. Bars span the seeds."
)
FRONTIERS = (
    "A method's one point says little: more pressure buys more generalisation and more drift. Up and to the left is "
    "better. Each point is one setting, its bar the range over seeds (of one seed, its 95\u00a0% interval); in the "
    "shaded stretch most methods can be compared."
)

FAR = 2.0
"""Shares left above this are not drawn: a few facts that had next to no way to go would hide all the others."""

Read = Callable[[Mapping[str, Any], int], float | None]
Drawn = tuple[Chart, str]
"""A chart, and a note of what it leaves out."""


def left_at_last(step: Mapping[str, Any], last: int) -> float | None:
    """Share of the way to the last layer's target that is left after this step (method 6.2); None before it is set."""
    return (step.get("remaining") or {}).get(last)


def left_at_own(step: Mapping[str, Any], last: int) -> float | None:
    """The same for the target of the layer just edited, if it has one."""
    return (step.get("remaining") or {}).get(step["edit"])


def update_norm(step: Mapping[str, Any], last: int) -> float | None:
    """Frobenius norm of the change of weights."""
    return step.get("update_norm")


PANELS: Sequence[tuple[str, str, Read, float]] = (
    (LEFT, "share left", left_at_last, FAR),
    (OWN, "share left", left_at_own, FAR),
    (NORM, "Frobenius norm", update_norm, math.inf),
)


def by_layer(row: Summary, material: Material, read: Read) -> dict[int, list[float]]:
    """Edited layer -> a number per seed, each the mean over batches."""
    values: dict[int, list[float]] = {}
    for state in material.of(row):
        mine: dict[int, list[float]] = {}
        steps = state.ledger.get("rows", [])
        last = max((layer for step in steps for layer in step.get("remaining") or {}), default=-1)
        for step in steps:
            value = read(step, last)
            if value is not None:
                mine.setdefault(step["edit"], []).append(value)
        for layer, of_batches in mine.items():
            values.setdefault(layer, []).append(fmean(of_batches))
    return dict(sorted(values.items()))


def residual_charts(rows: Sequence[Summary], material: Material) -> list[Drawn]:
    """A chart per reading of the ledgers, the methods as lines; none of methods that edit one layer."""
    charts = []
    for title, unit, read, cap in PANELS:
        by_method = {row.method: by_layer(row, material, read) for row in chosen(rows)}
        by_method = {name: layers for name, layers in by_method.items() if layers}
        if any(len(layers) > 1 for layers in by_method.values()):
            charts.append(_layer_chart(by_method, title, unit, cap))
    return charts


def frontier_charts(rows: Sequence[Summary]) -> list[Drawn]:
    """Scores against D_KL, a line per method along its swept setting; none if nothing was swept."""
    charts = []
    for score in frontier.COMPARED[:3]:
        curves = [curve for curve in frontier.curves(rows, score) if curve.points]
        if any(len(curve.points) > 1 for curve in curves):
            charts.append((_frontier_chart(curves, rows, score), ""))
    return charts


def score_chart(rows: Sequence[Summary]) -> Chart:
    """Every share of every method with its interval, methods next to each other."""
    methods = chosen(rows)
    keys = [(key, label) for key, label in ON_CARDS if any(key in row.scores for row in methods)]
    lines = []
    for i, row in enumerate(methods):
        shift = (i - (len(methods) - 1) / 2) * min(0.16, 0.7 / len(methods))
        scores = [(place + shift, row.scores[key]) for place, (key, _) in enumerate(keys) if key in row.scores]
        points = [Point(x, score.mean, score.low, score.high) for x, score in scores]
        lines.append(Line(named_apart(row, rows), points, joined=False))
    names = tuple(label for _, label in keys)
    return Chart(section_title(rows), Axis("score", ticks=range(len(keys)), names=names), Axis("share", low=0.0), lines)


def residual_blocks(material: Material) -> list[Block]:
    """Per section its charts; below them every setting in a table, and what the ledgers note."""
    sections = list(frontier.by_section(material.rows()))
    blocks: list[Block] = []
    for rows in sections:
        if charts := residual_charts(rows, material):
            blocks += [Heading(section_title(rows))] if len(sections) > 1 else []
            blocks += [Figures(charts)]
            blocks += folded("The numbers, for every setting", [SortedTable.of(_residual_table(rows, material), LEFT)])
        blocks += [Note(f"{row.method}: {text}") for row in chosen(rows) for text in _notes(row, material)]
    return [Note(RESIDUALS), *blocks] if blocks else []


def frontier_blocks(rows: Sequence[Summary]) -> list[Block]:
    """Per section with a swept setting: scores against D_KL, and the tables of matched scores."""
    blocks: list[Block] = []
    for mine in frontier.by_section(rows):
        if charts := frontier_charts(mine):
            tables = frontier.frontiers(mine).items()
            inner = [block for title, table in tables for block in (Heading(title), SortedTable.of(table, title))]
            blocks += [Heading(section_title(mine)), Figures(charts)]
            blocks += folded("Scores at matched drift, areas, and the points", inner)
    return [Note(FRONTIERS), *blocks] if blocks else []


def _layer_chart(by_method: Mapping[str, Mapping[int, Sequence[float]]], title: str, unit: str, cap: float) -> Drawn:
    lines, beyond = [], []
    for name, layers in by_method.items():
        points = []
        for layer, values in layers.items():
            mean = fmean(values)
            if mean > cap:
                beyond.append(f"{name} is at {mean:,.1f} after layer {layer}")
                continue
            spread = f" ({between(min(values), max(values))})" if len(values) > 1 else ""
            tip = f"{name}, layer {layer}: {mean:.3f}{spread}"
            points.append(Point(layer, mean, min(values), min(cap, max(values)), tip))
        lines.append(Line(name, points))
    ticks = sorted({layer for mine in by_method.values() for layer in mine})
    chart = Chart(title, Axis.of_layers("edited layer", ticks), Axis(unit, low=0.0), lines)
    return chart, f"Not drawn: {listed(beyond)}." if beyond else ""


def _residual_table(rows: Sequence[Summary], material: Material) -> Table:
    left = {named_apart(row, rows): by_layer(row, material, left_at_last) for row in rows}
    layers = sorted({layer for mine in left.values() for layer in mine})
    lines = [
        [name, *(number(fmean(mine[layer]) if layer in mine else None, ".3f") for layer in layers)]
        for name, mine in left.items()
        if mine
    ]
    return Table.plain(["after layer", *map(str, layers)], lines)


def _notes(row: Summary, material: Material) -> list[str]:
    return list(dict.fromkeys(text for state in material.of(row) for text in state.ledger.get("notes", [])))


def _frontier_chart(curves: Sequence[frontier.Curve], rows: Sequence[Summary], score: str) -> Chart:
    summaries = {
        (row.scores[frontier.KL].mean, row.scores[score].mean): row
        for row in rows
        if frontier.KL in row.scores and score in row.scores
    }
    name, lines = frontier.title(score), []
    for curve in curves:
        points = []
        for kl, value in curve.points:
            row = summaries[kl, value]
            tip = f"{named_apart(row, rows)}: {name} {row.scores[score].text('beside')} at D_KL {kl:.3f}"
            points.append(Point(kl, value, row.scores[score].low, row.scores[score].high, tip))
        lines.append(Line(curve.name, points))
    x = Axis("D_KL on the neighbourhood, nats", "log")
    return Chart(f"{name} against drift", x, Axis(name, low=0.0), lines, frontier.common_range(curves))
