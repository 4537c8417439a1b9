"""errata store: what earlier runs have stored, how large and how old it is, and removing it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import lines, say, show
from errata.cli.units import parse_age, parse_size, size_text

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
    from errata.upkeep import check_store, entries, leftovers

    at, now = store_at(store), time.time()
    check_store(at)
    found = of_kind(entries(at), kind)
    say(f"{at.root}")
    show(by_shelf(found, now) if each else by_kind(found, now))
    left = leftovers(at, now)
    if left:
        size = size_text(sum(one.size for one in left))
        say(f"{len(left)} leftovers of killed processes or damaged files, {size}; `errata store prune` removes them")


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
    from errata.upkeep import check_store, entries, leftovers, remove, superfluous

    at, now = store_at(store), time.time()
    check_store(at)
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
            ("to remove", f"{len(gone)} shelves, {size_text(sum(entry.size for entry in gone))}"),
            ("leftovers", f"{len(left)}, {size_text(sum(one.size for one in left))}"),
            ("stays", size_text(stays)),
        ]
    )
    for path in [*(entry.folder for entry in gone), *(one.path for one in left)]:
        say(f"  {path}")
    if dry_run or not (gone or left):
        return
    if not yes:
        typer.confirm("Remove?", abort=True)
    say(f"{size_text(remove([*gone, *left]))} freed")
