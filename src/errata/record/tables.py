"""Grids of text: what a run record says, ready to be printed or written as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Column = tuple[str, str, bool | None]
"""Score name, column title, whether higher is better; None if it only describes."""

SCORE_COLUMNS: tuple[Column, ...] = (
    ("efficacy_success", "Eff. succ.", True),
    ("efficacy_accuracy", "Eff. acc.", True),
    ("generalisation_success", "Gen. succ.", True),
    ("generalisation_accuracy", "Gen. acc.", True),
    ("novel_accuracy", "Novel acc.", True),
    ("efficacy_stop", "Free gen.", True),
    ("specificity_kl", "D_KL", False),
    ("specificity_top1", "Top-1", True),
    ("specificity_top5", "Top-5", True),
    ("specificity_top10", "Top-10", True),
    ("far_kl", "Far D_KL", False),
    ("neighbourhood_success", "Neigh. succ.", True),
    ("portability", "Portability", True),
    ("locality", "Locality", True),
    ("fluency", "Fluency", True),
    ("consistency", "Consistency", True),
)

DETAIL_COLUMNS: tuple[Column, ...] = (
    ("efficacy_success_unique", "Succ. unique", True),
    ("efficacy_success_repeated", "Succ. repeated", True),
    ("efficacy_accuracy_unique", "Acc. unique", True),
    ("efficacy_accuracy_repeated", "Acc. repeated", True),
    ("specificity_entropy", "Entropy", None),
)
"""Efficacy by how often a subject is edited, the unedited model's entropy on neighbours (evaluation 7.6, 7.13)."""


@dataclass(frozen=True)
class Table:
    """A table of text. `best` marks cells; the first `text_columns` columns are words, the others numbers."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: Sequence[Sequence[bool]]
    text_columns: int = 1

    @classmethod
    def plain(cls, columns: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> Table:
        return cls(columns, rows, [[False] * len(columns) for _ in rows], text_columns)

    def turned(self) -> Table:
        """Rows as columns."""
        columns = [self.columns[0], *(row[0] for row in self.rows)]
        rows = [[self.columns[i], *(row[i] for row in self.rows)] for i in range(1, len(self.columns))]
        best = [[False, *(marks[i] for marks in self.best)] for i in range(1, len(self.columns))]
        return Table(columns, rows, best)

    def markdown(self) -> str:
        """The grid as a Markdown table."""
        align = ["---" if i < self.text_columns else "---:" for i in range(len(self.columns))]
        head, *body = ([cell.replace("|", "\\|") for cell in row] for row in (self.columns, *self.rows))
        marked = [
            [f"**{cell}**" if best else cell for cell, best in zip(row, marks, strict=True)]
            for row, marks in zip(body, self.best, strict=True)
        ]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, align, *marked])


def score_table(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Row per model state ('unedited' first), column per score; the best among the edited is marked.

    `records`: row name -> score records, each with `name` and `value`.
    """
    scores = {row: {record["name"]: record for record in found} for row, found in records.items()}
    present = [c for c in SCORE_COLUMNS if any(c[0] in found for found in scores.values())]
    edited = [name for name in scores if name != "unedited"]
    rows, best = [], []
    for name, found in scores.items():
        cells, marks = [name], [False]
        for key, _, higher in present:
            values = {row: scores[row][key]["value"] for row in edited if key in scores[row]}
            top = (max if higher else min)(values.values(), default=None)
            cells.append(f"{found[key]['value']:.3f}" if key in found else "-")
            marks.append(len(set(values.values())) > 1 and values.get(name) == top)
        rows.append(cells)
        best.append(marks)
    return Table(["", *(title for _, title, _ in present)], rows, best)


def skill_table(skills: Sequence[Mapping[str, Any]]) -> Table:
    """Row per task and metric: before, after, and the difference with its standard error where there is one."""

    def told(value: float | None, sign: str = "") -> str:
        return "-" if value is None else f"{value:{sign}.3f}"

    rows = [
        [s["task"], s["metric"], told(s["before"]), told(s["after"]), told(s["difference"], "+"), told(s["error"])]
        for s in skills
    ]
    return Table.plain(["task", "metric", "before", "after", "difference", "standard error"], rows, 2)


def residual_table(ledgers: Mapping[str, Mapping[str, Any]]) -> Table:
    """Row per method: what is left of the way to its last layer's target after each edited layer (method 6.2)."""
    swept = {name: ledger for name, ledger in ledgers.items() if ledger["rows"]}
    layers = sorted({row["edit"] for ledger in swept.values() for row in ledger["rows"]})
    rows = []
    for name, ledger in swept.items():
        left = {row["edit"]: list(row["remaining"].values())[-1] for row in ledger["rows"]}
        rows.append([name, *(f"{left[layer]:.2f}" if layer in left else "-" for layer in layers)])
    return Table.plain(["after editing layer", *map(str, layers)], rows)


def health_table(ledgers: Mapping[str, Mapping[str, Any]]) -> Table:
    """Row per batch under a guard: shift and perplexity on held-out texts, and the matrix that grew most."""
    rows = [
        [
            name,
            str(health["batch"] + 1),
            f"{health['divergence']:.3f}",
            f"{health['perplexity']:.2f}",
            f"{max(health['growth'].values()):.3f}",
        ]
        for name, ledger in ledgers.items()
        for health in ledger["health"]
    ]
    return Table.plain(["", "batch", "D_KL on held-out texts", "perplexity, times", "largest |dW| / |W|"], rows)


def seconds_table(ledgers: Mapping[str, Mapping[str, Any]]) -> Table:
    """Row per method, column per stage, in seconds of wall time."""
    stages = list(dict.fromkeys(stage for ledger in ledgers.values() for stage in ledger["seconds"]))
    rows = [[name, *(f"{led['seconds'].get(s, 0.0):.1f}" for s in stages)] for name, led in ledgers.items()]
    return Table.plain(["seconds", *stages], rows)


def answer_table(answers: Sequence[Mapping[str, str]]) -> Table:
    """Row per fact: prompt, what was wanted, and what the model said in each state."""
    columns = list(answers[0]) if answers else []
    return Table.plain(columns, [[row[column] for column in columns] for row in answers], len(columns))
