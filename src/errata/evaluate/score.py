"""Score: what a probe measured, case by case, under the name of its protocol. Scores: all of one evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from errata.errors import EmptyScore, ErrataError, UnknownName

_AT_ONCE = 1 << 22  # resampled entries held at a time


@dataclass(frozen=True)
class Score:
    """A mean over cases. `per_case` is None where a case had nothing to ask; it never holds NaN.

    `weights` is one per case: 1 for the mean over records (evaluation 1), the number of prompts where
    the definition pools all prompts flat (evaluation 1.4). Empty means 1 everywhere.
    `higher_is_better` is None for what only describes, such as an entropy.
    """

    name: str
    protocol: str
    per_case: tuple[float | None, ...]
    higher_is_better: bool | None = True
    unit: str = "share"
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if all(value is None for value in self.per_case):
            raise EmptyScore(f"score {self.name!r}: none of {len(self.per_case)} cases has prompts for it")
        if bad := [i for i, value in enumerate(self.per_case) if value is not None and not math.isfinite(value)]:
            raise ErrataError(
                f"score {self.name!r}: not a finite number for case {bad[0]} ({self.per_case[bad[0]]}) and "
                f"{len(bad) - 1} others; the model's logits are not finite"
            )
        if self.weights and len(self.weights) != len(self.per_case):
            raise ErrataError(f"score {self.name!r}: {len(self.weights)} weights, {len(self.per_case)} cases")

    @property
    def count(self) -> int:
        """The number of cases that have a value."""
        return sum(value is not None for value in self.per_case)

    @property
    def value(self) -> float:
        """The (weighted) mean over the cases that have a value."""
        values, weights = self._numbers()
        return float((values * weights).sum() / weights.sum())

    def interval(self, seed: int = 0, *, draws: int = 2000, level: float = 0.95) -> tuple[float, float]:
        """Percentile bootstrap of `value`: cases drawn with replacement (evaluation 7.14)."""
        values, weights = self._numbers()
        n, generator = len(values), np.random.default_rng(seed)
        means = []
        for start in range(0, draws, step := max(1, _AT_ONCE // n)):
            picks = generator.integers(n, size=(min(step, draws - start), n))
            means.append((values * weights)[picks].sum(axis=1) / weights[picks].sum(axis=1))
        tail = (1 - level) / 2
        low, high = np.quantile(np.concatenate(means), (tail, 1 - tail))
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, with the value and its interval written out for readers who have no errata."""
        return {
            "name": self.name,
            "protocol": self.protocol,
            "value": self.value,
            "interval": list(self.interval()),
            "count": self.count,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            "per_case": list(self.per_case),
            "weights": list(self.weights),
        }

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Score:
        """The inverse of `to_json`; value and interval follow from `per_case`."""
        return cls(
            name=row["name"],
            protocol=row["protocol"],
            per_case=tuple(row["per_case"]),
            higher_is_better=row["higher_is_better"],
            unit=row["unit"],
            weights=tuple(row["weights"]),
        )

    def _numbers(self) -> tuple[np.ndarray, np.ndarray]:
        weights = self.weights or (1.0,) * len(self.per_case)
        kept = [(v, w) for v, w in zip(self.per_case, weights, strict=True) if v is not None]
        values, weights = np.array(kept, dtype=np.float64).T
        return values, weights


class Scores(dict[str, Score]):
    """Scores by name, in the order of the probes. A probe that no case had prompts for is in `missing`, with why."""

    def __init__(self, scores: Iterable[Score] = (), missing: Mapping[str, str] | None = None) -> None:
        super().__init__((score.name, score) for score in scores)
        self.missing = dict(missing or {})

    def __missing__(self, name: str) -> Score:
        if name in self.missing:
            raise EmptyScore(self.missing[name])
        raise UnknownName("score", name, self)

    def values_by_name(self) -> dict[str, float]:
        """Only the numbers."""
        return {name: score.value for name, score in self.items()}

    def to_json(self) -> list[dict[str, Any]]:
        """One row per score."""
        return [score.to_json() for score in self.values()]

    @classmethod
    def from_json(cls, rows: Iterable[dict[str, Any]]) -> Scores:
        """The inverse of `to_json`."""
        return cls(Score.from_json(row) for row in rows)
