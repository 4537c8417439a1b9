"""The page's tables of scores: the paper's columns with intervals, every score with its protocol, the costs."""

from __future__ import annotations

from collections.abc import Sequence

from errata.record.cell import UNEDITED
from errata.record.tables import SCORE_COLUMNS, Table, skill_table
from errata.report.blocks import FULL, Bar, Block, Heading, Note, SortedTable, TableCell, folded, number
from errata.report.comparison import comparison, comparison_note
from errata.report.frontier import by_section
from errata.report.material import Material
from errata.report.summary import Summary, cost_rows, named_apart, score_rows, section_title

NOTE = (
    "Shares, except D_KL in nats. Below each mean: the lowest and highest seed, or for a single seed the 95\u00a0% "
    "bootstrap interval over records. The best mean of the edited in each column is marked; where ranges overlap this "
    "is no ranking. A column's head sorts by it."
)
INSIDE = "the paper's figure is inside our range"
EVERY = "Every score, with the protocol it was measured by"
SHARED = "Anchors and statistics that methods share count where they were first made."


def score_blocks(material: Material) -> list[Block]:
    """A table per section, the unedited model first, and below it everything else that was measured."""
    sections = list(by_section(material.rows()))
    blocks: list[Block] = [Note(NOTE)] if sections else []
    for rows in sections:
        blocks += [Heading(section_title(rows))] if len(sections) > 1 else []
        blocks += [_scores(rows), *folded(EVERY, [_all_scores(rows, material)])]
    return blocks


def paper_blocks(material: Material) -> list[Block]:
    """Per bench that was printed beside a published table: our figures, below each the paper's and the difference."""
    blocks: list[Block] = []
    for published, rows in material.compared:
        for title, table in comparison(rows, published).items():
            blocks += [Heading(title), Note(f"Marked: {INSIDE}."), _with_paper(table, title)]
        blocks += folded("What to know of the paper's figures", map(Note, comparison_note(published, rows)))
    return blocks


def ability_blocks(material: Material) -> list[Block]:
    """Per run that has it: general ability before and after."""
    tables = {run.title: skill_table(run.ability) for run in material.runs.values() if run.ability}
    blocks: list[Block] = []
    for title, table in tables.items():
        blocks += [*([Heading(title)] if len(tables) > 1 else []), SortedTable.of(table, title)]
    return blocks


def cost_blocks(material: Material) -> list[Block]:
    """Seconds per stage and peak memory."""
    table = cost_rows(material.rows())
    kept = [i for i in range(len(table.columns)) if i == 0 or any(row[i] for row in table.rows)]
    words = table.text_columns - sum(i not in kept for i in range(table.text_columns))
    columns = ["method", *(table.columns[i] for i in kept[1:])]
    shown = Table.plain(columns, [[row[i] for i in kept] for row in table.rows], words + 1)
    return [Note(SHARED), SortedTable.of(shown, "Costs")] if len(table.columns) > 4 and table.rows else []


def _with_paper(table: Table, title: str) -> SortedTable:
    """A comparison's lines, three of which are a row here; the last one, of the order of methods, stays one."""
    *lines, order = table.rows
    rows = []
    for at in range(0, len(lines), 3):
        figures = list(zip(*lines[at : at + 3], table.best[at + 2], strict=True))[2:]
        shown = [number(f"{ours} (paper {paper}, {gap})", INSIDE if near else "") for ours, paper, gap, near in figures]
        rows.append([TableCell(lines[at][0], True), *shown])
    rows.append([TableCell(order[1], True), *map(number, order[2:])])
    return SortedTable(title, [("method", True), *((column, False) for column in table.columns[2:])], rows)


def _scores(rows: Sequence[Summary]) -> SortedTable:
    table = score_rows(rows, "beside")
    alone = all(len(row.seeds) == 1 for row in rows)
    kept = [i for i, title in enumerate(table.columns) if i and not (alone and title == "seeds")]
    bars = _bars(rows)
    lines = []
    for at, (texts, best) in enumerate(zip(table.rows, table.best, strict=True)):
        numbers = [number(texts[i], "best" if best[i] else "", bars.get((at, table.columns[i]))) for i in kept]
        lines.append([TableCell(texts[0], True), *numbers])
    columns = [("method", True), *((table.columns[i], False) for i in kept)]
    return SortedTable(f"Scores, {section_title(rows)}", columns, lines)


def _bars(rows: Sequence[Summary]) -> dict[tuple[int, str], Bar]:
    """Number of the row, title of the column -> bar: of shares from 0 to 1, of others to the column's highest."""
    bars = {}
    for key, title, _ in SCORE_COLUMNS:
        scores = {i: row.scores[key] for i, row in enumerate(rows) if key in row.scores}
        top = FULL if _is_share(key) else max((score.high for score in scores.values()), default=FULL)
        for i, score in scores.items():
            bars[i, title] = Bar.of(score.mean, score.low, score.high, top if top > 0 else FULL)
    return bars


def _is_share(key: str) -> bool:
    return not key.endswith(("_kl", "_js", "_entropy"))


def _all_scores(rows: Sequence[Summary], material: Material) -> SortedTable:
    about: dict[str, tuple[str, str]] = {}
    for row in rows:
        for score in material.of(row)[0].scores:
            about.setdefault(score["name"], (score.get("protocol", ""), score.get("unit", "")))
    columns = [("score", True), ("protocol", True), ("unit", True)]
    columns += [(named_apart(row, rows) if row.method != UNEDITED else UNEDITED, False) for row in rows]
    lines = []
    for name, words in about.items():
        shown = [number(row.scores[name].text("beside")) if name in row.scores else TableCell("-") for row in rows]
        lines.append([*(TableCell(text, True) for text in (name, *words)), *shown])
    return SortedTable("Every score", columns, lines)
