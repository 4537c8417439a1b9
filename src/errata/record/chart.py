"""Chart: lines on two axes, as a record holds them. A report draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from errata.record.reading import Finite


@dataclass(frozen=True)
class Point:
    """`low` and `high` are the ends of a spread around y; `tip` is shown under the pointer."""

    x: Finite
    y: Finite
    low: Finite | None = None
    high: Finite | None = None
    tip: str = ""


@dataclass(frozen=True)
class Line:
    """Points from left to right, joined unless `joined` is false. `reference`: of another source, drawn in grey."""

    name: str
    points: Sequence[Point]
    joined: bool = True
    reference: bool = False


@dataclass(frozen=True)
class Axis:
    """What is measured and how it is laid out.

    `scale`: `symlog` is linear between -1 and 1 and logarithmic beyond. `ticks`: places to mark instead of round
    numbers, such as layers; `names`: what to write at each of them. `low`: where a linear axis begins.
    """

    title: str
    scale: Literal["linear", "log", "symlog"] = "linear"
    ticks: Sequence[Finite] = ()
    names: Sequence[str] = ()
    low: Finite | None = None

    @classmethod
    def of_layers(cls, title: str, layers: Sequence[int]) -> Axis:
        return cls(title, ticks=tuple(float(layer) for layer in layers))


@dataclass(frozen=True)
class Chart:
    """`band`: a stretch of x to be shaded. Raises ValueError where a logarithmic axis has a value of 0 or below."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    band: tuple[Finite, Finite] | None = None

    def __post_init__(self) -> None:
        points = [point for line in self.lines for point in line.points]
        ys = [value for p in points for value in (p.y, p.low, p.high) if value is not None]
        for axis, values in ((self.x, [*(p.x for p in points), *(self.band or ())]), (self.y, ys)):
            if axis.scale == "log" and min(values, default=1.0) <= 0:
                raise ValueError(f"{axis.title}: a logarithmic axis has no place for {min(values)}")

    @property
    def description(self) -> str:
        """The chart in a sentence, for readers who cannot see it."""
        lines = ", ".join(line.name for line in self.lines)
        return f"{self.title}. Across: {self.x.title}. Up: {self.y.title}. Lines: {lines}."
