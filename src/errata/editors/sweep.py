"""Sweep: targets are sought, and solved for layer by layer, for one batch of facts. What locate-then-edit does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

import torch
from jaxtyping import Float
from torch import Tensor

from errata.decoder.frontier import Frontier
from errata.decoder.layout import Space
from errata.decoder.reach import PLAIN
from errata.decoder.site import Site
from errata.delta import WeightDelta
from errata.editors.anchors import Anchors, Kept
from errata.editors.base import Ledger, LedgerRow
from errata.editors.layer_solver import LayerSolver, averaged, bare_of
from errata.editors.supplies import Supplies
from errata.solvers import LinearSystem
from errata.targets import TargetConstruction, Targets

Mark = tuple[WeightDelta, dict[int, Tensor], Targets, Kept]
"""The whole change, keys, targets and anchors at some time of a run."""

ARRIVED = 1e-4
"""A state within this share of its target's norm has reached it: what is left is rounding."""


@dataclass
class Sweep:
    """The sweeps of one run, batch after batch, and what they have come to."""

    construction: TargetConstruction
    window: Sequence[int]
    anchors: Anchors
    solver: LayerSolver
    supplies: Supplies
    ledger: Ledger
    total: WeightDelta
    share: float = 1.0
    """What every step writes of its share of the residual."""
    targets: Targets = field(default_factory=dict)
    """Layer -> the targets [fact, model] of all facts swept so far, in main memory; anchors sought anew among them."""

    def mark(self) -> Mark:
        """Where the run is now."""
        return self.total, dict(self.solver.keys), dict(self.targets), dict(self.anchors.kept)

    def go_back(self, mark: Mark) -> None:
        """Forget what came after, and edit the model accordingly."""
        self.total, self.solver.keys, self.targets, self.anchors.kept = mark
        self.supplies.decoder.set_change(self.total)

    def targets_of(self, site: Site, in_pieces: bool = True) -> Targets:
        """What the construction makes of anchors on the model as it is now."""
        seconds, fleet = self.ledger.seconds, self.supplies.fleet
        started, anchoring = perf_counter(), seconds.get("anchors", 0.0)
        mine = fleet.part(len(site))
        anchors_of = {
            layer: self.anchors.at(site, layer, in_pieces) for layer in self.construction.anchored(self.window)
        }
        own = {layer: anchors[mine] for layer, anchors in anchors_of.items()}
        norm = self.solver.update_norm(site, mine)
        targets = self.construction.construct(self.supplies.decoder, site.part(mine), self.window, own, norm)
        targets = fleet.rows(mine, targets)
        spent = perf_counter() - started - (seconds.get("anchors", 0.0) - anchoring)
        seconds["replay"] = seconds.get("replay", 0.0) + spent
        return targets

    def over(self, site: Site, targets: Targets, batch: int, in_pieces: bool = True) -> None:
        """For each row of the tableau: keys and residuals as the model is now, a solve, a change of one matrix."""
        decoder, ledger, fleet = self.supplies.decoder, self.ledger, self.supplies.fleet
        mine = fleet.part(len(site))
        own = site.part(mine)
        prompts = Frontier(decoder, [prompt.stem for place in own for prompt in place.prompts])
        bare = Frontier(decoder, own.bare)
        once = [stem[0] for stem in site.stems]  # one key, one row (method 5.31)

        def states(layers: Sequence[int], space: Space = self.construction.search.space) -> Targets:
            return fleet.rows(mine, bare.states(layers, space=space))

        way = _Way(targets, states(sorted(targets)))
        steps = [step.partly(self.share) for step in self.construction.steps(self.window)]
        for i, step in enumerate(steps):
            started, layer = perf_counter(), step.edit
            reach = self.solver.reach.get(layer, PLAIN)
            if step.anew:
                targets[step.read] = self.anchors.at(site, step.read, in_pieces)
                way.begin(step.read, states([step.read])[step.read])
            with ledger.timed("keys"):
                every = prompts.keys([layer], settle=True)[layer]
                both = {"mean": averaged(every, site.contexts), "bare": bare_of(every, site.contexts)}
                keys, bare_keys = fleet.rows(mine, both).values()
                residuals = step.share * (targets[step.read] - way.states[step.read])
                outputs = None if reach.norm is None else states([layer], "mlp")[layer]
                moves = reach.asked(residuals, outputs)
            with ledger.timed("solve"):
                weight = decoder.weight(layer).to(decoder.device, decoder.precision)
                solution = self.solver.solve(LinearSystem(keys[once], moves[once], weight, layer, bare_keys[once]))
                change = solution.change.to(decoder.device, decoder.precision)
                self.total += WeightDelta(decoder.fingerprint, {decoder.parameter_name(layer): change})
                decoder.set_change(self.total)
                self.solver.keep(layer, keys)
            with ledger.timed("keys"):
                bare.settle(layer - 1)
                way.go_on(states([other for other in targets if other >= layer]))
            norms = float(torch.linalg.matrix_norm(change)), float(torch.linalg.matrix_norm(weight))
            left, spent = way.remaining(), perf_counter() - started
            solved, lost = (solution.residual, solution.rank), self._rounding(layer, keys, change)
            del solution
            swallowed = None if outputs is None else self._swallowed(layer, moves, residuals, outputs)
            row = LedgerRow(batch, layer, step.read, step.share, left, *norms, *solved, spent, lost, swallowed)
            ledger.rows.append(row)
            self.supplies.tell("layers", i + 1, len(steps))
        for layer, reached in targets.items():
            earlier = [self.targets[layer]] if layer in self.targets else []
            self.targets[layer] = torch.cat([*earlier, reached.cpu()])

    def _swallowed(self, layer: int, moves: Tensor, residuals: Tensor, outputs: Tensor) -> float:
        """What the norm behind the layer's output keeps back; noted where outputs had to turn too far."""
        reach = self.solver.reach[layer]
        if held := int(reach.turned(residuals, outputs).sum()):
            self.ledger.notes.append(
                f"layer {layer}: the output of {held} of {len(residuals)} facts would have to turn round to reach "
                f"their targets through {reach.name}; it is turned, but kept at a tenth of its length"
            )
        return reach.swallowed(moves, residuals, outputs)

    def _rounding(self, layer: int, keys: Float[Tensor, "fact inner"], change: Float[Tensor, "model inner"]) -> float:
        """|E k| / |dW k| over the facts' keys, with E what rounding the edited weights to the model's dtype did."""
        decoder = self.supplies.decoder
        if decoder.dtype == decoder.precision:
            return 0.0
        before, now = (
            w.to(decoder.device, decoder.precision) for w in (decoder.original(layer), decoder.weight(layer))
        )
        error = now - (before + self.total.changes[decoder.parameter_name(layer)].to(now))
        return float(torch.linalg.matrix_norm(keys @ error.T) / torch.linalg.matrix_norm(keys @ change.T))


class _Way:
    """How far each layer still is from its target, relative to how far it was when the target was set."""

    def __init__(self, targets: Targets, states: dict[int, Tensor]) -> None:
        self.targets, self.states = targets, states
        self.first = {layer: self._distance(layer) for layer in targets}

    def begin(self, layer: int, state: Tensor) -> None:
        self.states[layer] = state
        self.first[layer] = self._distance(layer)

    def go_on(self, states: dict[int, Tensor]) -> None:
        self.states.update(states)

    def remaining(self) -> dict[int, float]:
        """Layer -> mean of the ratio over facts that had a way to go; an anchor that stopped at once had none."""
        return {layer: self._ratio(layer) for layer in sorted(self.first)}

    def _ratio(self, layer: int) -> float:
        first = self.first[layer]
        had_a_way = first > ARRIVED * torch.linalg.vector_norm(self.targets[layer], dim=-1)
        ratios = (self._distance(layer) / first)[had_a_way]
        return float(ratios.mean()) if len(ratios) else 0.0

    def _distance(self, layer: int) -> Tensor:
        return torch.linalg.vector_norm(self.targets[layer] - self.states[layer], dim=-1)
