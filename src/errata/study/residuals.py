"""Residuals (tables 2 and 5): how much of the way to its target is left after each edited layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from errata.paper import paper_curves
from errata.record.chart import Axis, Chart
from errata.record.tables import Table
from errata.study.finding import Finding, PerFact, line, norm, reference
from errata.study.trajectory import Trajectory, trajectory
from errata.study.trial import Trial
from errata.targets import ForwardReplay, SingleLayer

CONSTRUCTIONS = (
    "onelayer",
    "memit",
    "memit-sqrt",
    "memit-whole",
    "blue",
    "blue-unedited",
    "every-layer",
    "memit+fe",
    "memit+gr",
)
"""One method per construction in block space, all with the least-squares solver."""

ARRIVED = 1e-4
"""A state within this share of its target's norm has no way to go; such facts are left out and counted."""

COMMON = {"anchor": "the anchor at the last layer", "replayed": "the first layer's anchor replayed to the last layer"}


@dataclass(frozen=True)
class Remaining:
    """|z - h^(i)| / |z - h^(0)| at one layer after one step."""

    ratios: PerFact
    of_means: float
    """mean |z - h^(i)| / mean |z - h^(0)|."""


@dataclass(frozen=True)
class StepResiduals:
    """After one step."""

    layer: int
    own: Remaining | None
    """To the method's own target at its last layer; None before that target is there."""
    edited: Remaining | None
    """At the edited layer, to its own target, from just before to just after the step; None if it has none."""
    common: dict[str, Remaining]
    """At the window's last layer, to targets that are the same for all methods."""


Pick = Callable[[StepResiduals], Remaining | None]


def _own(step: StepResiduals) -> Remaining | None:
    return step.own


def _edited(step: StepResiduals) -> Remaining | None:
    return step.edited


def _common(name: str) -> Pick:
    return lambda step: step.common[name]


@dataclass(frozen=True)
class Residuals(Finding):
    """Tables 2 and 5 for every construction."""

    window: tuple[int, ...]
    methods: dict[str, tuple[StepResiduals, ...]]

    name: ClassVar[str] = "residuals"
    title: ClassVar[str] = "What is left of the residual (tables 2 and 5)"

    @property
    def note(self) -> str:
        left_out = max(
            (sum(v is None for v in s.own.ratios.values) for steps in self.methods.values() for s in steps if s.own),
            default=0,
        )
        return (
            "Mean over facts of |z - h now| / |z - h before the edit|, bare prompt, decisive token. Own target: each "
            "method's own z at its last layer, as in the paper's tables 2 and 5, so the rows are about convergence "
            "and not about distance to a common point; an anchor optimised anew (blue) counts from the moment it is "
            "set. Edited layer: to that layer's own target, from just before to just after its step. Common targets "
            f"lie at the window's last layer and are the same for all rows: {COMMON['anchor']} (which is memit's and "
            f"onelayer's own), and {COMMON['replayed']} (memit+fe's own). Facts without a way to go are "
            f"left out; at most {left_out} in a row."
        )

    def tables(self) -> dict[str, Table]:
        head = ["after editing layer", *map(str, self.window)]
        own = [self._row(method, _own) for method in self.methods]
        paper = paper_curves(self.name)
        beside = self._beside_paper()
        own += [[f"{method}, {paper.window}", *paper.row(method)] for method in beside]
        found = {"To the method's own last target": Table.plain(head, own)}
        if not beside:
            found[f"To the method's own last target, {paper.window}"] = paper.grid()
        found["At the edited layer, to its own target"] = Table.plain(
            head, [self._row(m, _edited) for m, steps in self.methods.items() if any(s.edited for s in steps)]
        )
        for name, text in COMMON.items():
            found[f"To a common target: {text}"] = Table.plain(
                head, [self._row(method, _common(name)) for method in self.methods]
            )
        last = {m: steps[-1].own for m, steps in self.methods.items()}
        rows = [
            [m, f"{r.ratios.mean:.3f}", f"±{r.ratios.error:.3f}", f"{r.ratios.median:.3f}", f"{r.of_means:.3f}"]
            for m, r in last.items()
            if r
        ]
        columns = ["own target, after the last step", "mean of ratios", "95 %", "median", "ratio of means"]
        found["Three ways to average"] = Table.plain(columns, rows)
        return found

    def _beside_paper(self) -> list[str]:
        """The methods that the paper has too; none where it edited another number of layers."""
        paper = paper_curves(self.name)
        return [m for m in paper.methods if m in self.methods] if len(self.window) == len(paper.layers) else []

    def _row(self, method: str, pick: Pick) -> list[str]:
        by_layer = {step.layer: pick(step) for step in self.methods[method]}
        cells = [by_layer.get(layer) for layer in self.window]
        return [method, *("-" if cell is None else cell.ratios.text() for cell in cells)]

    def charts(self) -> list[Chart]:
        panels: dict[str, Pick] = {"To the own last target": _own, "At the edited layer, to its own target": _edited}
        panels |= {f"To a common target: {text}": _common(name) for name, text in COMMON.items()}
        return [self._chart(title, pick) for title, pick in panels.items()]

    def _chart(self, title: str, pick: Pick) -> Chart:
        lines = []
        for method, steps in self.methods.items():
            left = [(step.layer, remaining.ratios) for step in steps if (remaining := pick(step)) is not None]
            lines += [line(method, left)] if left else []
        if pick is _own:
            paper = paper_curves(self.name)
            compared = [method for method in self._beside_paper() if None not in paper.methods[method]]
            lines += [reference(f"{m}, {paper.window}", self.window, paper.methods[m]) for m in compared]
        axis = Axis.of_layers("after editing layer", self.window)
        return Chart(title, axis, Axis("share of the way left", low=0.0), lines)


def residuals(trial: Trial, methods: Sequence[str] = CONSTRUCTIONS) -> Residuals:
    """rho_i = mean_j |z - h^(i)| / |z - h^(0)| (method 6.2), to own and to common targets, for every step i."""
    last = trial.window[-1]
    common = {
        "anchor": trial.targets(SingleLayer())[last].cpu(),
        "replayed": trial.targets(ForwardReplay())[last].cpu(),
    }
    found = {}
    for done, method in enumerate(methods):
        found[method] = _steps(trajectory(trial, method), common)
        trial.tell("residuals", done + 1, len(methods))
    return Residuals(trial.window, found)


def _steps(path: Trajectory, common: dict[str, Tensor]) -> tuple[StepResiduals, ...]:
    found, last = [], path.last
    set_at = {step.read: i for i, step in enumerate(path.steps) if step.anew}
    for i, step in enumerate(path.steps):
        own = edited = None
        if set_at.get(last, 0) <= i:
            own = _remaining(path.targets[last], path.own[set_at.get(last, 0)][last], path.own[i + 1][last])
        if step.edit in path.targets:
            edited = _remaining(path.targets[step.edit], path.own[i][step.edit], path.own[i + 1][step.edit])
        end = path.window[-1]
        shared = {name: _remaining(z, path.states[0][end], path.states[i + 1][end]) for name, z in common.items()}
        found.append(StepResiduals(step.edit, own, edited, shared))
    return tuple(found)


def _remaining(target: Tensor, before: Tensor, now: Tensor) -> Remaining:
    first, left = norm(target - before), norm(target - now)
    had_a_way = first > ARRIVED * norm(target)
    ratio_of_means = float(left[had_a_way].mean() / first[had_a_way].mean()) if had_a_way.any() else 0.0
    return Remaining(PerFact.of(left / first, had_a_way), ratio_of_means)
