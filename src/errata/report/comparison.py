"""Ours, the paper's, and the difference, for every row and column that both have."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from errata.paper import PaperRow, PaperTable
from errata.record.cell import UNEDITED
from errata.record.tables import SCORE_COLUMNS, Table
from errata.report.summary import Summary, differing, section_title

_TITLES = {name: (title, higher) for name, title, higher in SCORE_COLUMNS}


def comparison(rows: Sequence[Summary], table: PaperTable) -> dict[str, Table]:
    """A grid per model, dataset and number of edits, by title: three lines for each row that the paper has too.

    In the paper's units: per cent, and nats for D_KL. A difference is bold where the paper's figure lies between
    our lowest and highest seed, or of a single seed within its 95 % interval over records. The last line counts
    the pairs of methods that stand in the paper's order.
    """
    found = {}
    for section in dict.fromkeys(row.section for row in rows):
        mine = [row for row in rows if row.section == section]
        compared = _compared(mine, table)
        columns = _columns(compared, table)
        if columns:
            title = f"{section_title(mine)}, beside the paper's {table.title}, {table.edits} edits"
            found[title] = _grid(compared, columns, table)
    return found


def comparison_note(table: PaperTable, rows: Sequence[Summary]) -> list[str]:
    """What a reader of the comparison has to know: source, units, and where the paper's figures are doubtful."""
    told = [
        f"Paper: {table.source}; {table.edits} edits, {table.seeds} run of each. {_sentence(table.units)} A bold "
        "difference: the paper's figure is inside our range."
    ]
    shown = dict.fromkeys(row.method for row in rows)
    theirs = [theirs for theirs in table.rows if theirs.note and set(theirs.methods) & set(shown)]
    return [*told, *(f"{theirs.name}: {theirs.note}" for theirs in theirs), *table.notes]


def comparison_values(rows: Sequence[Summary], table: PaperTable) -> list[dict[str, Any]]:
    """Flat rows for a data frame: one for each figure both have, in the paper's units."""
    found = []
    for row, theirs in _compared(rows, table):
        settings = dict(row.settings)
        for column in _columns([(row, theirs)], table):
            ours, low, high = _ours(row, column, table)
            paper = theirs.values[column]
            flat = {"model": row.model, "dataset": row.dataset, "edits": row.edits, "method": row.method}
            flat |= {"settings": " ".join(f"{path}={value}" for path, value in settings.items())}
            flat |= {"score": column, "ours": ours, "ours_low": low, "ours_high": high}
            found.append(flat | {"paper": paper, "difference": ours - paper, "table": table.key})
    return found


Pair = tuple[Summary, PaperRow]


def _compared(rows: Sequence[Summary], table: PaperTable) -> list[Pair]:
    pairs = [(row, table.row_of(row.method)) for row in rows if row.method != UNEDITED]
    return [(row, theirs) for row, theirs in pairs if theirs is not None]


def _columns(compared: Sequence[Pair], table: PaperTable) -> list[str]:
    return [c for c in table.columns if any(c in row.scores and c in theirs.values for row, theirs in compared)]


def _grid(compared: Sequence[Pair], columns: Sequence[str], table: PaperTable) -> Table:
    paths = differing([row for row, _ in compared])
    cells, best = [], []
    for row, theirs in compared:
        ours, paper, difference, marks = [], [], [], []
        for column in columns:
            has = column in row.scores
            value, low, high = _ours(row, column, table) if has else (0.0, 0.0, 0.0)
            figure = theirs.values[column]
            digits = 1 if table.per_cent(column) else 2
            ours.append(f"{value:.{digits}f}" if has else "-")
            paper.append(f"{figure:.{digits}f}")
            difference.append(f"{value - figure:+.{digits}f}" if has else "-")
            marks.append(has and low <= figure <= high)
        plain = [False] * (2 + len(columns))
        cells += [[row.named(paths), "ours", *ours], ["", "paper", *paper]]
        cells.append(["", "difference", *difference])
        best += [plain, plain, [False, False, *marks]]
    cells.append(["", "pairs in order", *(_order(compared, column) for column in columns)])
    best.append([False] * (2 + len(columns)))
    return Table(["", "", *(_TITLES[column][0] for column in columns)], cells, best, 2)


def _order(compared: Sequence[Pair], column: str) -> str:
    """`33/36`: of the pairs of methods that differ in the paper, those that differ the same way here."""
    both = [(row.scores[column].mean, theirs.values[column]) for row, theirs in compared if column in row.scores]
    signs = [(a - b, c - d) for (a, c), (b, d) in combinations(both, 2) if c != d]
    return f"{sum(ours * paper > 0 for ours, paper in signs)}/{len(signs)}" if signs else "-"


def _ours(row: Summary, column: str, table: PaperTable) -> tuple[float, float, float]:
    """Mean, low and high in the paper's units."""
    score, factor = row.scores[column], 100.0 if table.per_cent(column) else 1.0
    return factor * score.mean, factor * score.low, factor * score.high


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
