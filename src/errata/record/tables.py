"""Tables of text: what a run record says, ready to be printed or written as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from errata.visible import markdown as escaped

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

NO_COLUMN = frozenset(
    (
        *("efficacy_diff", "generalisation_diff", "novel_diff", "neighbourhood_diff"),
        *("novel_success", "neighbourhood_accuracy", "specificity_js"),
        *("far_js", "far_top1", "far_top5", "far_top10", "far_entropy"),
        *("efficacy_free", "generalisation_free", "generalisation_stop", "novel_free", "novel_stop"),
        *("portability_reasoning", "portability_subject_aliasing", "portability_logical_generalization"),
        *("portability_one_hop", "portability_multi_hop", "portability_personas"),
        *("locality_relation_specificity", "locality_forgetfulness", "locality_neighborhood"),
    )
)
"""Scores of errata's own that records hold and tables leave out, so that a table stays readable."""


def score_columns(better: Mapping[str, bool | None]) -> list[Column]:
    """Columns of the scores that are there, given by name with what is better; a new probe's is titled by its name."""
    listed = {key for key, _, _ in (*SCORE_COLUMNS, *DETAIL_COLUMNS)} | NO_COLUMN
    usual = [column for column in SCORE_COLUMNS if column[0] in better]
    return usual + [(name, name, higher) for name, higher in better.items() if name not in listed]


@dataclass(frozen=True)
class Table:
    """A table of text. `best` marks cells; the first `text_columns` columns are words, the others numbers.

    Raises ValueError if its rows are not as long as its head.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: Sequence[Sequence[bool]]
    text_columns: int = 1

    def __post_init__(self) -> None:
        if any(len(line) != len(self.columns) for lines in (self.rows, self.best) for line in lines):
            raise ValueError(f"every row of a table should have {len(self.columns)} cells")
        if len(self.best) != len(self.rows):
            raise ValueError("a table should mark as many rows as it has")

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
        """The table in Markdown."""
        align = ["---" if i < self.text_columns else "---:" for i in range(len(self.columns))]
        head, *body = ([escaped(cell) for cell in row] for row in (self.columns, *self.rows))
        marked = [
            [f"**{cell}**" if best else cell for cell, best in zip(row, marks, strict=True)]
            for row, marks in zip(body, self.best, strict=True)
        ]
        return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, align, *marked])


def markdown(tables: Mapping[str, Table], title: str = "", note: str = "") -> str:
    """Titled tables, a heading over each."""
    parts = [f"# {title}"] if title else []
    parts += [note] if note else []
    for name, table in tables.items():
        parts += [f"## {name}", table.markdown()]
    return "\n\n".join(parts) + "\n"


def number(value: float | None, form: str) -> str:
    """A number, or `-` where there is none."""
    return "-" if value is None else f"{value:{form}}"


def score_table(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Row per model state ('unedited' first), column per score; the best among the edited is marked.

    `records`: row name -> score records, each with `name` and `value`.
    """
    scores = {row: {record["name"]: record for record in found} for row, found in records.items()}
    present = score_columns(
        {name: record.get("higher_is_better") for found in scores.values() for name, record in found.items()}
    )
    edited = [name for name in scores if name != "unedited"]
    rows, best = [], []
    for name, found in scores.items():
        cells, marks = [name], [False]
        for key, _, higher in present:
            values = {row: scores[row][key]["value"] for row in edited if key in scores[row]}
            top = (max if higher else min)(values.values(), default=None)
            cells.append(f"{found[key]['value']:.3f}" if key in found else "-")
            marks.append(higher is not None and len(set(values.values())) > 1 and values.get(name) == top)
        rows.append(cells)
        best.append(marks)
    return Table(["", *(title for _, title, _ in present)], rows, best)


def skill_table(skills: Sequence[Mapping[str, Any]]) -> Table:
    """Row per task and metric: before, after, and the difference with its standard error where there is one."""
    columns = (("before", ".3f"), ("after", ".3f"), ("difference", "+.3f"), ("error", ".3f"))

    rows = [[s["task"], s["metric"], *(number(s[key], sign) for key, sign in columns)] for s in skills]
    return Table.plain(["task", "metric", "before", "after", "difference", "standard error"], rows, 2)


def residual_table(ledgers: Mapping[str, Mapping[str, Any]]) -> Table:
    """Row per method: what is left of the way to its last layer's target after each edited layer (method 6.2).

    Beneath it, where a norm stands behind the outputs, what that keeps back of each layer's residual (method 1.9).
    """
    swept = {name: [row for row in ledger["rows"] if row["remaining"]] for name, ledger in ledgers.items()}
    layers = sorted({row["edit"] for steps in swept.values() for row in steps})
    rows = []
    for name, steps in swept.items():
        left = {row["edit"]: list(row["remaining"].values())[-1] for row in steps}
        if left:
            rows.append([name, *(number(left.get(layer), ".2f") for layer in layers)])
        lost = {row["edit"]: row["swallowed"] for row in steps if row.get("swallowed") is not None}
        if lost:
            rows.append([f"{name}, swallowed by the norm", *(number(lost.get(layer), ".2f") for layer in layers)])
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
