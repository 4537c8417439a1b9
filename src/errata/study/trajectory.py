"""Trajectory: where every fact's states stand before, between and after the steps of an edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from errata.decoder.frontier import Frontier
from errata.decoder.layout import Space
from errata.delta import WeightDelta
from errata.study.trial import Trial
from errata.targets import Step, Targets

States = dict[int, Tensor]
"""Layer -> the state at each fact's decisive token, [fact, model], on the CPU."""


@dataclass(frozen=True)
class Trajectory:
    """h_l^(i), the state at layer l after i steps, on the bare prompt (method 6); i = 0 is the unedited model."""

    method: str
    window: tuple[int, ...]
    steps: tuple[Step, ...]
    space: Space
    targets: Targets
    states: tuple[States, ...]
    """Block outputs, one mapping per i."""
    own: tuple[States, ...]
    """In the construction's own space; the same as `states` unless that is the MLP's."""
    deltas: tuple[WeightDelta, ...]

    @property
    def last(self) -> int:
        """The deepest layer that has a target."""
        return max(self.targets)


def trajectory(trial: Trial, method: str) -> Trajectory:
    """Edit by a method, then walk through its steps again on partial changes; the model is unedited afterwards.

    A step changes one matrix, so the first i changes of the finished edit are the model as it was after i steps.
    """
    tried = trial.edit(method)
    steps, decoder, space = tried.steps, trial.decoder, tried.construction.search.space
    deltas = trial.parts(tried)
    states, own = [], []
    try:
        for delta in deltas:
            decoder.set_change(delta)
            states.append(_states(trial, trial.window, "block"))
            own.append(states[-1] if space == "block" else _states(trial, sorted(tried.targets), space))
    finally:
        decoder.restore()
    targets = {layer: target.cpu() for layer, target in tried.targets.items()}
    return Trajectory(method, trial.window, tuple(steps), space, targets, tuple(states), tuple(own), tuple(deltas))


def _states(trial: Trial, layers: Sequence[int], space: Space) -> States:
    found = Frontier(trial.decoder, trial.site.bare).states(layers, space=space)
    return {layer: state.cpu() for layer, state in found.items()}
