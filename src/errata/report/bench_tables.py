"""What a bench's folder holds to be read: tables in four formats, single cells, frontiers and their figure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from errata.files import write_text
from errata.paper import PaperTable
from errata.record.cell import CellRecord
from errata.report import formats, frontier
from errata.report.comparison import comparison, comparison_note, comparison_values
from errata.report.figures import NoFigures, frontier_figure
from errata.report.summary import Row, cost_rows, over_seeds, sections, value_rows

NOTE = (
    "Means over seeds; in brackets the lowest and highest seed, or for a single seed the 95 % bootstrap interval over "
    "records. Shares, except D_KL in nats. Best of the edited in bold."
)
COSTS = "Cost: seconds (mean over seeds) and peak memory; what methods share counts where it was first made"


def write_tables(
    records: Sequence[CellRecord], folder: Path, failures: Sequence[str] = (), paper: PaperTable | None = None
) -> list[str]:
    """Write every file; returns what the reader should be told, such as a figure that could not be drawn."""
    rows, told = over_seeds(records), []
    drawn: list[Path] = []
    if frontier.frontiers(rows):
        write_text(folder / "frontier.json", json.dumps(frontier.record(rows), indent=1))
        try:
            drawn = frontier_figure(rows, folder)
        except NoFigures as error:
            told.append(str(error))
    for name in ("md", "csv", "tex", "html"):
        write_text(folder / f"table.{name}", rendered(rows, name, drawn, failures, paper))
    write_text(folder / "cells.csv", formats.csv_text(value_rows([row for r in records for row in over_seeds([r])])))
    if paper and (values := comparison_values(rows, paper)):
        write_text(folder / "paper.csv", formats.csv_text(values))
    return told


def rendered(
    rows: Sequence[Row],
    form: str,
    figures: Sequence[Path] = (),
    failures: Sequence[str] = (),
    paper: PaperTable | None = None,
) -> str:
    """The tables in one of the formats md, csv, tex, html."""
    if form == "csv":
        return formats.csv_text(value_rows(rows))
    beside = comparison(rows, paper) if paper else {}
    compared = frontier.frontiers(rows)
    whole = {**sections(rows), **beside, **compared, COSTS: cost_rows(rows)}
    failed = f" {len(failures)} cells failed: {'; '.join(failures)}." if failures else ""
    notes = [NOTE + failed, *(comparison_note(paper, rows) if paper and beside else ())]
    notes += [frontier.NOTE] if compared else []
    if form == "tex":
        return formats.latex(whole, "\n".join(notes))
    if form == "md":
        return formats.markdown(whole, "Bench", "\n\n".join(notes))
    svg = next((path.read_text(encoding="utf-8") for path in figures if path.suffix == ".svg"), "")
    return formats.html(whole, "errata bench", " ".join(notes), svg[svg.find("<svg") :] if svg else "")
