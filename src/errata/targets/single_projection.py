"""Single projection: the output of one down-projection has an anchor, and its matrix is edited (ROME, method 2.1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from errata.decoder.layout import Space
from errata.targets.base import Step, TargetConstruction
from errata.targets.search import Search


@dataclass(frozen=True)
class SingleProjection(TargetConstruction):
    """R = v* - m at the window's last layer, m the output of its down-projection; the block around it is not asked."""

    @property
    def space(self) -> Space:
        return "mlp"

    @property
    def search(self) -> Search:
        return Search("mlp", alone=True)

    def steps(self, window: Sequence[int]) -> list[Step]:
        return [Step(window[-1], window[-1], 1.0)]

    def anchored(self, window: Sequence[int]) -> list[int]:
        return [window[-1]]
