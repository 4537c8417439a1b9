"""Figures for a paper: frontiers, scores, residuals, studies. The only importer of matplotlib, which is an extra."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from errata.errors import ErrataError
from errata.files import whole_file
from errata.report.curves import PANELS, by_layer
from errata.report.frontier import COMPARED, Curve, by_section, curves, title
from errata.report.headline import ON_CARDS, chosen
from errata.report.material import Material
from errata.report.study import Study
from errata.report.summary import Row, named_apart, section_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLE = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "errata"}
_MARKERS = "os^Dvp*X"


class NoFigures(ErrataError):
    """matplotlib is not installed."""


def frontier_figure(rows: Sequence[Row], folder: Path) -> list[Path]:
    """`frontier.svg` and `frontier.png`: a row of panels per section, a panel per score. Raises NoFigures."""
    _need_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    panels = [mine for mine in by_section(rows) if any(map(_is_curve, _all(mine)))]
    scores = [s for s in COMPARED[:3] if any(s in row.scores for row in rows)]
    if not panels or not scores:
        return []
    figure = Figure(figsize=(4.6 * len(scores), 3.6 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), len(scores), squeeze=False)
    for line, mine in zip(axes, panels, strict=True):
        for axis, score in zip(line, scores, strict=True):
            for i, curve in enumerate(c for c in curves(mine, score) if c.points):
                style = "-" if _is_curve(curve) else ""
                axis.plot(*zip(*curve.points, strict=True), f"{_MARKERS[i % 8]}{style}", label=curve.name, ms=4)
            axis.set_xscale("log")
            axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_formatter("")
            axis.set(xlabel="D_KL on the neighbourhood (nats)", ylabel=title(score))
            axis.set_title(section_title(mine), fontsize=9)
            axis.grid(alpha=0.3, which="both")
        line[-1].legend(fontsize=7)
    return _saved(figure, folder, "frontier")


def write_figures(material: Material, folder: Path) -> list[Path]:
    """`scores`, `residuals`, `frontier` and one per study, as far as there is something to draw, each as SVG and PNG.

    Raises NoFigures if matplotlib is not installed.
    """
    _need_matplotlib()
    from matplotlib import rc_context

    with rc_context(STYLE):  # type: ignore[arg-type]
        made = [*_score_figure(material, folder), *_residual_figure(material, folder)]
        made += frontier_figure(material.rows(), folder)
        for study in material.studies:
            made += _study_figure(study, folder, f"study-{re.sub('[^a-z0-9]+', '-', study.what.lower())}")
    return made


def _score_figure(material: Material, folder: Path) -> list[Path]:
    """Per section a panel: every score of every method with its interval."""
    from matplotlib.figure import Figure

    sections = [mine for mine in by_section(material.rows()) if chosen(mine)]
    if not sections:
        return []
    figure = Figure(figsize=(5.5, 2.6 * len(sections)), layout="constrained")
    for axis, mine in zip(figure.subplots(len(sections), 1, squeeze=False)[:, 0], sections, strict=True):
        rows = chosen(mine)
        keys = [(key, label) for key, label in ON_CARDS if any(key in row.scores for row in rows)]
        for i, row in enumerate(rows):
            shift = (i - (len(rows) - 1) / 2) * min(0.16, 0.7 / len(rows))
            found = [(place + shift, row.scores[key]) for place, (key, _) in enumerate(keys) if key in row.scores]
            at, means = [x for x, _ in found], [score.mean for _, score in found]
            # A weighted mean can lie a rounding error outside its own interval.
            ends = [[max(0.0, s.mean - s.low) for _, s in found], [max(0.0, s.high - s.mean) for _, s in found]]
            style = {"fmt": _MARKERS[i % 8], "ms": 4, "capsize": 2, "lw": 1}
            axis.errorbar(at, means, yerr=ends, label=named_apart(row, mine), **style)
        axis.set(xticks=range(len(keys)), xticklabels=[label for _, label in keys], ylim=(-0.02, 1.02), ylabel="share")
        axis.set_title(section_title(mine), loc="left")
        _finished(axis)
    return _saved(figure, folder, "scores")


def _residual_figure(material: Material, folder: Path) -> list[Path]:
    """Per section a row: what is left at the last target, at the layer's own, and the size of the update.

    Shares above FAR are left out, as on the page.
    """
    from matplotlib.figure import Figure

    sections = [mine for mine in by_section(material.rows()) if any(material.of(r)[0].ledger for r in chosen(mine))]
    if not sections:
        return []
    figure = Figure(figsize=(7.2, 2.4 * len(sections)), layout="constrained")
    for line, mine in zip(figure.subplots(len(sections), 3, squeeze=False), sections, strict=True):
        for axis, (name, unit, read, cap) in zip(line, PANELS, strict=True):
            for i, row in enumerate(chosen(mine)):
                means = {layer: fmean(values) for layer, values in by_layer(row, material, read).items()}
                points = [(layer, mean) for layer, mean in means.items() if mean <= cap]
                if points:
                    axis.plot(*zip(*points, strict=True), f"{_MARKERS[i % 8]}-", label=row.method, ms=3.5, lw=1)
            axis.set_ylim(bottom=0)
            axis.set(xlabel="edited layer", ylabel=unit)
            axis.set_title(name, fontsize=7)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(alpha=0.3)
        if line[-1].lines:
            line[-1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1.0))
    return _saved(figure, folder, "residuals")


def _study_figure(study: Study, folder: Path, name: str) -> list[Path]:
    """A panel per chart of the study."""
    from matplotlib.figure import Figure

    if not study.figures:
        return []
    figure = Figure(figsize=(3.4 * len(study.figures), 2.6), layout="constrained")
    for axis, drawn in zip(figure.subplots(1, len(study.figures), squeeze=False)[0], study.figures, strict=True):
        for i, line in enumerate(drawn.lines):
            xs, ys = [p.x for p in line.points], [p.y for p in line.points]
            style = f"{_MARKERS[i % 8]}-" if len(xs) <= 60 else "-"
            axis.plot(xs, ys, style, label=line.name, ms=3.5, lw=1)
            spans = [p for p in line.points if p.low is not None and p.high is not None]
            if spans:
                ends = [p.x for p in spans], [p.low for p in spans], [p.high for p in spans]
                axis.fill_between(*ends, alpha=0.15, lw=0)
        axis.set(xlabel=drawn.x.title, ylabel=drawn.y.title)
        if drawn.x.ticks:
            axis.set_xticks(drawn.x.ticks[:: max(1, len(drawn.x.ticks) // 10)])
        axis.set_title(drawn.title, fontsize=8)
        _finished(axis)
    return _saved(figure, folder, name)


def _finished(axis: Axes) -> None:
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)


def _need_matplotlib() -> None:
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise NoFigures("no figure was drawn: it needs `pip install 'errata[figures]'`") from None


def _saved(figure: Figure, folder: Path, name: str) -> list[Path]:
    made = [folder / f"{name}.{kind}" for kind in ("svg", "png")]
    for path in made:
        with whole_file(path) as unfinished:
            figure.savefig(unfinished, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)
    return made


def _all(rows: Sequence[Row]) -> list[Curve]:
    return [curve for score in COMPARED for curve in curves(rows, score)]


def _is_curve(curve: Curve) -> bool:
    return len(curve.points) > 1
