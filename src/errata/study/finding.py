"""Finding: what a study came to. Numbers fact by fact, tables and charts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from math import isfinite, sqrt
from statistics import fmean, median, stdev
from typing import Any, ClassVar

from torch import Tensor

from errata.record.chart import Chart, Line, Point
from errata.record.tables import Table

EPSILON = 1e-10


@dataclass(frozen=True)
class PerFact:
    """One number per fact, in the facts' order; None where the fact has none."""

    values: tuple[float | None, ...]

    @classmethod
    def of(cls, values: Tensor, where: Tensor | None = None) -> PerFact:
        """From [fact]; None where `where` is false or the value is not finite."""
        keep = [True] * len(values) if where is None else where.tolist()
        pairs = zip(values.double().tolist(), keep, strict=True)
        return cls(tuple(value if kept and isfinite(value) else None for value, kept in pairs))

    @property
    def known(self) -> list[float]:
        return [value for value in self.values if value is not None]

    @property
    def mean(self) -> float:
        return fmean(self.known) if self.known else float("nan")

    @property
    def median(self) -> float:
        return median(self.known) if self.known else float("nan")

    @property
    def error(self) -> float:
        """Half the 95 % interval of the mean over facts: 1.96 s / sqrt(n)."""
        return 1.96 * stdev(self.known) / sqrt(len(self.known)) if len(self.known) > 1 else 0.0

    def quantile(self, share: float) -> float:
        """The value below which this share of the facts lies."""
        ordered = sorted(self.known)
        return ordered[round(share * (len(ordered) - 1))] if ordered else float("nan")

    def share(self, above: float = 0.0) -> float:
        """Share of facts whose value is above a bound."""
        return fmean(value > above for value in self.known) if self.known else float("nan")

    def text(self, digits: int = 2) -> str:
        return "-" if not self.known else f"{self.mean:z.{digits}f}"


class Finding(ABC):
    """What a study returns: data, tables, charts. Subclasses are frozen dataclasses of plain numbers."""

    name: ClassVar[str]
    title: ClassVar[str]

    @property
    @abstractmethod
    def note(self) -> str:
        """How the numbers were made, and how to read them."""

    @abstractmethod
    def tables(self) -> dict[str, Table]:
        """Titled tables, the main one first."""

    @abstractmethod
    def charts(self) -> list[Chart]:
        """What there is to see, the main chart first."""

    def to_json(self) -> dict[str, Any]:
        """Everything, in JSON types; NaN is None."""
        found: dict[str, Any] = plain(self)
        return found


def plain(value: Any) -> Any:
    """A value of dataclasses, mappings, sequences and numbers in JSON types."""
    if isinstance(value, PerFact):
        summary = {"mean": value.mean, "median": value.median, "error": value.error}
        return {**{k: plain(v) for k, v in summary.items()}, "values": list(value.values)}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def line(name: str, values: Iterable[tuple[int, PerFact]], spread: bool = False) -> Line:
    """Means over facts, layer by layer; with `spread` the stretch in which 10 to 90 % of the facts lie."""
    points = []
    for layer, of_facts in values:
        if of_facts.known:
            low, high = (of_facts.quantile(0.1), of_facts.quantile(0.9)) if spread else (None, None)
            points.append(Point(layer, of_facts.mean, low, high, f"{name}, layer {layer}: {of_facts.mean:.3g}"))
    return Line(name, points)


def reference(name: str, layers: Sequence[int], values: Sequence[float | None]) -> Line:
    """Numbers of another source, such as the paper's, over the same layers."""
    pairs = [(layer, value) for layer, value in zip(layers, values, strict=True) if value is not None]
    return Line(name, [Point(layer, value, tip=f"{name}: {value:.3g}") for layer, value in pairs], reference=True)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """cos(a_j, b_j) for each fact j, from [fact, model]; epsilon 1e-10 on the denominator (method 6.1)."""
    return (a * b).sum(-1) / (norm(a) * norm(b) + EPSILON)


def norm(a: Tensor) -> Tensor:
    """|a_j| for each fact j, from [fact, model]."""
    return a.norm(dim=-1)
