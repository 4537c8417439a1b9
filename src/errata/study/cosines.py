"""Cosines (table 1): does the shift made at a layer move the last layer the way it was meant to?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from errata.paper import paper_curves
from errata.record.chart import Axis, Chart
from errata.record.tables import Table
from errata.study.finding import Finding, PerFact, cosine, line, norm, reference
from errata.study.trajectory import trajectory
from errata.study.trial import Trial

CURVES = (("achieved", "cos(a, b)"), ("intended", "cos(R, b)"), ("solved", "cos(R, a)"))


@dataclass(frozen=True)
class StepCosines:
    """One step. a = shift of layer l, b = shift it causes at the last layer L, R = z_L - h_L before the step."""

    layer: int
    achieved: PerFact
    """cos(a, b), as published code has it."""
    intended: PerFact
    """cos(R, b). The intended shift is a positive share of R, so this is the paper's wording too."""
    solved: PerFact
    """cos(R, a): how much of the intended direction the solve brought about."""
    gain: PerFact
    """|b| / |a|."""
    progress: PerFact
    """b . R / |R|^2: the part of the way that this step went."""


@dataclass(frozen=True)
class Cosines(Finding):
    """Table 1 for one or more methods."""

    methods: dict[str, tuple[StepCosines, ...]]

    name: ClassVar[str] = "cosines"
    title: ClassVar[str] = "Intended and passive shifts (table 1)"

    @property
    def note(self) -> str:
        return (
            "Means over facts, the half width of their 95 % interval behind ±. For the layer edited in each step: "
            "a, the shift its own state makes; b, the passive shift this causes at the window's last layer; "
            "R, the residual z - h at the last layer before the step. Where one residual is spread, the shift that is "
            "intended for a layer is a positive share of R, so its cosine with b is cos(R, b). At the last layer a = b "
            "by construction. Earlier layers are edited already when a later one is looked at."
        )

    def tables(self) -> dict[str, Table]:
        found, paper = {}, paper_curves(self.name)
        for method, steps in self.methods.items():
            rows = [
                [text, *(_text(getattr(step, key)) for step in steps)]
                for key, text in (
                    ("achieved", "cos(a, b)"),
                    ("intended", "cos(R, b)"),
                    ("solved", "cos(R, a)"),
                    ("gain", "|b| / |a|"),
                    ("progress", "b·R / |R|²"),
                )
            ]
            if self._beside_paper(method):
                rows.append([f"cos(a, b), {paper.window}", *paper.row(method)])
            found[f"Cosines, {method}"] = Table.plain(["at layer", *(str(s.layer) for s in steps)], rows)
        if not any(map(self._beside_paper, self.methods)):
            found[f"cos(a, b), {paper.window}"] = paper.grid()
        return found

    def _beside_paper(self, method: str) -> bool:
        """Whether the paper has this method, and edited as many layers."""
        paper = paper_curves(self.name)
        return method in paper.methods and len(self.methods[method]) == len(paper.layers)

    def charts(self) -> list[Chart]:
        charts, paper = [], paper_curves(self.name)
        for method, steps in self.methods.items():
            layers = [step.layer for step in steps]
            lines = [line(label, [(step.layer, getattr(step, key)) for step in steps], True) for key, label in CURVES]
            if self._beside_paper(method):
                lines.append(reference(f"cos(a, b), {paper.window}", layers, paper.methods[method]))
            axis = Axis.of_layers("edited layer", layers)
            charts.append(Chart(f"Cosines of shifts, {method}: mean, 10-90 % of facts", axis, Axis("cosine"), lines))
        return charts


def cosines(trial: Trial, methods: Sequence[str] = ("memit",)) -> Cosines:
    """a_j = h_l^(i) - h_l^(i-1), b_j = h_L^(i) - h_L^(i-1), R = z_L - h_L^(i-1) (method 6.1), for each step i.

    z_L is the method's own: for memit the anchor at L, for memit+fe the replayed target.
    """
    return Cosines({method: _steps(trial, method) for method in methods})


def _steps(trial: Trial, method: str) -> tuple[StepCosines, ...]:
    path = trajectory(trial, method)
    found = []
    for i, step in enumerate(path.steps):
        before, after = path.states[i], path.states[i + 1]
        last = path.last
        made = after[step.edit] - before[step.edit]
        passive = after[last] - before[last]
        meant = path.targets[last] - path.own[i][last]
        found.append(
            StepCosines(
                step.edit,
                PerFact.of(cosine(made, passive)),
                PerFact.of(cosine(meant, passive)),
                PerFact.of(cosine(meant, made)),
                PerFact.of(norm(passive) / norm(made), norm(made) > 0),
                PerFact.of((passive * meant).sum(-1) / norm(meant) ** 2, norm(meant) > 0),
            )
        )
    return tuple(found)


def _text(found: PerFact) -> str:
    return f"{found.text()} ±{found.error:.2f}".replace("±0.", "±.")
