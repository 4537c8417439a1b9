"""The parts of errata store: what lies in a store, as tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from errata.cli.units import age_text, size_text
from errata.errors import ErrataError
from errata.record.tables import Table
from errata.store import SCHEMA, Store
from errata.upkeep import Entry


def store_at(folder: Path | None) -> Store:
    return Store(folder) if folder else Store.default()


def of_kind(found: Sequence[Entry], kind: str | None) -> list[Entry]:
    kinds = sorted({entry.kind for entry in found})
    if kind is not None and kind not in kinds:
        raise ErrataError(f"nothing of the kind {kind!r} in the store; it has {', '.join(kinds) or 'nothing'}")
    return [entry for entry in found if kind in (None, entry.kind)]


def by_kind(found: Sequence[Entry], now: float) -> Table:
    groups: dict[tuple[str, int], list[Entry]] = {}
    for entry in found:
        groups.setdefault((entry.kind, entry.schema), []).append(entry)
    rows = [_row([_kind(group[0])], group, now) for _, group in sorted(groups.items())]
    total = [_row(["all"], found, now)] if len(rows) > 1 else []
    return Table.plain(["kind", "shelves", "files", "size", "made", "last used"], [*rows, *total], 1)


def _row(names: list[str], group: Sequence[Entry], now: float) -> list[str]:
    made = [now - entry.made for entry in group]
    used = [now - entry.used for entry in group]
    counts = [str(len(group)), str(sum(entry.files for entry in group)), size_text(sum(e.size for e in group))]
    return [*names, *counts, _span(made), _span(used)]


def _span(ages: Sequence[float]) -> str:
    ends = list(dict.fromkeys(map(age_text, (min(ages), max(ages)))))
    return f"{' to '.join(ends)} ago"


def by_shelf(found: Sequence[Entry], now: float) -> Table:
    rows = [
        [_kind(e), _told(e.made_of), str(e.files), size_text(e.size), age_text(now - e.made), age_text(now - e.used)]
        for e in found
    ]
    return Table.plain(["kind", "made of", "files", "size", "made", "used"], rows, 2)


def _kind(entry: Entry) -> str:
    return entry.kind if entry.schema == SCHEMA else f"{entry.kind} (schema {entry.schema}, not read)"


def _told(made_of: dict[str, Any]) -> str:
    """What an entry was made from, as far as it is text or a number; long values are cut."""
    plain = {key: value for key, value in made_of.items() if isinstance(value, str | int | float)}
    return ", ".join(f"{key} {str(value)[:20]}" for key, value in plain.items())[:90] or "-"
