"""Where everything in a chart stands on the page; templates/chart.svg draws it.

The page's charts are its own and not matplotlib's: they are there without the `figures` extra, take their colours
from the page in light and in dark, are read out by screen readers, name each point under the pointer, and take a tenth
of the room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from errata.record.chart import Axis, Chart, Line, Point

WIDTH, HEIGHT = 430, 280
LEFT, RIGHT, TOP, BOTTOM = 66, 12, 12, 42
COLOURS = 8
"""Number of line colours in page.css; further lines begin again, with another marker."""
DOTS = 60
"""Of lines with more points no single point is marked."""

MARKERS = (
    "M-3.6,0a3.6,3.6 0 1,0 7.2,0a3.6,3.6 0 1,0 -7.2,0",
    "M-3.2,-3.2h6.4v6.4h-6.4z",
    "M0,-4.3L4,3H-4z",
    "M0,-4.6L4.2,0L0,4.6L-4.2,0z",
    "M0,4.3L4,-3H-4z",
    "M-1.4,-4h2.8v2.6h2.6v2.8h-2.6v2.6h-2.8v-2.6h-2.6v-2.8h2.6z",
    "M-4,-4L0,-1.6L4,-4L1.6,0L4,4L0,1.6L-4,4L-1.6,0z",
)


@dataclass(frozen=True)
class Scale:
    """Values to places. `of` leaves room around them and, on a linear axis, starts from round numbers."""

    low: float
    high: float
    start: float
    end: float
    kind: str
    ticks: Sequence[tuple[float, str]]

    @classmethod
    def of(cls, axis: Axis, values: Sequence[float], start: float, end: float) -> Scale:
        low, high = min(values, default=0.0), max(values, default=1.0)
        if axis.scale == "log":
            low, high = (low / 1.15, high * 1.15) if low < high else (low / 2, high * 2)
            return cls(low, high, start, end, "log", _labelled(_decades(low, high)))
        if axis.scale == "symlog":
            return cls(low, high if low < high else low + 1, start, end, "symlog", _labelled(_powers(low, high)))
        if axis.ticks:
            room = (max(axis.ticks) - min(axis.ticks)) * 0.04 or 0.5
            ticks = _labelled(axis.ticks, axis.names)
            return cls(min(axis.ticks) - room, max(axis.ticks) + room, start, end, "linear", ticks)
        low = axis.low if axis.low is not None else low
        step = _round_step(max(high - low, 1e-9 * abs(high)) or 1.0)
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        high = high if high > low else low + step
        count = round((high - low) / step)
        return cls(low, high, start, end, "linear", _labelled([low + i * step for i in range(count + 1)]))

    def __call__(self, value: float) -> float:
        low, high, at = (self._stretched(v) for v in (self.low, self.high, value))
        return round(self.start + (at - low) / (high - low) * (self.end - self.start), 1)

    def _stretched(self, value: float) -> float:
        if self.kind == "log":
            return math.log(value)
        if self.kind == "symlog":
            return math.copysign(math.log1p(abs(value)), value)
        return value


@dataclass(frozen=True)
class Drawn:
    """A line in its place: its points with their places, the spans around them, its path."""

    name: str
    look: str
    marker: str
    path: str
    spans: Sequence[tuple[float, float, float]]
    dots: Sequence[tuple[float, float, str]]


@dataclass(frozen=True)
class Drawing:
    """A chart with everything in its place: x from the left, y from the top."""

    chart: Chart
    across: Sequence[tuple[float, str]]
    up: Sequence[tuple[float, str]]
    lines: Sequence[Drawn]
    band: tuple[float, float] | None
    floor: int = HEIGHT - BOTTOM
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    width: int = WIDTH
    height: int = HEIGHT

    @classmethod
    def of(cls, chart: Chart) -> Drawing:
        points = [point for line in chart.lines for point in line.points]
        ys = [value for p in points for value in (p.y, p.low, p.high) if value is not None]
        x = Scale.of(chart.x, [p.x for p in points], LEFT, WIDTH - RIGHT)
        y = Scale.of(chart.y, ys, HEIGHT - BOTTOM, TOP)
        every = max(1, math.ceil(len(x.ticks) / 12))
        band = None
        if chart.band:
            start, end = sorted(min(WIDTH - RIGHT, max(LEFT, x(value))) for value in chart.band)
            band = start, round(end - start, 1)
        return cls(
            chart,
            [(x(value), text) for value, text in x.ticks[::every]],
            [(y(value), text) for value, text in y.ticks],
            [_drawn(i, line, x, y) for i, line in enumerate(chart.lines)],
            band,
        )


def _drawn(i: int, line: Line, x: Scale, y: Scale) -> Drawn:
    places = [(x(p.x), y(p.y)) for p in line.points]
    path = "M" + "L".join(f"{left},{top}" for left, top in places) if line.joined and len(places) > 1 else ""
    spans = [(x(p.x), y(p.low), y(p.high)) for p in line.points if _spans(p)]  # type: ignore[arg-type]
    dots = [(left, top, p.tip) for (left, top), p in zip(places, line.points, strict=True)]
    look = "reference" if line.reference else f"s{i % COLOURS + 1}"
    return Drawn(line.name, look, MARKERS[i % len(MARKERS)], path, spans, dots if len(dots) <= DOTS else [])


def _spans(point: Point) -> bool:
    return point.low is not None and point.high is not None and point.high > point.low


def _labelled(ticks: Sequence[float], names: Sequence[str] = ()) -> list[tuple[float, str]]:
    return [(tick, names[i] if i < len(names) else _short(tick)) for i, tick in enumerate(ticks)]


def _short(value: float) -> str:
    return f"{value:.10g}" if abs(value) < 1e5 and (abs(value) >= 1e-4 or value == 0) else f"{value:.0e}"


def _round_step(span: float) -> float:
    rough = span / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    return next(unit * k for k in (1, 2, 2.5, 5, 10) if unit * k >= rough * 0.999)


def _decades(low: float, high: float) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    every = max(1, len(exponents) // 8)
    return [k * 10.0**e for e in exponents[::every] for k in steps if low <= k * 10.0**e <= high]


def _powers(low: float, high: float) -> list[float]:
    """0, and powers of ten to both sides of it."""
    most = max(1, math.ceil(math.log10(max(abs(low), abs(high), 1.0))))
    sizes = [10.0**e for e in range(0, most + 1, max(1, most // 4))]
    return [value for value in (*(-size for size in reversed(sizes)), 0.0, *sizes) if low <= value <= high]
