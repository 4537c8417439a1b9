"""Bench records to tables: a row per method and setting, the unedited model first, means over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from errata.record.cell import UNEDITED, CellRecord, Measured
from errata.record.tables import DETAIL_COLUMNS, Column, Table, score_columns

DETAILS = "subjects edited once or more often, and entropy of neighbours in nats"
Show = Literal["mean", "beside", "below"]
"""A mean alone; with both ends of its spread beside it; or with half its spread on a line of its own."""


@dataclass(frozen=True)
class Spread:
    """A score over seeds: mean, lowest, highest. Of a single seed: its bootstrap interval over records."""

    values: tuple[float, ...]
    low: float
    high: float

    @classmethod
    def of(cls, found: Sequence[Measured]) -> Spread:
        values = tuple(measured.value for measured in found)
        if len(found) == 1:
            return cls(values, found[0].low, found[0].high)
        return cls(values, min(values), max(values))

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; None for a single one."""
        return stdev(self.values) if len(self.values) > 1 else None

    def text(self, show: Show) -> str:
        half = f"{(self.high - self.low) / 2:.3f}".removeprefix("0")
        around = {"mean": "", "beside": f" ({between(self.low, self.high)})", "below": f"\n±{half}"}
        return f"{self.mean:.3f}{around[show]}"


@dataclass(frozen=True)
class Summary:
    """Cells that differ in their seed only."""

    model: str
    dataset: str
    edits: int
    method: str
    settings: tuple[tuple[str, Any], ...]
    seeds: tuple[int, ...]
    scores: dict[str, Spread]
    by_seed: dict[int, CellRecord]

    @property
    def section(self) -> tuple[str, str, int]:
        return self.model, self.dataset, self.edits

    def named(self, paths: Iterable[str]) -> str:
        """The method and its values at these paths."""
        return ", ".join([self.method, *setting_texts((p, v) for p, v in self.settings if p in paths)])

    def seconds(self, stage: str) -> float:
        """Mean over seeds."""
        return fmean(cell.seconds.get(stage, 0.0) for cell in self.by_seed.values())

    def memory(self, kind: str) -> float:
        """The most of any seed, in MiB."""
        return max(cell.memory.get(kind, 0.0) for cell in self.by_seed.values())


def over_seeds(records: Iterable[CellRecord]) -> list[Summary]:
    """One row for the cells that differ only in their seed, in the order they come; unedited first in a section."""
    groups: dict[tuple[Any, ...], list[CellRecord]] = {}
    for r in records:
        groups.setdefault((r.model, r.dataset, r.edits, r.method, r.settings), []).append(r)
    rows = []
    for (model, dataset, edits, method, settings), cells in groups.items():
        names = [name for name in cells[0].scores if all(name in cell.scores for cell in cells)]
        scores = {name: Spread.of([cell.scores[name] for cell in cells]) for name in names}
        by_seed = {cell.seed: cell for cell in cells}
        rows.append(Summary(model, dataset, edits, method, settings, tuple(by_seed), scores, by_seed))
    return sorted(rows, key=lambda row: row.method != UNEDITED)


def sections(rows: Sequence[Summary], show: Show = "beside") -> dict[str, Table]:
    """A grid per model, dataset and number of edits, by title; below it one of `DETAIL_COLUMNS`, if there are any."""
    kinds = list(dict.fromkeys(row.section for row in sorted(rows, key=lambda r: (r.model, r.dataset, r.edits))))
    found = {}
    for kind in kinds:
        mine = [row for row in rows if row.section == kind]
        found[section_title(mine)] = score_rows(mine, show)
        if any(key in row.scores for row in mine for key, _, _ in DETAIL_COLUMNS):
            found[f"{section_title(mine)}: {DETAILS}"] = score_rows(mine, show, DETAIL_COLUMNS)
    return found


def section_title(rows: Sequence[Summary]) -> str:
    """What the rows of a section have in common."""
    model, dataset, edits = rows[0].section
    edited = [row for row in rows if row.method != UNEDITED]
    differing_paths = differing(edited)
    fixed = setting_texts({item: None for row in edited for item in row.settings if item[0] not in differing_paths})
    return ", ".join(filter(None, [Path(model).name, Path(dataset).name, f"{edits} edits", *fixed]))


def score_rows(rows: Sequence[Summary], show: Show, columns: Sequence[Column] = ()) -> Table:
    """These scores (all with a column, if none are named) over rows of one section, a column per swept setting.

    The best edited ones are marked.
    """
    edited = [row for row in rows if row.method != UNEDITED]
    swept = differing(edited)
    better = {
        name: score.higher_is_better
        for row in rows
        for cell in row.by_seed.values()
        for name, score in cell.scores.items()
    }
    present = [column for column in columns or score_columns(better) if any(column[0] in row.scores for row in rows)]
    cells, best = [], []
    for row in rows:
        mine = dict(row.settings)
        line = [row.method, *(value_text(mine[path]) if path in mine else "" for path in swept), str(len(row.seeds))]
        marks = [False] * len(line)
        for key, _, higher in present:
            means = [round(other.scores[key].mean, 3) for other in edited if key in other.scores]
            top = (max if higher else min)(means, default=None)
            has = key in row.scores
            line.append(row.scores[key].text(show) if has else "-")
            tells = higher is not None and row in edited and has and len(set(means)) > 1
            marks.append(tells and round(row.scores[key].mean, 3) == top)
        cells.append(line)
        best.append(marks)
    names = [short(path) for path in swept]
    heads = [path.removeprefix("solvers.") if names.count(short(path)) > 1 else short(path) for path in swept]
    return Table(["", *heads, "seeds", *(title for _, title, _ in present)], cells, best, 1)


def cost_rows(rows: Sequence[Summary]) -> Table:
    """Seconds per stage (means over seeds) and peak memory of every edited row."""
    edited = [row for row in rows if row.method != UNEDITED]
    stages, kinds = _measured(edited)
    lines = []
    for row in edited:
        spent = [f"{row.seconds(stage):.1f}" for stage in stages]
        held = [f"{row.memory(kind):.0f}" for kind in kinds]
        where = [Path(row.model).name, Path(row.dataset).name, str(row.edits)]
        lines.append([row.named(varied(edited)), *where, *spent, *held])
    columns = ["", "model", "dataset", "edits", *(f"{stage} s" for stage in stages), *(f"{kind} MiB" for kind in kinds)]
    return Table.plain(columns, lines, 3)


def _measured(rows: Sequence[Summary]) -> tuple[list[str], list[str]]:
    """Stages that took time, the total last, and kinds of memory."""
    cells = [cell for row in rows for cell in row.by_seed.values()]
    stages = dict.fromkeys(stage for cell in cells for stage in cell.seconds)
    kinds = dict.fromkeys(kind for cell in cells for kind in cell.memory)
    return sorted(stages, key=lambda stage: stage == "total"), list(kinds)


def value_rows(rows: Sequence[Summary]) -> list[dict[str, Any]]:
    """Flat rows for a data frame: settings by path, of every score mean, low, high, deviation; seconds and MiB."""
    paths = list(dict.fromkeys(path for row in rows for path, _ in row.settings))
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    stages, kinds = _measured(rows)
    found = []
    for row in rows:
        flat: dict[str, Any] = {"model": row.model, "dataset": row.dataset, "edits": row.edits, "method": row.method}
        flat["seeds"] = " ".join(map(str, row.seeds))
        flat |= {path: dict(row.settings).get(path, "") for path in paths}
        for name in names:
            score = row.scores.get(name)
            parts = (score.mean, score.low, score.high, score.deviation) if score else ("",) * 4
            flat |= zip((name, f"{name}_low", f"{name}_high", f"{name}_sd"), parts, strict=True)
        flat |= {f"seconds_{stage}": row.seconds(stage) for stage in stages}
        flat |= {f"mib_{kind}": row.memory(kind) for kind in kinds}
        found.append(flat)
    return found


def varied(rows: Sequence[Summary]) -> list[str]:
    """Paths that take more than one value among the rows."""
    values: dict[str, set[Any]] = {}
    for row in rows:
        for path, value in row.settings:
            values.setdefault(path, set()).add(value)
    return [path for path, found in values.items() if len(found) > 1]


def named_apart(row: Summary, rows: Sequence[Summary]) -> str:
    """The method, with those of its settings that vary among the method's rows."""
    return row.named(varied([other for other in rows if other.method == row.method]))


def differing(rows: Sequence[Summary]) -> list[str]:
    """Paths that not all rows have, or not with one value."""
    paths = dict.fromkeys(path for row in rows for path, _ in row.settings)
    return [path for path in paths if len({dict(row.settings).get(path, ...) for row in rows}) > 1]


def between(low: float, high: float) -> str:
    """`.210-.340`, without leading zeros."""
    return "-".join(f"{end:.3f}".removeprefix("0") for end in (low, high))


def setting_texts(settings: Iterable[tuple[str, Any]]) -> list[str]:
    return [f"{short(path)}={value_text(value)}" for path, value in settings]


def short(path: str) -> str:
    """`weight` of `solvers.least_squares.weight`."""
    return path.rsplit(".", 1)[-1]


def value_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
