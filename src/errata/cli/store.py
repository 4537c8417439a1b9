"""errata store: what is kept of earlier runs, how large and how old it is, and making room."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from errata.cli.console import lines, out, show
from errata.errors import ErrataError
from errata.record.tables import Table
from errata.store import SCHEMA, Store
from errata.upkeep import Entry, entries, leftovers, remove, superfluous

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BYTES = {"": 1, "B": 1} | {f"{letter}B": 1000**i for i, letter in enumerate("KMGT", start=1)}
_BYTES |= {f"{letter}IB": 1024**i for i, letter in enumerate("KMGT", start=1)}

Where = Annotated[Path | None, typer.Option("--store", help="The store's folder; default: $ERRATA_STORE or the cache.")]
Kind = Annotated[str | None, typer.Option(help="Only this kind, such as anchors or statistics.")]

store_app = typer.Typer(no_args_is_help=True, help="List or prune what is kept of earlier runs.")


@store_app.command("list")
def list_store(
    store: Where = None,
    kind: Kind = None,
    each: Annotated[bool, typer.Option("--each", help="A line for each shelf: all that is made of the same.")] = False,
) -> None:
    """Sizes, kinds and age. Nothing is changed."""
    at, now = _store(store), time.time()
    found = _of_kind(entries(at), kind)
    out.print(f"{at.root}", highlight=False, soft_wrap=True)
    show(_each(found, now) if each else _by_kind(found, now))
    left = leftovers(at, now)
    if left:
        size = told_size(sum(one.size for one in left))
        out.print(f"{len(left)} leftovers of killed processes or damaged files, {size}: `errata store prune`")


@store_app.command("prune")
def prune_store(
    older_than: Annotated[str | None, typer.Option(help="Remove what was not used for so long: 30d, 12h, 2w.")] = None,
    max_size: Annotated[str | None, typer.Option(help="Then remove what was used longest ago, down to 10GB.")] = None,
    stale: Annotated[bool, typer.Option("--stale", help="Also what another version wrote in another form.")] = False,
    kind: Kind = None,
    store: Where = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Make room: by age, by size, and always leftovers. Asks first. What is removed is made again when it is needed."""
    at, now = _store(store), time.time()
    age = None if older_than is None else parse_age(older_than)
    limit = None if max_size is None else parse_size(max_size)
    found = _of_kind(entries(at), kind)
    gone = superfluous(found, now, older_than=age, max_size=limit, stale=stale)
    left = leftovers(at, now)
    stays = sum(entry.size for entry in found) - sum(entry.size for entry in gone)
    if gone:
        show(_by_kind(gone, now))
    lines(
        [
            ("store", at.root),
            ("to remove", f"{len(gone)} shelves, {told_size(sum(entry.size for entry in gone))}"),
            ("leftovers", f"{len(left)}, {told_size(sum(one.size for one in left))}"),
            ("stays", told_size(stays)),
        ]
    )
    if dry_run or not (gone or left):
        return
    if not yes:
        typer.confirm("Remove?", abort=True)
    out.print(f"{told_size(remove([*gone, *left]))} freed")


def parse_age(text: str) -> float:
    """`30d` in seconds. Raises ErrataError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text.strip().lower())
    if not found:
        raise ErrataError(f"{text!r}: write an age as a number and s, m, h, d or w, such as 30d")
    return float(found[1]) * _SECONDS[found[2]]


def parse_size(text: str) -> int:
    """`10GB` or `10GiB` in bytes. Raises ErrataError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?I?B?)", text.strip().upper())
    if not found or found[2] not in _BYTES:
        raise ErrataError(f"{text!r}: write a size as a number and B, KB, MB, GB, TB or KiB to TiB, such as 10GB")
    return int(float(found[1]) * _BYTES[found[2]])


def told_size(size: float) -> str:
    """Bytes to read."""
    for unit in ("B", "KB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"


def told_age(seconds: float) -> str:
    """`3d`: whole units, the largest that fits."""
    fits = [(unit, length) for unit, length in _SECONDS.items() if unit != "w" and seconds >= length]
    unit, length = fits[-1] if fits else ("s", 1)
    return f"{max(0.0, seconds) / length:.0f}{unit}"


def _store(folder: Path | None) -> Store:
    return Store(folder) if folder else Store.default()


def _of_kind(found: Sequence[Entry], kind: str | None) -> list[Entry]:
    kinds = sorted({entry.kind for entry in found})
    if kind is not None and kind not in kinds:
        raise ErrataError(f"nothing of the kind {kind!r} in the store; it has {', '.join(kinds) or 'nothing'}")
    return [entry for entry in found if kind in (None, entry.kind)]


def _by_kind(found: Sequence[Entry], now: float) -> Table:
    groups: dict[tuple[str, int], list[Entry]] = {}
    for entry in found:
        groups.setdefault((entry.kind, entry.schema), []).append(entry)
    rows = [_row([_kind(group[0])], group, now) for _, group in sorted(groups.items())]
    total = [_row(["all"], found, now)] if len(rows) > 1 else []
    return Table.plain(["kind", "shelves", "files", "size", "made", "last used"], [*rows, *total], 1)


def _row(names: list[str], group: Sequence[Entry], now: float) -> list[str]:
    made = [now - entry.made for entry in group]
    used = [now - entry.used for entry in group]
    counts = [str(len(group)), str(sum(entry.files for entry in group)), told_size(sum(e.size for e in group))]
    return [*names, *counts, _span(made), _span(used)]


def _span(ages: Sequence[float]) -> str:
    ends = list(dict.fromkeys(map(told_age, (min(ages), max(ages)))))
    return f"{' to '.join(ends)} ago"


def _each(found: Sequence[Entry], now: float) -> Table:
    rows = [
        [_kind(e), _told(e.made_of), str(e.files), told_size(e.size), told_age(now - e.made), told_age(now - e.used)]
        for e in found
    ]
    return Table.plain(["kind", "made of", "files", "size", "made", "used"], rows, 2)


def _kind(entry: Entry) -> str:
    return entry.kind if entry.schema == SCHEMA else f"{entry.kind} (schema {entry.schema}, not read)"


def _told(made_of: dict[str, Any]) -> str:
    """The plain ingredients; long ones are cut."""
    plain = {key: value for key, value in made_of.items() if isinstance(value, str | int | float)}
    return ", ".join(f"{key} {str(value)[:20]}" for key, value in plain.items())[:90] or "-"
