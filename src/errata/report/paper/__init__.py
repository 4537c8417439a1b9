"""The paper's tables as data, and beside them what a bench measured."""

from errata.report.paper.by_layer import PaperCurves, paper_curves
from errata.report.paper.comparison import comparison, comparison_note, comparison_values
from errata.report.paper.published import PaperTable, paper_table, paper_tables

__all__ = [
    "PaperCurves",
    "PaperTable",
    "comparison",
    "comparison_note",
    "comparison_values",
    "paper_curves",
    "paper_table",
    "paper_tables",
]
