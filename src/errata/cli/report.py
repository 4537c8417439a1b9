"""errata report: runs as one page to read, and as figures for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import err, fleet, out


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders written by `errata demo`, `bench` or `study`, or files written by `errata evaluate -o`."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File for the page. Default: report.html in the first folder.")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Folder to write the figures to as well, as PNG and SVG.")
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the page. Default: the run's own.")] = "",
) -> None:
    """Write one self-contained HTML page about runs: what was edited, scores, curves, every fact, settings."""
    from errata.files import write_text
    from errata.report.figures import NoFigures, write_figures
    from errata.report.material import read_material
    from errata.report.page import page

    if not fleet().leads:
        return
    material = read_material(runs)
    where = output or (runs[0].with_suffix(".html") if runs[0].is_file() else runs[0] / "report.html")
    write_text(where, page(material, title))
    told = f"{len(material.runs)} run{'s' * (len(material.runs) != 1)}"
    out.print(f"{told}: [bold]{where}[/bold], {where.stat().st_size / 2**10:,.0f} KiB", highlight=False, soft_wrap=True)
    for failure in material.failures:
        err.print(f"left out of the page: {failure}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    if figures is not None:
        try:
            made = write_figures(material, figures)
        except NoFigures as error:
            err.print(str(error), style="yellow", markup=False, highlight=False)
        else:
            out.print(f"{len(made)} figures in [bold]{figures}[/bold]", highlight=False, soft_wrap=True)
