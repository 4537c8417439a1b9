"""What a bench's folder holds to be read: tables in four formats, single cells, frontiers and their figure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from errata.files import write_text
from errata.paper import PaperTable
from errata.record.cell import CellRecord
from errata.record.tables import Table, markdown
from errata.report import formats, frontier
from errata.report.blocks import Block, Heading, Note, Section, SortedTable
from errata.report.charts import frontier_blocks, frontier_charts
from errata.report.comparison import comparison, comparison_note, comparison_values
from errata.report.figures import NoFigures, write_charts
from errata.report.page import rendered as rendered_page
from errata.report.summary import Summary, cost_rows, over_seeds, sections, value_rows

NOTE = (
    "Means over seeds; in brackets the lowest and highest seed, or for a single seed the 95 % bootstrap interval over "
    "records. Shares, except D_KL in nats. The best mean of the edited is in bold."
)
COSTS = "Cost: seconds (mean over seeds) and peak memory; what methods share counts where it was first made"


def write_tables(
    records: Sequence[CellRecord], folder: Path, failures: Sequence[str] = (), paper: PaperTable | None = None
) -> list[str]:
    """Write every file; returns what the reader should be told, such as a figure that could not be drawn."""
    rows, messages = over_seeds(records), []
    if frontier.frontiers(rows):
        write_text(folder / "frontier.json", json.dumps(frontier.record(rows), indent=1))
        charts = [chart for mine in frontier.by_section(rows) for chart, _ in frontier_charts(mine)]
        try:
            write_charts(charts, folder, "frontier")
        except NoFigures as error:
            messages.append(str(error))
    for form in ("md", "csv", "tex", "html"):
        write_text(folder / f"table.{form}", rendered(rows, form, failures, paper))
    write_text(folder / "cells.csv", formats.csv_text(value_rows([row for r in records for row in over_seeds([r])])))
    if paper and (values := comparison_values(rows, paper)):
        write_text(folder / "paper.csv", formats.csv_text(values))
    return messages


def rendered(rows: Sequence[Summary], form: str, failures: Sequence[str] = (), paper: PaperTable | None = None) -> str:
    """The tables in one of the formats md, csv, tex, html."""
    if form == "csv":
        return formats.csv_text(value_rows(rows))
    compared = comparison(rows, paper) if paper else {}
    frontiers = frontier.frontiers(rows)
    tables = {**sections(rows), **compared, **frontiers, COSTS: cost_rows(rows)}
    failed = f" {len(failures)} cells failed: {'; '.join(failures)}." if failures else ""
    notes = [NOTE + failed, *(comparison_note(paper, rows) if paper and compared else ())]
    notes += [frontier.NOTE] if frontiers else []
    if form == "tex":
        return formats.latex(tables, "\n".join(notes))
    if form == "md":
        return markdown(tables, "Bench", "\n\n".join(notes))
    return _page(rows, tables, notes)


def _page(rows: Sequence[Summary], tables: Mapping[str, Table], notes: Sequence[str]) -> str:
    blocks: list[Block] = [*map(Note, notes)]
    for title, table in tables.items():
        blocks += [Heading(title), SortedTable.of(table, title)]
    figures = [block for block in frontier_blocks(rows) if block.kind in ("note", "figures")]
    parts = [Section("tables", "Tables", blocks), Section("frontiers", "Frontiers", figures)]
    return rendered_page("errata bench", parts, "bench")
