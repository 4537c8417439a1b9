"""Single layer: the window's last layer alone has an anchor and is edited (OneLayer, method 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from errata.targets.base import Step, TargetConstruction


@dataclass(frozen=True)
class SingleLayer(TargetConstruction):
    """R_L = z_L - h_L, solved in one step."""

    def steps(self, window: Sequence[int]) -> list[Step]:
        return [Step(window[-1], window[-1], 1.0)]

    def anchored(self, window: Sequence[int]) -> list[int]:
        return [window[-1]]
