"""errata report: runs as one page to read, and as figures for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import fleet, say, warn
from errata.cli.ending import INCOMPLETE


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
    from errata.files import check_file, check_folder, write_text
    from errata.report.figures import NoFigures, write_figures
    from errata.report.material import read_material
    from errata.report.page import page

    if not fleet().leads:
        return
    where = output or (runs[0].with_suffix(".html") if runs[0].is_file() else runs[0] / "report.html")
    if output is not None or runs[0].exists():
        check_file(where)
    if figures is not None:
        check_folder(figures)
    material = read_material(runs)
    write_text(where, page(material, title))
    count = f"{len(material.runs)} run{'s' * (len(material.runs) != 1)}"
    say(f"{count}: {where}, {where.stat().st_size / 2**10:,.0f} KiB")
    for failure in material.failures:
        warn(f"left out of the page: {failure}")
    if figures is not None:
        try:
            made = write_figures(material, figures)
        except NoFigures as error:
            warn(str(error))
            raise typer.Exit(INCOMPLETE) from None
        else:
            say(f"{len(made)} figures in {figures}")
    if material.failures:
        raise typer.Exit(INCOMPLETE)
