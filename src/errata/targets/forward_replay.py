"""Forward replay: one anchor at the window's first layer; later targets are what follows from it (FE, method 2.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from errata.decoder.decoder import Decoder
from errata.decoder.site import Site
from errata.targets.base import Step, TargetConstruction, Targets, UpdateNorm


@dataclass(frozen=True)
class ForwardReplay(TargetConstruction):
    """R_l = z_l - h_l; z_l for l > l_1 is read from one pass of the bare prompt that holds l_1 at its anchor."""

    def steps(self, window: Sequence[int]) -> list[Step]:
        return [Step(layer, layer, 1.0) for layer in window]

    def anchored(self, window: Sequence[int]) -> list[int]:
        return [window[0]]

    def construct(
        self, decoder: Decoder, site: Site, window: Sequence[int], anchors: Targets, update_norm: UpdateNorm
    ) -> Targets:
        first = anchors[window[0]]
        return {window[0]: first, **decoder.states(site.bare, window[1:], holding=(window[0], first))}
