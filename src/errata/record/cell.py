"""CellRecord: what the run of one cell of a bench says, without the single cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from errata.record.run import Run

UNEDITED = "unedited"
"""The method of the cell in which the model is scored before any edit."""


@dataclass(frozen=True)
class Measured:
    """One score of one cell, with its 95 % bootstrap interval over records."""

    value: float
    low: float
    high: float
    higher_is_better: bool | None


@dataclass(frozen=True)
class CellRecord:
    """What one cell's run says, without the single cases."""

    model: str
    dataset: str
    method: str
    edits: int
    seed: int
    settings: tuple[tuple[str, Any], ...]
    scores: dict[str, Measured]
    seconds: dict[str, float]
    memory: dict[str, float]

    @classmethod
    def of(cls, run: Run) -> CellRecord:
        cell = run.settings["cell"]
        return cls(
            **{name: cell[name] for name in ("model", "dataset", "method", "edits", "seed")},
            settings=tuple(cell["settings"].items()),
            scores=measured(run.scores[cell["method"]]),
            seconds=run.seconds,
            memory=run.memory,
        )


def measured(scores: Sequence[Mapping[str, Any]]) -> dict[str, Measured]:
    """Scores of a record by name, without their cases."""
    by_name = {}
    for row in scores:
        low, high = row["interval"]
        by_name[row["name"]] = Measured(row["value"], low, high, row["higher_is_better"])
    return by_name
