"""Every layer: each layer of the window has an anchor of its own, all on the unedited model (method 3, variant 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from errata.targets.base import Step, TargetConstruction


@dataclass(frozen=True)
class EveryLayer(TargetConstruction):
    """R_l = z_l - h_l with independent z_l."""

    def steps(self, window: Sequence[int]) -> list[Step]:
        return [Step(layer, layer, 1.0) for layer in window]

    def anchored(self, window: Sequence[int]) -> list[int]:
        return list(window)
