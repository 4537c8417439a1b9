"""Charts as PNG and SVG files, for a paper. The only importer of matplotlib, which is an extra."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from errata.errors import ErrataError
from errata.files import whole_file
from errata.record.chart import Axis, Chart, Line
from errata.report.charts import frontier_charts, residual_charts, score_chart
from errata.report.frontier import by_section
from errata.report.headline import chosen
from errata.report.material import Material

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis as MatplotlibAxis

STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.fontsize": 7,
    "lines.markersize": 3.5,
    "lines.linewidth": 1,
    "svg.hashsalt": "errata",
}
ACROSS = 3
"""Charts in a row."""
SINGLE = 60
"""Of lines with more points no single point is marked."""
_MARKERS = "os^Dvp*X"


class NoFigures(ErrataError):
    """matplotlib is not installed."""


def write_figures(material: Material, folder: Path) -> list[Path]:
    """`scores`, `residuals`, `frontier` and one per study, as far as there is something to draw, each as SVG and PNG.

    Raises NoFigures if matplotlib is not installed, and StoreError.
    """
    sections = [rows for rows in by_section(material.rows()) if chosen(rows)]
    charts = {
        "scores": [score_chart(rows) for rows in sections],
        "residuals": [chart for rows in sections for chart, _ in residual_charts(rows, material)],
        "frontier": [chart for rows in sections for chart, _ in frontier_charts(rows)],
    }
    for study in material.studies:
        charts[f"study-{re.sub('[^a-z0-9]+', '-', study.what.lower())[:80]}"] = list(study.charts)
    return [path for name, mine in charts.items() for path in write_charts(mine, folder, name)]


def write_charts(charts: Sequence[Chart], folder: Path, name: str) -> list[Path]:
    """One figure with a panel per chart, as `name.svg` and `name.png`. Raises NoFigures, StoreError."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise NoFigures("no figure was drawn: it needs `pip install 'errata[figures]'`") from None
    if not charts:
        return []
    across = min(ACROSS, len(charts))
    down = math.ceil(len(charts) / across)
    with rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(4.2 * across, 3.1 * down), layout="constrained")
        panels = list(figure.subplots(down, across, squeeze=False).flat)
        for panel, chart in zip(panels, charts, strict=False):
            _draw(panel, chart)
        for panel in panels[len(charts) :]:
            panel.set_axis_off()
        made = [folder / f"{name}.{form}" for form in ("svg", "png")]
        for path in made:
            with whole_file(path) as unfinished:
                figure.savefig(unfinished, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)
    return made


def _draw(panel: Axes, chart: Chart) -> None:
    for i, line in enumerate(chart.lines):
        _draw_line(panel, line, i)
    if chart.band:
        panel.axvspan(*chart.band, alpha=0.08, color="k", lw=0)
    for axis, which in ((chart.x, "x"), (chart.y, "y")):
        _lay_out(panel, axis, which)
    panel.set_title(_plain(chart.title))
    if any(line.points for line in chart.lines):
        panel.legend()


def _draw_line(panel: Axes, line: Line, i: int) -> None:
    xs, ys = [p.x for p in line.points], [p.y for p in line.points]
    marker = _MARKERS[i % len(_MARKERS)] if len(xs) <= SINGLE else ""
    style = "--" if line.reference else "-" if line.joined else ""
    colour = "0.45" if line.reference else f"C{i % 10}"
    (drawn,) = panel.plot(xs, ys, marker=marker, linestyle=style, color=colour, label=_plain(line.name))
    spans = [(p.x, p.low, p.high) for p in line.points if p.low is not None and p.high is not None]
    if spans:
        places, lows, highs = zip(*spans, strict=True)
        if line.joined:
            panel.fill_between(places, lows, highs, alpha=0.15, lw=0, color=drawn.get_color())
        else:
            panel.vlines(places, lows, highs, color=drawn.get_color(), lw=1)


def _lay_out(panel: Axes, axis: Axis, which: str) -> None:
    ticks = list(axis.ticks) if axis.names else list(axis.ticks)[:: max(1, len(axis.ticks) // 10)]
    names = list(axis.names) or [f"{tick:g}" for tick in ticks]
    panel.set(**{f"{which}label": _plain(axis.title)})
    if axis.scale != "linear":
        panel.set(**{f"{which}scale": axis.scale})
    if axis.scale == "log":
        _plain_logarithm(panel.xaxis if which == "x" else panel.yaxis)
    if axis.ticks:
        panel.set(**{f"{which}ticks": ticks, f"{which}ticklabels": [_plain(name) for name in names]})
    if axis.low is not None:
        panel.set(**{f"{which}lim": (axis.low, None)})


def _plain_logarithm(axis: MatplotlibAxis) -> None:
    """Numbers such as 0.2 in place of powers of ten, and only as many as have room."""
    from matplotlib.ticker import LogLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def _plain(text: str) -> str:
    """Text of which only D_KL is mathematics, and whose leading underscore does not hide a line."""
    return "\u200b" * text.startswith("_") + text.replace("$", r"\$").replace("D_KL", "$D_{KL}$")
