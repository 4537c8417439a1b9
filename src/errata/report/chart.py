"""Line charts as SVG that takes its colours from the page: readable in light, in dark and on a phone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

WIDTH, HEIGHT = 430, 280
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 42
COLOURS = 8
"""Number of line colours in page.css; further lines begin again, with another marker."""

_MARKERS = (
    "M-3.6,0a3.6,3.6 0 1,0 7.2,0a3.6,3.6 0 1,0 -7.2,0",
    "M-3.2,-3.2h6.4v6.4h-6.4z",
    "M0,-4.3L4,3H-4z",
    "M0,-4.6L4.2,0L0,4.6L-4.2,0z",
    "M0,4.3L4,-3H-4z",
    "M-1.4,-4h2.8v2.6h2.6v2.8h-2.6v2.6h-2.8v-2.6h-2.6v-2.8h2.6z",
    "M-4,-4L0,-1.6L4,-4L1.6,0L4,4L0,1.6L-4,4L-1.6,0z",
)


@dataclass(frozen=True)
class Point:
    """`low` and `high` are drawn as a bar where given; `tip` is told under the pointer."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    tip: str = ""


@dataclass(frozen=True)
class Line:
    name: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Axis:
    """Where values lie. `ticks`: those to draw instead of round numbers, such as layers."""

    title: str
    scale: Literal["linear", "log"] = "linear"
    ticks: Sequence[float] = ()
    low: float | None = None


def line_chart(lines: Sequence[Line], x: Axis, y: Axis, told: str, band: tuple[float, float] | None = None) -> str:
    """An svg element with the lines, and a list that names them. `told`: the chart in a sentence, for who cannot see
    it. `band`: a stretch of x to be shaded.
    """
    xs = [p.x for line in lines for p in line.points]
    ys = [v for line in lines for p in line.points for v in (p.y, p.low, p.high) if v is not None]
    across, up = _Scale.of(x, xs, LEFT, WIDTH - RIGHT), _Scale.of(y, ys, HEIGHT - BOTTOM, TOP)
    parts = [_band(across, band) if band else "", _frame(across, up, x, y)]
    drawn = "".join(_drawn(i, line, across, up) for i, line in enumerate(lines))
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(told)}" '
        f'preserveAspectRatio="xMidYMid meet">{"".join(parts)}{drawn}</svg>'
    )
    return f'<div class="chart">{svg}{legend([line.name for line in lines])}</div>'


def legend(names: Sequence[str]) -> str:
    """The lines' names beside their markers."""
    keys = "".join(
        f'<li class="{series(i)}"><svg viewBox="-6 -6 12 12" aria-hidden="true"><path d="{_marker(i)}"/></svg>'
        f"{escape(name)}</li>"
        for i, name in enumerate(names)
    )
    return f'<ul class="legend">{keys}</ul>'


def series(i: int) -> str:
    """The class that gives a line its colour."""
    return f"s{i % COLOURS + 1}"


@dataclass(frozen=True)
class _Scale:
    """Values to places. `of` leaves room around them and, on a linear axis, starts from round numbers."""

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: Sequence[float]

    @classmethod
    def of(cls, axis: Axis, values: Sequence[float], start: float, end: float) -> _Scale:
        low, high = min(values, default=0.0), max(values, default=1.0)
        if axis.scale == "log":
            low, high = (low / 1.15, high * 1.15) if low < high else (low / 2, high * 2)
            return cls(low, high, start, end, True, _decades(low, high))
        low = axis.low if axis.low is not None else low
        if axis.ticks:
            room = (max(axis.ticks) - min(axis.ticks)) * 0.04 or 0.5
            return cls(min(axis.ticks) - room, max(axis.ticks) + room, start, end, False, axis.ticks)
        step = _round_step((high - low) or 1.0)
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        high = high if high > low else low + step
        count = round((high - low) / step)
        return cls(low, high, start, end, False, [low + i * step for i in range(count + 1)])

    def __call__(self, value: float) -> float:
        if self.log:
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return round(self.start + part * (self.end - self.start), 1)


def _round_step(span: float) -> float:
    rough = span / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    return next(unit * k for k in (1, 2, 2.5, 5, 10) if unit * k >= rough * 0.999)


def _decades(low: float, high: float) -> list[float]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    return [k * 10.0**e for e in exponents for k in steps if low <= k * 10.0**e <= high]


def _frame(across: _Scale, up: _Scale, x: Axis, y: Axis) -> str:
    floor, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in up.ticks:
        at = up(value)
        parts.append(f'<path class="grid" d="M{LEFT},{at}H{right}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 7}" y="{at + 4}" text-anchor="end">{_told(value)}</text>')
    every = max(1, math.ceil(len(across.ticks) / 12))
    for value in across.ticks[::every]:
        at = across(value)
        parts.append(f'<path class="mark" d="M{at},{floor}v4"/>')
        parts.append(f'<text class="tick" x="{at}" y="{floor + 17}" text-anchor="middle">{_told(value)}</text>')
    parts.append(f'<path class="axis" d="M{LEFT},{floor}H{right}"/>')
    middle = (LEFT + right) / 2
    parts.append(f'<text class="name" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{_lowered(x.title)}</text>')
    turned = f'transform="translate(10,{(TOP + floor) / 2}) rotate(-90)"'
    parts.append(f'<text class="name" {turned} text-anchor="middle">{_lowered(y.title)}</text>')
    return "".join(parts)


def _lowered(title: str) -> str:
    return escape(title).replace("D_KL", 'D<tspan dy="3" font-size="9">KL</tspan><tspan dy="-3">\u200b</tspan>')


def _band(across: _Scale, band: tuple[float, float]) -> str:
    start, end = across(band[0]), across(band[1])
    size = f'width="{max(0.0, end - start):.1f}" height="{HEIGHT - BOTTOM - TOP}"'
    return f'<rect class="band" x="{start}" y="{TOP}" {size}/>'


def _drawn(i: int, line: Line, across: _Scale, up: _Scale) -> str:
    at = [(across(p.x), up(p.y)) for p in line.points]
    parts = []
    for (left, _), p in zip(at, line.points, strict=True):
        if p.low is not None and p.high is not None and p.high > p.low:
            parts.append(f'<path class="span" d="M{left},{up(p.low)}V{up(p.high)}"/>')
    if len(at) > 1:
        parts.append('<path class="line" d="M' + "L".join(f"{left},{top}" for left, top in at) + '"/>')
    if len(at) <= 60:
        for (left, top), p in zip(at, line.points, strict=True):
            tip = f"<title>{escape(p.tip)}</title>" if p.tip else ""
            parts.append(f'<path class="dot" transform="translate({left},{top})" d="{_marker(i)}">{tip}</path>')
    return f'<g class="series {series(i)}"><title>{escape(line.name)}</title>{"".join(parts)}</g>'


def _marker(i: int) -> str:
    return _MARKERS[i % len(_MARKERS)]


def _told(value: float) -> str:
    return f"{value:.10g}" if abs(value) < 1e5 and (abs(value) >= 1e-3 or value == 0) else f"{value:.0e}"
