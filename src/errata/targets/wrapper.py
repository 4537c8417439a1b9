"""Wrapper: another construction whose anchors are sought in another way."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from errata.decoder.decoder import Decoder
from errata.decoder.layout import Space
from errata.decoder.site import Site
from errata.targets.base import Step, TargetConstruction, Targets, UpdateNorm
from errata.targets.search import Search


@dataclass(frozen=True)
class Wrapper(TargetConstruction):
    """The same layers, steps and targets from `altered` anchors."""

    construction: TargetConstruction

    @abstractmethod
    def altered(self, search: Search) -> Search:
        """How anchors are sought in place of `search`."""

    @property
    def space(self) -> Space:
        return self.construction.space

    @property
    def search(self) -> Search:
        return self.altered(self.construction.search)

    def steps(self, window: Sequence[int]) -> list[Step]:
        return self.construction.steps(window)

    def anchored(self, window: Sequence[int]) -> list[int]:
        return self.construction.anchored(window)

    def construct(
        self, decoder: Decoder, site: Site, window: Sequence[int], anchors: Targets, update_norm: UpdateNorm
    ) -> Targets:
        return self.construction.construct(decoder, site, window, anchors, update_norm)
