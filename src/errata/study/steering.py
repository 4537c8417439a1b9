"""Steering (theorems 1 and 2): does a shift at one layer carry on to the last one in its own direction?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from errata.record.chart import Axis, Chart, Line, Point
from errata.record.tables import Table
from errata.study.finding import Finding, PerFact, cosine, line, norm
from errata.study.lanczos import extremes
from errata.study.passage import Passage
from errata.study.trajectory import Trajectory, trajectory
from errata.study.trial import Trial

AT_ONCE = 128
"""Facts whose operators are worked on side by side: each keeps a basis [steps, model]."""


@dataclass(frozen=True)
class Direction:
    """A shift d at layer l that an edit means to make or has made, and what becomes of it."""

    size: PerFact
    """|d| / |h|."""
    quotient: PerFact
    """beta = d.J d / d.d = d.S d / d.d, the Rayleigh quotient of S: the sign decides (theorem 2)."""
    cosine: PerFact
    """cos(J d, d)."""
    eigen_residual: PerFact
    """|J d - beta d| / |J d|: the sine of the angle between J d and d; 0 for an eigenvector (theorem 1)."""
    observed: PerFact
    """cos(F(h + d) - F(h), d): the step itself, not its linearisation."""
    nonlinearity: PerFact
    """|F(h + d) - F(h) - J d| / |J d|."""


@dataclass(frozen=True)
class Dense:
    """One fact's J in full."""

    fact: int
    lowest: float
    highest: float
    negative: int
    """Eigenvalues of S below zero."""
    lanczos_error: float
    """Largest difference of Lanczos' two ends from these."""
    spectrum: tuple[float, ...]
    """All eigenvalues of S, ascending."""

    def text(self) -> list[str]:
        return [f"{self.lowest:.3f}", f"{self.highest:.3f}", str(self.negative), f"{self.lanczos_error:.1e}"]


@dataclass(frozen=True)
class LayerSteering:
    """J = d h_L / d h_l at the decisive token, before layer l is edited and after those before it."""

    layer: int
    lowest: PerFact
    """Smallest eigenvalue of S = (J + J^T) / 2."""
    highest: PerFact
    ritz_residual: PerFact
    """|S y - theta y| of the two ends, the larger, relative to the largest |eigenvalue|; not below rounding."""
    start_spread: PerFact
    """Largest difference between starts of Lanczos."""
    trace: PerFact
    """tr(J) / d, estimated on Gaussian probes (Hutchinson)."""
    positive_probes: PerFact
    """Share of Gaussian probes with a positive quotient."""
    asymmetry: PerFact
    """|(J - J^T) v| / |(J + J^T) v| on the probes."""
    directions: dict[str, Direction]
    dense: tuple[Dense, ...]


MEANING = {"intended": "share of the residual the step asks for", "achieved": "shift the step made"}


@dataclass(frozen=True)
class Steering(Finding):
    """Theorems 1 and 2 along the steps of one or more methods."""

    last: int
    width: int
    settings: dict[str, int]
    """Lanczos iterations and starts, Gaussian probes per fact, facts in full, seed."""
    derivative: str
    methods: dict[str, tuple[LayerSteering, ...]]

    name: ClassVar[str] = "steering"
    title: ClassVar[str] = "Local Jacobians (theorems 1 and 2)"

    @property
    def note(self) -> str:
        worst = max((max(r.ritz_residual.known) for rows in self.methods.values() for r in rows), default=0.0)
        iterations, starts = self.settings["iterations"], self.settings["starts"]
        return (
            f"J is the Jacobian of block {self.last}'s output with respect to block l's at the decisive token, the "
            "tokens before it fixed (blocks l+1 to the last on one token, cached keys and values), with the layers "
            f"before l edited. S = (J + J^T)/2, {self.width} x {self.width}. Ends of its spectrum by Lanczos with full "
            f"reorthogonalisation ({iterations} steps, {starts} starts, largest relative Ritz residual {worst:.0e}); "
            f"products by {self.derivative} (J v) and backward passes (J^T u). λ min>0: share of facts. tr J/d, "
            "probes>0 and asymmetry, |(J - J^T)v| / |(J + J^T)v|, on Gaussian probes. Shifts d: "
            + "; ".join(f"{name}: {text}" for name, text in MEANING.items())
            + ". Quotient d.Jd / d.d, and the share of facts where it is above 0; sin: eigen-residual, of the angle "
            "between Jd and d; cos step,d: of the finite step F(h + d) - F(h), which is table 1's but for what the "
            "edit does at earlier tokens; nonlin.: |step - Jd| / |Jd|, and where that is near 1, J says little about "
            "the step. Theorem 2 asks for λ min>0; for a given shift the sign of its own quotient is enough. Theorem "
            "1 asks for an eigenvector: sin 0."
        )

    def tables(self) -> dict[str, Table]:
        tables = {}
        for method, rows in self.methods.items():
            tables[f"Spectrum of S, {method}"] = Table.plain(SPECTRUM, [_spectrum_cells(r) for r in rows], 0)
            shifts = [_shift_cells(r.layer, name, d) for r in rows for name, d in r.directions.items()]
            tables[f"Along the true shifts, {method}"] = Table.plain(SHIFTS, shifts)
        checks = [
            [f"{method}, layer {r.layer}, fact {d.fact}", *d.text()]
            for method, rows in self.methods.items()
            for r in rows
            for d in r.dense
        ]
        if checks:
            columns = ["dense check", "λ min", "λ max", f"λ<0 of {self.width}", "Lanczos off"]
            tables["Dense check"] = Table.plain(columns, checks)
        return tables

    def charts(self) -> list[Chart]:
        charts = []
        for method, rows in self.methods.items():
            charts += [_ends_chart(method, rows)] if rows else []
            charts += [_spectrum_chart(method, rows)] if any(row.dense for row in rows) else []
        return charts


SPECTRUM = ("layer", "λ min", "λ max", "λ min>0", "tr J/d", "probes>0", "asymmetry")
SHIFTS = ("shift", "|d|/|h|", "quotient", ">0", "cos Jd,d", "sin", "cos step,d", "nonlin.")
POINTS = 200
"""Eigenvalues of a spectrum that a chart shows; all of them are in the data."""


def _spectrum_cells(row: LayerSteering) -> list[str]:
    measured = row.trace, row.positive_probes, row.asymmetry
    ends = [row.lowest.text(), row.highest.text(), f"{row.lowest.share():.2f}"]
    return [str(row.layer), *ends, *(value.text() for value in measured)]


def _shift_cells(layer: int, name: str, shift: Direction) -> list[str]:
    rest = shift.cosine, shift.eigen_residual, shift.observed, shift.nonlinearity
    quotient = [shift.quotient.text(), f"{shift.quotient.share():.2f}"]
    return [f"{layer} {name[:3]}.", shift.size.text(), *quotient, *(value.text() for value in rest)]


def _ends_chart(method: str, rows: Sequence[LayerSteering]) -> Chart:
    """Both ends of the spectrum of S and the quotients of the true shifts between them."""
    curves = {
        "λ max of S": [row.highest for row in rows],
        "quotient, achieved": [row.directions["achieved"].quotient for row in rows],
        "quotient, intended": [row.directions["intended"].quotient for row in rows],
        "tr J / d": [row.trace for row in rows],
        "λ min of S": [row.lowest for row in rows],
    }
    layers = [row.layer for row in rows]
    lines = [line(name, zip(layers, values, strict=True), True) for name, values in curves.items()]
    scale = _scale([point.y for one in lines for point in one.points])
    title = f"Spectrum of S and quotients, {method}: mean, 10-90 % of facts"
    return Chart(title, Axis.of_layers("edited layer", layers), Axis("eigenvalue, quotient", scale), lines)


def _spectrum_chart(method: str, rows: Sequence[LayerSteering]) -> Chart:
    """All eigenvalues of S of one fact, layer by layer."""
    lines = [_spectrum_line(row) for row in rows if row.dense]
    scale = _scale([point.x for one in lines for point in one.points])
    title = f"Eigenvalues of S of one fact, {method}"
    return Chart(title, Axis("eigenvalue", scale), Axis("share of eigenvalues below", low=0.0), lines)


def _spectrum_line(row: LayerSteering) -> Line:
    values = row.dense[0].spectrum
    shown = sorted({round(i * (len(values) - 1) / (POINTS - 1)) for i in range(POINTS)})
    return Line(f"layer {row.layer}", [Point(values[i], (i + 1) / len(values)) for i in shown])


def _scale(values: Sequence[float]) -> Literal["linear", "symlog"]:
    """Logarithmic to both sides where a linear axis would hide what is near zero."""
    return "symlog" if max(map(abs, values), default=0.0) > 20 else "linear"


def steering(
    trial: Trial,
    methods: Sequence[str] = ("memit", "memit+fe"),
    *,
    iterations: int = 80,
    starts: int = 2,
    probes: int = 16,
    dense: int = 2,
    seed: int = 0,
) -> Steering:
    """For each step of a method but that at the last layer: the spectrum's ends, quotients along shifts (method 6.3).

    `probes`: Gaussian directions per fact. `dense`: facts whose J is built in full (model backward passes each
    layer). Needs float32 or float64: in lower precision differences of states are rounding.
    """
    last = trial.window[-1]
    found, by_difference = {}, False
    for method in methods:
        path, rows = trajectory(trial, method), []
        steps = [i for i, step in enumerate(path.steps) if step.edit < last]
        for done, i in enumerate(steps):
            trial.decoder.set_change(path.deltas[i])
            try:
                row, differed = _layer(trial, path, i, iterations, starts, probes, dense, seed)
            finally:
                trial.decoder.restore()
            rows.append(row)
            by_difference |= differed
            trial.tell(f"steering, {method}", done + 1, len(steps))
        found[method] = tuple(rows)
    derivative = "central differences" if by_difference else "forward-mode differentiation"
    settings = {"iterations": iterations, "starts": starts, "probes": probes, "dense": dense, "seed": seed}
    return Steering(last, trial.decoder.width, settings, derivative, found)


def _layer(
    trial: Trial, path: Trajectory, i: int, iterations: int, starts: int, probes: int, dense: int, seed: int
) -> tuple[LayerSteering, bool]:
    step, prompts, device = path.steps[i], trial.site.bare, trial.decoder.device
    shifts = {
        "intended": step.share * (path.targets[step.read] - path.own[i][step.read]),
        "achieved": path.states[i + 1][step.edit] - path.states[i][step.edit],
    }
    generator = torch.Generator().manual_seed(seed)
    parts: list[dict[str, Tensor]] = []
    checks: list[Dense] = []
    differed = False
    for first in range(0, len(prompts), AT_ONCE):
        members = slice(first, first + AT_ONCE)
        passage = Passage(trial.decoder, prompts[members], step.edit, path.window[-1])
        spectrum = _spectrum(passage, iterations, starts, generator)
        here = spectrum | _probed(passage, probes, generator)
        for name, shift in shifts.items():
            found = _along(passage, shift[members].to(device))
            here |= {f"{name}/{key}": value for key, value in found.items()}
        parts.append({key: value.detach().cpu() for key, value in here.items()})
        if dense > first:
            some = Passage(trial.decoder, prompts[first : min(first + AT_ONCE, dense)], step.edit, path.window[-1])
            checks += _dense(some, first, spectrum)
        differed |= passage.by_difference
    joined = {key: PerFact.of(torch.cat([part[key] for part in parts])) for key in parts[0]}
    directions = {
        name: Direction(**{key.split("/")[1]: value for key, value in joined.items() if key.startswith(f"{name}/")})
        for name in shifts
    }
    whole = {key: value for key, value in joined.items() if "/" not in key}
    return LayerSteering(step.edit, **whole, directions=directions, dense=tuple(checks)), differed


def _spectrum(passage: Passage, iterations: int, starts: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Ends of S's spectrum over several starts."""
    shape, like = passage.zero.shape, passage.zero
    found = [
        extremes(passage.symmetric, torch.randn(shape, generator=generator).to(like), iterations, generator)
        for _ in range(starts)
    ]
    low, low_at = torch.stack([f.lowest for f in found]).min(0)
    high, high_at = torch.stack([f.highest for f in found]).max(0)
    residuals = [
        torch.stack([f.lowest_residual for f in found]).gather(0, low_at[None])[0],
        torch.stack([f.highest_residual for f in found]).gather(0, high_at[None])[0],
    ]
    scale = torch.maximum(low.abs(), high.abs())
    spread = [torch.stack(ends) for ends in ([f.lowest for f in found], [f.highest for f in found])]
    return {
        "lowest": low,
        "highest": high,
        "ritz_residual": (torch.stack(residuals).amax(0) / scale).clamp_min(torch.finfo(like.dtype).eps),
        "start_spread": torch.stack([ends.amax(0) - ends.amin(0) for ends in spread]).amax(0),
    }


def _probed(passage: Passage, probes: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Quotients and asymmetry on Gaussian directions, a mean over them per fact."""
    quotients, asymmetries = [], []
    for _ in range(probes):
        v = torch.randn(passage.zero.shape, generator=generator).to(passage.zero)
        forth, back = passage.jvp(v), passage.vjp(v)
        quotients.append((v * forth).sum(-1) / (v * v).sum(-1))
        asymmetries.append(norm(forth - back) / norm(forth + back))
    quotient = torch.stack(quotients)
    return {
        "trace": quotient.mean(0),
        "positive_probes": (quotient > 0).double().mean(0),
        "asymmetry": torch.stack(asymmetries).mean(0),
    }


def _along(passage: Passage, d: Tensor) -> dict[str, Tensor]:
    """What becomes of a shift d [fact, model]."""
    moved = passage.jvp(d)
    with torch.no_grad():
        taken = passage.end(d) - passage.end(passage.zero)
    beta = (d * moved).sum(-1) / (d * d).sum(-1)
    return {
        "size": norm(d) / norm(passage.start),
        "quotient": beta,
        "cosine": cosine(moved, d),
        "eigen_residual": norm(moved - beta[:, None] * d) / norm(moved),
        "observed": cosine(taken, d),
        "nonlinearity": norm(taken - moved) / norm(moved),
    }


def _dense(passage: Passage, first: int, spectrum: dict[str, Tensor]) -> list[Dense]:
    """All eigenvalues of S of the passage's facts, and how far Lanczos was from the ends."""
    whole = passage.dense().double()
    values = torch.linalg.eigvalsh((whole + whole.mT) / 2)
    found = []
    for j, row in enumerate(values):
        ends = (spectrum["lowest"][j] - row[0]).abs(), (spectrum["highest"][j] - row[-1]).abs()
        error = float(torch.stack(ends).max())
        negative = int((row < 0).sum())
        found.append(Dense(first + j, float(row[0]), float(row[-1]), negative, error, tuple(row.tolist())))
    return found
