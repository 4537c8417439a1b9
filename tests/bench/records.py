"""Bench records of hand-made numbers."""

from __future__ import annotations

from errata.record.cell import CellRecord, Measured

HIGHER = {"generalisation_accuracy": True, "generalisation_success": True, "specificity_kl": False}


def cell(method: str, kl: float, accuracy: float, seed: int = 0, edits: int = 100, **settings: object) -> CellRecord:
    """A cell with these two scores; its interval is 0.05 to either side."""
    values = {"generalisation_accuracy": accuracy, "specificity_kl": kl}
    scores = {name: Measured(value, value - 0.05, value + 0.05, HIGHER[name]) for name, value in values.items()}
    paths = {"weight": "solvers.least_squares.weight", "window": "window"}
    named = tuple((paths[name], value) for name, value in settings.items())
    return CellRecord(
        "tiny", "data", method, edits, seed, named, scores, {"solve": 1.5, "total": 2.0}, {"process": 9.0}
    )
