"""Boundary layers: the window's first and last layer, each with an anchor of its own (BLUE, method 2.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from errata.targets.base import Step, TargetConstruction


@dataclass(frozen=True)
class BoundaryLayers(TargetConstruction):
    """R_l = z_l - h_l at both ends, undivided.

    `anew`: the last layer's anchor is optimised after the first layer is edited, as BLUE's own code does;
    otherwise both are optimised on the unedited model, as the forward-replay paper's baseline does.
    """

    anew: bool = True

    def steps(self, window: Sequence[int]) -> list[Step]:
        ends = sorted({window[0], window[-1]})
        return [Step(layer, layer, 1.0, anew=self.anew and layer != window[0]) for layer in ends]

    def anchored(self, window: Sequence[int]) -> list[int]:
        return [step.read for step in self.steps(window) if not step.anew]
