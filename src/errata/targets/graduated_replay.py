"""Graduated replay: forward replay that holds more of the anchor's delta from layer to layer (method 2.18)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from errata.decoder.decoder import Decoder
from errata.decoder.site import Site
from errata.targets.base import Step, TargetConstruction, Targets, UpdateNorm


@dataclass(frozen=True)
class GraduatedReplay(TargetConstruction):
    """z_i is read at layer l_i from a pass that holds l_1 at h + t_i (z_1 - h), with t_1 < ... < t_m = 1.

    In forward replay (all t_i = 1) most of the change falls on the first layer. Here the schedule follows from
    equal work: if layer i - 1 has reached its target, layer i is left with z_i(t_i) - z_i(t_{i-1}), whose update
    norm is c_i (t_i - t_{i-1}) to first order. Equal norms relative to the weights ask for increments in
    proportion to 1 / c_i. c_i is measured at the schedule at hand, `rounds` times from even increments on.
    """

    rounds: int = 3

    def steps(self, window: Sequence[int]) -> list[Step]:
        return [Step(layer, layer, 1.0) for layer in window]

    def anchored(self, window: Sequence[int]) -> list[int]:
        return [window[0]]

    def construct(
        self, decoder: Decoder, site: Site, window: Sequence[int], anchors: Targets, update_norm: UpdateNorm
    ) -> Targets:
        first = anchors[window[0]]
        own = decoder.states(site.bare, window)

        def replay(share: float) -> Targets:
            held = own[window[0]] + share * (first - own[window[0]])
            return {window[0]: held, **decoder.states(site.bare, window[1:], holding=(window[0], held))}

        increments = [1 / len(window)] * len(window)
        for _ in range(self.rounds):
            targets = [own, *map(replay, accumulate(increments))]
            costs = [
                update_norm(layer, targets[i + 1][layer] - targets[i][layer]) / increments[i]
                for i, layer in enumerate(window)
            ]
            total = sum(1 / cost for cost in costs)
            increments = [1 / cost / total for cost in costs]
        return {layer: replay(share)[layer] for layer, share in zip(window, accumulate(increments), strict=True)}
