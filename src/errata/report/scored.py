"""The page's tables of scores: the paper's columns with intervals, every score with its protocol, the costs."""

from __future__ import annotations

from collections.abc import Sequence

from errata.record.cell import UNEDITED
from errata.record.tables import SCORE_COLUMNS, Table, skill_table
from errata.report.comparison import comparison, comparison_note
from errata.report.frontier import by_section
from errata.report.markup import Cell, folded, grid_table, heading, note, number, strip, table, word
from errata.report.material import Material
from errata.report.summary import Row, cost_rows, named_apart, score_rows, section_title

NOTE = (
    "Shares, except D_KL in nats. Below each mean: the lowest and highest seed, or for a single seed the 95\u00a0% "
    "bootstrap interval over records. The best of the edited in each column is marked. A column's head sorts by it."
)
INSIDE = "the paper's figure is inside our range"


def score_tables(material: Material) -> str:
    """A table per section, the unedited model first, and below it everything else that was measured."""
    sections = list(by_section(material.rows()))
    parts = [note(NOTE)] if sections else []
    for rows in sections:
        parts += [heading(section_title(rows), len(sections) > 1), _scores(rows)]
        parts.append(folded("Every score, with the protocol it was measured by", _all_scores(rows, material)))
    return "\n".join(parts)


def beside_paper(material: Material) -> str:
    """Per bench that was printed beside a published table: our figures, below each the paper's and the difference."""
    parts = []
    for published, rows in material.beside:
        for title, grid in comparison(rows, published).items():
            parts.append(heading(title) + _beside(grid, title))
        parts.append(
            folded("What to know of the paper's figures", "".join(map(note, comparison_note(published, rows))))
        )
    return "".join(parts)


def _beside(grid: Table, title: str) -> str:
    """A comparison's lines, three of which are a row here; the last one, of the order of methods, stays one."""
    *lines, order = grid.rows
    rows = []
    for at in range(0, len(lines), 3):
        told = zip(*lines[at : at + 3], grid.best[at + 2], strict=True)
        _, _, *figures = (number(f"{ours} (paper {paper}, {gap})", near, "", INSIDE) for ours, paper, gap, near in told)
        rows.append([word(lines[at][0]), *figures])
    rows.append([word(order[1]), *map(number, order[2:])])
    columns = [("method", True), *((column, False) for column in grid.columns[2:])]
    return note(f"Marked: {INSIDE}.") + table(columns, rows, title)


def abilities(material: Material) -> str:
    """Per run that has it: general ability before and after."""
    told = {run.title: skill_table(run.ability) for run in material.runs.values() if run.ability}
    return "".join(heading(title, len(told) > 1) + grid_table(grid, title) for title, grid in told.items())


def costs(material: Material) -> str:
    """Seconds per stage and peak memory."""
    grid = cost_rows(material.rows())
    kept = [i for i in range(len(grid.columns)) if i == 0 or any(row[i] for row in grid.rows)]
    words = grid.text_columns - sum(i not in kept for i in range(grid.text_columns))
    columns = ["method", *(grid.columns[i] for i in kept[1:])]
    shown = Table.plain(columns, [[row[i] for i in kept] for row in grid.rows], words + 1)
    words_below = "Anchors and statistics that methods share count where they were first made."
    return note(words_below) + grid_table(shown, "Costs") if len(grid.columns) > 4 and grid.rows else ""


def _scores(rows: Sequence[Row]) -> str:
    grid = score_rows(rows, "beside")
    keys = {title: key for key, title, _ in SCORE_COLUMNS}
    tops = {
        key: 1.0 if unit_is_share(key) else max(row.scores[key].high for row in rows if key in row.scores) or 1.0
        for key in keys.values()
        if any(key in row.scores for row in rows)
    }
    alone = all(len(row.seeds) == 1 for row in rows)
    kept = [i for i, title in enumerate(grid.columns) if not (alone and title == "seeds")]
    lines = []
    for row, texts, best in zip(rows, grid.rows, grid.best, strict=True):
        cells = [word(texts[0])]
        for i in kept[1:]:
            score = row.scores.get(keys.get(grid.columns[i], ""))
            under = strip(score.mean, score.low, score.high, tops[keys[grid.columns[i]]]) if score else ""
            cells.append(number(texts[i], best[i], under))
        lines.append(cells)
    return table([(grid.columns[i] or "method", i == 0) for i in kept], lines, f"Scores, {section_title(rows)}")


def unit_is_share(key: str) -> bool:
    return not key.endswith(("_kl", "_js", "_entropy"))


def _all_scores(rows: Sequence[Row], material: Material) -> str:
    about: dict[str, tuple[str, str]] = {}
    for row in rows:
        for score in material.of(row)[0].scores:
            about.setdefault(score["name"], (score.get("protocol", ""), score.get("unit", "")))
    columns = [("score", True), ("protocol", True), ("unit", True)]
    columns += [(named_apart(row, rows) if row.method != UNEDITED else UNEDITED, False) for row in rows]
    lines = []
    for name, (protocol, unit) in about.items():
        shown = [number(row.scores[name].told("beside")) if name in row.scores else Cell("-") for row in rows]
        lines.append([word(name), word(protocol), word(unit), *shown])
    return table(columns, lines, "Every score") if lines else ""


def settings_table(cells: Sequence[tuple[str, dict[str, str]]]) -> Table:
    """Row per run, a column per setting in which they differ."""
    paths = list(dict.fromkeys(path for _, mine in cells for path in mine))
    return Table.plain(
        ["run", *paths], [[name, *(mine.get(p, "") for p in paths)] for name, mine in cells], 1 + len(paths)
    )
