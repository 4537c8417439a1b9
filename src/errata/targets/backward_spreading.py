"""Backward spreading: one anchor at the window's last layer, its residual shared out to all (MEMIT, method 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from errata.decoder.layout import Space
from errata.targets.base import Step, TargetConstruction


@dataclass(frozen=True)
class BackwardSpreading(TargetConstruction):
    """R_l = (z_L - h_L) / (layers left), with h_L seen anew before each layer.

    `share` "whole" does not divide; "sqrt" divides by the root of the layers left (PMET, method 2.7). `space` "mlp"
    has z and h be outputs of the last layer's down-projection.
    """

    share: Literal["divide", "whole", "sqrt"] = "divide"
    space: Space = "block"

    def steps(self, window: Sequence[int]) -> list[Step]:
        power = {"divide": 1.0, "whole": 0.0, "sqrt": 0.5}[self.share]
        return [Step(layer, window[-1], (len(window) - i) ** -power) for i, layer in enumerate(window)]

    def anchored(self, window: Sequence[int]) -> list[int]:
        return [window[-1]]
