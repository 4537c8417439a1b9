"""CellRecord: what the run of one cell of a bench says, without the single cases."""

from __future__ import annotations

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
        cell = dict(run.settings["cell"])
        scores = {
            row["name"]: Measured(row["value"], row["interval"][0], row["interval"][1], row["higher_is_better"])
            for row in run.scores[cell["method"]]
        }
        settings = tuple(cell.pop("settings").items())
        return cls(**cell, settings=settings, scores=scores, seconds=run.seconds, memory=run.memory)
