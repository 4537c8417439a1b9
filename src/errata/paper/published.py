"""PaperTable: one published table, read from the YAML file of its name in this folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from errata.errors import UnknownName


@dataclass(frozen=True)
class PaperRow:
    """A row under the paper's own name for the method, and the names in errata that it stands for."""

    name: str
    methods: tuple[str, ...]
    values: Mapping[str, float]
    """Score name -> figure, in the table's units."""
    note: str = ""


@dataclass(frozen=True)
class PaperTable:
    """A published table. `units`, in words; `per_cent` tells the columns given so; notes are on the whole of it."""

    key: str
    title: str
    source: str
    model: str
    dataset: str
    edits: int
    seeds: int
    units: str
    columns: tuple[str, ...]
    rows: tuple[PaperRow, ...]
    notes: tuple[str, ...]

    def row_of(self, method: str) -> PaperRow | None:
        """The row that an errata method is compared with."""
        return next((row for row in self.rows if method in row.methods), None)

    def per_cent(self, column: str) -> bool:
        """Whether a column is given in per cent; divergences are in nats."""
        return not column.endswith("_kl")


@cache
def paper_tables() -> dict[str, PaperTable]:
    """Every table shipped with errata, by name."""
    files = resources.files("errata.paper").iterdir()
    found = {file.name.removesuffix(".yaml"): file for file in files if file.name.startswith("table")}
    return {name: _table(name, yaml.safe_load(found[name].read_text(encoding="utf-8"))) for name in sorted(found)}


def paper_table(name: str) -> PaperTable:
    """The table of that name. Raises UnknownName with the nearest names."""
    if name not in paper_tables():
        raise UnknownName("table of the paper", name, paper_tables())
    return paper_tables()[name]


def _table(key: str, row: Mapping[str, Any]) -> PaperTable:
    columns = tuple(row["columns"])
    rows = tuple(
        PaperRow(
            name,
            tuple(one["methods"]),
            dict(zip(columns, map(float, one["values"]), strict=True)),
            one.get("note", ""),
        )
        for name, one in row["rows"].items()
    )
    fields = {name: row[name] for name in ("title", "source", "model", "dataset", "edits", "seeds", "units")}
    return PaperTable(key, **fields, columns=columns, rows=rows, notes=tuple(row["notes"]))
