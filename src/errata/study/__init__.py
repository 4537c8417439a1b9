"""Studies: why one method beats another. Each reads a model, changes nothing, and returns data, tables and charts."""

from __future__ import annotations

from collections.abc import Callable

from errata.study.contribution import Contribution, contribution
from errata.study.cosines import Cosines, cosines
from errata.study.finding import Finding, PerFact
from errata.study.residuals import Residuals, residuals
from errata.study.stability import Stability, stability
from errata.study.steering import Steering, steering
from errata.study.tracing import Tracing, tracing
from errata.study.trial import Trial

STUDIES: dict[str, Callable[[Trial], Finding]] = {
    "cosines": cosines,
    "residuals": residuals,
    "steering": steering,
    "stability": stability,
    "tracing": tracing,
    "contribution": contribution,
}

__all__ = [
    "STUDIES",
    "Contribution",
    "Cosines",
    "Finding",
    "PerFact",
    "Residuals",
    "Stability",
    "Steering",
    "Tracing",
    "Trial",
    "contribution",
    "cosines",
    "residuals",
    "stability",
    "steering",
    "tracing",
]
