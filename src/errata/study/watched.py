"""Watched: a target construction that remembers the targets it gave, and can be kept from editing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from errata.decoder.decoder import Decoder
from errata.decoder.site import Site
from errata.targets import Step, TargetConstruction, Targets, UpdateNorm


@dataclass(frozen=True)
class Watched(TargetConstruction):
    """The construction itself, with the targets it gave left in `seen`.

    Without `edits` it has no steps: targets alone. `only`: these layers' anchors in place of what it would construct.
    """

    construction: TargetConstruction
    edits: bool = True
    only: tuple[int, ...] = ()
    seen: Targets = field(default_factory=dict, repr=False)

    def steps(self, window: Sequence[int]) -> list[Step]:
        return self.construction.steps(window) if self.edits else []

    def anchored(self, window: Sequence[int]) -> list[int]:
        return list(self.only) or self.construction.anchored(window)

    def construct(
        self, decoder: Decoder, site: Site, window: Sequence[int], anchors: Targets, update_norm: UpdateNorm
    ) -> Targets:
        found = anchors if self.only else self.construction.construct(decoder, site, window, anchors, update_norm)
        self.seen.update(found)
        return found
