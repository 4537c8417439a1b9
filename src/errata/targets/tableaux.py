"""The published tableaux: constructions whose targets are their anchors, and which differ in their steps alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from errata.targets.base import Step, TargetConstruction


@dataclass(frozen=True)
class SingleLayer(TargetConstruction):
    """R_L = z_L - h_L: the window's last layer alone has an anchor and is edited, in one step (OneLayer, method 2.3).

    With `search` in space "mlp" and alone, the output of one down-projection has the anchor (ROME, method 2.1).
    """

    def steps(self, window: Sequence[int]) -> list[Step]:
        return [Step(window[-1], window[-1], 1.0)]

    def anchored(self, window: Sequence[int]) -> list[int]:
        return [window[-1]]


@dataclass(frozen=True)
class BackwardSpreading(TargetConstruction):
    """R_l = (z_L - h_L) / (layers left), with h_L seen anew before each layer (MEMIT, method 2.2).

    One anchor, at the window's last layer. `share` "whole" does not divide; "sqrt" divides by the root of the layers
    left, as PMET does, whose states are those of space "mlp" (method 2.7).
    """

    share: Literal["divide", "whole", "sqrt"] = "divide"

    def steps(self, window: Sequence[int]) -> list[Step]:
        power = {"divide": 1.0, "whole": 0.0, "sqrt": 0.5}[self.share]
        return [Step(layer, window[-1], (len(window) - i) ** -power) for i, layer in enumerate(window)]

    def anchored(self, window: Sequence[int]) -> list[int]:
        return [window[-1]]


@dataclass(frozen=True)
class BoundaryLayers(TargetConstruction):
    """R_l = z_l - h_l at both ends of the window, each with an anchor of its own, undivided (BLUE, method 2.4).

    `anew`: the last layer's anchor is optimised after the first layer is edited, as BLUE's own code does;
    otherwise both are optimised on the unedited model, as the forward-replay paper's baseline does.
    """

    anew: bool = True

    def steps(self, window: Sequence[int]) -> list[Step]:
        ends = sorted({window[0], window[-1]})
        return [Step(layer, layer, 1.0, anew=self.anew and layer != window[0]) for layer in ends]

    def anchored(self, window: Sequence[int]) -> list[int]:
        return [step.read for step in self.steps(window) if not step.anew]


@dataclass(frozen=True)
class EveryLayer(TargetConstruction):
    """R_l = z_l - h_l with independent anchors z_l, all on the unedited model (method 3, variant 5)."""

    def steps(self, window: Sequence[int]) -> list[Step]:
        return [Step(layer, layer, 1.0) for layer in window]

    def anchored(self, window: Sequence[int]) -> list[int]:
        return list(window)
