"""Contribution: what a layer brings when it is edited alone, and what is left to optimise after those before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from errata.delta import WeightDelta
from errata.evaluate.recall import Recall
from errata.record.chart import Axis, Chart, Line, Point
from errata.record.tables import Table
from errata.study.finding import Finding, PerFact, line
from errata.study.trial import Trial
from errata.targets import Step, TargetConstruction


@dataclass(frozen=True)
class Alone(TargetConstruction):
    """One layer is edited: for a share of the residual of a layer that need not be its own."""

    edit: int
    read: int
    share: float = 1.0

    def steps(self, window: Sequence[int]) -> list[Step]:
        return [Step(self.edit, self.read, self.share)]

    def anchored(self, window: Sequence[int]) -> list[int]:
        return [self.read]


@dataclass(frozen=True)
class InTurn(TargetConstruction):
    """Layer after layer, each with an anchor of its own, optimised once the layers before it are edited."""

    def steps(self, window: Sequence[int]) -> list[Step]:
        return [Step(layer, layer, 1.0, anew=layer != window[0]) for layer in window]

    def anchored(self, window: Sequence[int]) -> list[int]:
        return [window[0]]


@dataclass(frozen=True)
class Believed:
    """How far the model says the new object: P(new) is the geometric mean over its tokens."""

    probability: PerFact
    exact: PerFact
    """1 where every token is the most likely one."""


@dataclass(frozen=True)
class LayerContribution:
    """One layer of the window."""

    layer: int
    spread: Believed
    """Edited alone for its share of the last layer's residual, R_L / layers left."""
    whole: Believed
    """Edited alone for all of the last layer's residual."""
    own: Believed
    """Edited alone for the residual of an anchor of its own."""
    evaluations: float
    """Evaluations of the loss that this anchor took on the unedited model, mean over facts."""
    evaluations_after: float
    """The same once all layers before it are edited, each for an anchor of its own."""
    after: Believed
    """Once this layer too is edited."""


KINDS = {"spread": "spread residual", "whole": "whole residual of the last layer", "own": "own residual"}


@dataclass(frozen=True)
class Contribution(Finding):
    """The analysis of BLUE (arXiv 2502.03748) for every layer of the window."""

    unedited: Believed
    most: int
    """Evaluations of the loss at most."""
    layers: tuple[LayerContribution, ...]

    name: ClassVar[str] = "contribution"
    title: ClassVar[str] = "Contribution of each layer (BLUE's analysis)"

    @property
    def note(self) -> str:
        return (
            "P(new): geometric mean over the new object's tokens on the edited prompt, mean over facts; in brackets "
            "the share of facts with every token the most likely. Alone: only that layer is edited, on the unedited "
            "model, for the share of the last layer's residual that spreading gives it, for the whole of it, or for "
            "the residual of an anchor of its own. In turn: the layers are edited one after another, each for an "
            "anchor optimised on the model as edited so far. Evaluations: of the loss until it is below the stop or "
            f"after {self.most}; 1 means that nothing was left to do. Unedited: "
            f"{_text(self.unedited)}."
        )

    def tables(self) -> dict[str, Table]:
        rows = [
            [str(la.layer), *(_text(found) for found in (la.spread, la.whole, la.own, la.after))] for la in self.layers
        ]
        steps = [[str(la.layer), f"{la.evaluations:.1f}", f"{la.evaluations_after:.1f}"] for la in self.layers]
        return {
            "P(new) after editing": Table.plain(["layer", "alone: spread", "whole", "own", "in turn"], rows, 0),
            "Evaluations of the loss per anchor": Table.plain(
                ["layer", "on the unedited model", "after the layers before it"], steps, 0
            ),
        }

    def charts(self) -> list[Chart]:
        layers = Axis.of_layers("layer", [la.layer for la in self.layers])
        alone = [
            line(f"alone: {text}", [(la.layer, getattr(la, kind).probability) for la in self.layers])
            for kind, text in KINDS.items()
        ]
        turns = line("in turn, own residuals", [(la.layer, la.after.probability) for la in self.layers])
        before = line("unedited", [(la.layer, self.unedited.probability) for la in self.layers])
        lines = [*alone, turns, replace(before, reference=True)]
        steps = [
            Line("on the unedited model", [Point(la.layer, la.evaluations) for la in self.layers]),
            Line("after the layers before it", [Point(la.layer, la.evaluations_after) for la in self.layers]),
        ]
        return [
            Chart("P(new answer) after editing each layer", layers, Axis("P(new)", low=0.0), lines),
            Chart("Evaluations of the loss that an anchor takes", layers, Axis("evaluations", low=0.0), steps),
        ]


def contribution(trial: Trial) -> Contribution:
    """P(new) after editing each layer alone, and the anchors' evaluations layer after layer.

    Source: the question of BLUE (arXiv 2502.03748), whether a share of the last layer's residual is what an earlier
    layer needs. Statistics, solver and anchors are memit's.
    """
    window, pipeline = trial.window, trial.pipeline("memit")
    last, found = window[-1], []
    turns = trial.edit(replace(pipeline, construction=InTurn()))
    after = [_believed(trial, delta) for delta in trial.parts(turns)[1:]]
    for i, layer in enumerate(window):
        constructions = {
            "spread": Alone(layer, last, 1 / (len(window) - i)),
            "whole": Alone(layer, last),
            "own": Alone(layer, layer),
        }
        tried = {k: trial.edit(replace(pipeline, construction=c)) for k, c in constructions.items()}
        believed = {kind: _believed(trial, one.delta) for kind, one in tried.items()}
        steps = tried["own"].ledger.anchors[layer]["evaluations"], turns.ledger.anchors[layer]["evaluations"]
        found.append(
            LayerContribution(layer, **believed, evaluations=steps[0], evaluations_after=steps[1], after=after[i])
        )
        trial.tell("layers alone", i + 1, len(window))
    most = max(1, pipeline.anchor.steps - 1)
    return Contribution(_believed(trial, WeightDelta(trial.decoder.fingerprint)), most, tuple(found))


def _believed(trial: Trial, delta: WeightDelta) -> Believed:
    questions = [Recall(fact.text, fact.target_new, fact.form) for fact in trial.facts]
    trial.decoder.set_change(delta)
    try:
        answers = Recall.ask(trial.decoder, questions)
    finally:
        trial.decoder.restore()
    probability = torch.tensor([answer.probability for answer in answers])
    exact = torch.tensor([float(answer.exact) for answer in answers])
    return Believed(PerFact.of(probability), PerFact.of(exact))


def _text(found: Believed) -> str:
    return f"{found.probability.text()} ({found.exact.text()})"
