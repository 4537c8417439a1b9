"""The paper's tables as data."""

from errata.paper.by_layer import PaperCurves, paper_curves
from errata.paper.published import PaperRow, PaperTable, paper_table, paper_tables

__all__ = ["PaperCurves", "PaperRow", "PaperTable", "paper_curves", "paper_table", "paper_tables"]
