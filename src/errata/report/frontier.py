"""Frontiers: methods compared along a swept setting, score against specificity D_KL, where their curves overlap."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from errata.record.cell import UNEDITED
from errata.record.tables import SCORE_COLUMNS, Table
from errata.report.summary import Summary, between, section_title, varied

KL = "specificity_kl"
COMPARED = ("generalisation_accuracy", "generalisation_success", "novel_accuracy", "efficacy_accuracy")
LEVELS = 5
_SLACK = 1e-9

NOTE = """\
Each curve is one method; its points are the values of one swept setting, means over seeds. Between points the \
score is interpolated linearly in log10 D_KL; outside its points a curve says nothing ('-').
Common range: the stretch of D_KL that most curves cover (of several such, the widest in log10). Levels divide it \
evenly in log10; in brackets, the lowest and highest of the same interpolation seed by seed, where all cover it.
Area: the integral over log10 D_KL, on the common range, of the best score reached at or below that D_KL; \
mean: the area over the range's width, a score. Both need a curve that covers the whole range."""


@dataclass(frozen=True)
class Curve:
    """Points (D_KL, score), ascending in D_KL > 0; of equal D_KL the better. `seeds`: the same, seed by seed."""

    name: str
    points: tuple[tuple[float, float], ...]
    seeds: tuple[Curve, ...] = field(default=())

    @classmethod
    def of(cls, name: str, points: Sequence[tuple[float, float]], seeds: Sequence[Curve] = ()) -> Curve:
        best: dict[float, float] = {}
        for kl, score in points:
            if kl > 0:
                best[kl] = max(score, best.get(kl, -math.inf))
        return cls(name, tuple(sorted(best.items())), tuple(seeds))

    def covers(self, kl: float) -> bool:
        if not self.points:
            return False
        return self.points[0][0] * (1 - _SLACK) <= kl <= self.points[-1][0] * (1 + _SLACK)

    def at(self, kl: float) -> float | None:
        """The score at a D_KL, linear in log10 D_KL between points; None outside them."""
        if not self.covers(kl):
            return None
        if kl <= self.points[0][0]:
            return self.points[0][1]
        for (kl0, score0), (kl1, score1) in pairwise(self.points):
            if kl <= kl1:
                return score0 + (score1 - score0) * math.log10(kl / kl0) / math.log10(kl1 / kl0)
        return self.points[-1][1]

    def area(self, low: float, high: float) -> float | None:
        """Integral over log10 D_KL from low to high of the best score reached at or below it; None if not covered.

        The curve between its points counts as reached, and so do points below `low`.
        """
        first, last = self.at(low), self.at(high)
        if first is None or last is None:
            return None
        best = max([first, *(score for kl, score in self.points if kl <= low)])
        inner = [(kl, score) for kl, score in self.points if low < kl < high]
        way = [(math.log10(kl), score) for kl, score in [(low, first), *inner, (high, last)]]
        total = 0.0
        for (x0, y0), (x1, y1) in pairwise(way):
            if y1 <= best:
                total += best * (x1 - x0)
                continue
            rises = x0 + (best - y0) / (y1 - y0) * (x1 - x0)  # y0 <= best: flat up to here
            total += best * (rises - x0) + (best + y1) / 2 * (x1 - rises)
            best = y1
        return total


def common_range(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """The stretch of D_KL that most curves cover, the widest of several; None if no two curves overlap."""
    spans = [(curve.points[0][0], curve.points[-1][0]) for curve in curves if len(curve.points) > 1]
    stretches = [
        (sum(first <= low and high <= last for first, last in spans), math.log10(high / low), low, high)
        for low, _ in spans
        for _, high in spans
        if low < high
    ]
    most, _, low, high = max(stretches, default=(0, 0.0, 0.0, 0.0))
    return (low, high) if most > 1 else None


def levels(low: float, high: float, count: int = LEVELS) -> list[float]:
    """D_KL from low to high, evenly in log10, both ends included."""
    return [low * (high / low) ** (i / (count - 1)) for i in range(count)]


def curves(rows: Sequence[Summary], score: str) -> list[Curve]:
    """A curve per method along its first swept setting; a further swept setting makes further curves."""
    groups: dict[str, list[Summary]] = {}
    for row in rows:
        if row.method != UNEDITED and score in row.scores and KL in row.scores:
            groups.setdefault(_curve_name(row, rows), []).append(row)
    return [_curve(name, mine, score) for name, mine in groups.items()]


def along(method: str, rows: Sequence[Summary]) -> str | None:
    """The setting a method's curve runs along: the first swept one it has."""
    return next(iter(varied([row for row in rows if row.method == method])), None)


def frontiers(rows: Sequence[Summary], scores: Sequence[str] = COMPARED) -> dict[str, Table]:
    """Matched scores per section and compared score, then the points themselves; empty if nothing was swept."""
    found: dict[str, Table] = {}
    for mine in by_section(rows):
        where = section_title(mine)
        for score in scores:
            drawn = curves(mine, score)
            if any(len(curve.points) > 1 for curve in drawn):
                found[f"{where}: {title(score)} at matched D_KL"] = matched(drawn)
        if any(along(row.method, mine) for row in mine):
            found[f"{where}: points"] = points(mine)
    return found


def by_section(rows: Sequence[Summary]) -> Iterator[list[Summary]]:
    for section in dict.fromkeys(row.section for row in rows):
        yield [row for row in rows if row.section == section]


def matched(drawn: Sequence[Curve]) -> Table:
    """Row per curve: its score at each level of the common range, then area and mean; best of each column marked."""
    shared = common_range(drawn)
    if shared is None:
        return Table.plain(["", "no two curves overlap"], [[curve.name, "-"] for curve in drawn])
    low, high = shared
    asked, width = levels(low, high), math.log10(high / low)
    numbers = []
    for curve in drawn:
        area = curve.area(low, high)
        numbers.append([*map(curve.at, asked), area, None if area is None else area / width])
    columns = [[n for n in column if n is not None] for column in zip(*numbers, strict=True)]
    tops = [max(column, default=math.nan) if len(set(column)) > 1 else math.nan for column in columns]
    texts, best = [], []
    for curve, mine in zip(drawn, numbers, strict=True):
        spreads = [*(_between(curve, kl) for kl in asked), "", ""]
        cells = ["-" if n is None else f"{n:.3f}{s}" for n, s in zip(mine, spreads, strict=True)]
        texts.append([curve.name, *cells])
        best.append([False, *(n == top for n, top in zip(mine, tops, strict=True))])
    return Table(["", *(f"D_KL {kl:.3g}" for kl in asked), "area", "mean"], texts, best)


def points(rows: Sequence[Summary]) -> Table:
    """The curves' points, in the order they lie along D_KL."""
    names = [name for name in COMPARED if any(name in row.scores for row in rows)]
    lines = []
    for method in dict.fromkeys(row.method for row in rows if row.method != UNEDITED and KL in row.scores):
        mine = [row for row in rows if row.method == method and KL in row.scores]
        for row in sorted(mine, key=lambda r: (_curve_name(r, rows), r.scores[KL].mean)):
            scores = [row.scores[name].text("beside") if name in row.scores else "-" for name in names]
            lines.append([row.named(varied(mine)), str(len(row.seeds)), row.scores[KL].text("beside"), *scores])
    return Table.plain(["", "seeds", "D_KL", *map(title, names)], lines)


def title(score: str) -> str:
    return next((name for key, name, _ in SCORE_COLUMNS if key == score), score)


def _curve(name: str, rows: Sequence[Summary], score: str) -> Curve:
    by_seed: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        for seed, cell in row.by_seed.items():
            by_seed.setdefault(seed, []).append((cell.scores[KL].value, cell.scores[score].value))
    seeds = [Curve.of(f"{name}, seed {seed}", found) for seed, found in by_seed.items()]
    return Curve.of(name, [(row.scores[KL].mean, row.scores[score].mean) for row in rows], seeds)


def _curve_name(row: Summary, rows: Sequence[Summary]) -> str:
    mine = [other for other in rows if other.method == row.method]
    others = varied(mine)[1:]
    return row.named(others)


def _between(curve: Curve, kl: float) -> str:
    found = [score for score in (seed.at(kl) for seed in curve.seeds) if score is not None]
    return f" ({between(min(found), max(found))})" if 1 < len(found) == len(curve.seeds) else ""


def record(rows: Sequence[Summary]) -> list[dict[str, Any]]:
    """Every curve as plain numbers, for a figure made elsewhere."""
    return [
        {
            "section": list(mine[0].section),
            "score": score,
            "curve": curve.name,
            "points": [list(p) for p in curve.points],
        }
        for mine in by_section(rows)
        for score in COMPARED
        for curve in curves(mine, score)
    ]
