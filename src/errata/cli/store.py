"""errata store: what earlier runs have stored, how large and how old it is, and removing it."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import lines, out, show
from errata.errors import ErrataError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BYTES = {"": 1, "B": 1} | {f"{letter}B": 1000**i for i, letter in enumerate("KMGT", start=1)}
_BYTES |= {f"{letter}IB": 1024**i for i, letter in enumerate("KMGT", start=1)}

Where = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of the store. Default: $ERRATA_STORE, or a folder in the user's cache."),
]
Kind = Annotated[str | None, typer.Option(help="Only results of this kind, such as anchors or statistics.")]

store_app = typer.Typer(no_args_is_help=True, help="List or remove what earlier runs have computed and stored.")


@store_app.command("list")
def list_store(
    store: Where = None,
    kind: Kind = None,
    each: Annotated[
        bool,
        typer.Option(
            "--each", help="Print a line for each shelf, which holds what was made from the same model and settings."
        ),
    ] = False,
) -> None:
    """List what is stored: kinds, sizes and ages. Changes nothing."""
    from errata.cli.work.store import by_kind, by_shelf, of_kind, store_at
    from errata.upkeep import entries, leftovers

    at, now = store_at(store), time.time()
    found = of_kind(entries(at), kind)
    out.print(f"{at.root}", highlight=False, soft_wrap=True)
    show(by_shelf(found, now) if each else by_kind(found, now))
    left = leftovers(at, now)
    if left:
        size = told_size(sum(one.size for one in left))
        out.print(
            f"{len(left)} leftovers of killed processes or damaged files, {size}; `errata store prune` removes them"
        )


@store_app.command("prune")
def prune_store(
    older_than: Annotated[
        str | None, typer.Option(help="Remove what has not been used for this long, such as 30d, 12h or 2w.")
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(help="Then remove what was used longest ago until the store is this small, such as 10GB."),
    ] = None,
    stale: Annotated[
        bool, typer.Option("--stale", help="Also remove what other versions of errata wrote and this one cannot read.")
    ] = False,
    kind: Kind = None,
    store: Where = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be removed, and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
) -> None:
    """Remove stored results by age or size, and what killed processes left. They are computed again when needed."""
    from errata.cli.work.store import by_kind, of_kind, store_at
    from errata.upkeep import entries, leftovers, remove, superfluous

    at, now = store_at(store), time.time()
    age = None if older_than is None else parse_age(older_than)
    limit = None if max_size is None else parse_size(max_size)
    found = of_kind(entries(at), kind)
    gone = superfluous(found, now, older_than=age, max_size=limit, stale=stale)
    left = leftovers(at, now)
    stays = sum(entry.size for entry in found) - sum(entry.size for entry in gone)
    if gone:
        show(by_kind(gone, now))
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
