"""Upkeep of a store: what lies in it, how old it is, and making room.

The unit is a shelf: all that is made of the same. Safe beside running processes: a shelf is moved out of sight whole
before it is deleted, and whoever wanted it makes its values again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any
from uuid import uuid4

from errata.errors import StoreError
from errata.store import DAMAGED, DESCRIPTION, MARKER, SCHEMA, Store, is_shelf, mark

LEFT_ALONE = 3600.0
"""Seconds: a half-written file younger than this may still be at work."""
_REMOVED = ".removed-"
_SHELF = re.compile(r"[0-9a-f]{32}")
_VERSION = re.compile(r"v\d{1,9}")


@dataclass(frozen=True)
class Entry:
    """A shelf on the disk. Times are seconds since the epoch; `used` is when it was last read from or added to."""

    folder: Path
    kind: str
    schema: int
    size: int
    files: int
    made: float
    used: float

    @property
    def made_of(self) -> dict[str, Any]:
        """What made its values, as written beside them; empty if that is not there."""
        try:
            found = json.loads((self.folder / DESCRIPTION).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Leftover:
    """A file or folder that nobody will read: half written, damaged, or half removed.

    `touched`: when it was written to last; long ago if nobody can be at work on it.
    """

    path: Path
    size: int
    touched: float


def entries(store: Store) -> list[Entry]:
    """Every shelf, the one used last first. Those of other schemas too, which are never read."""
    found = [entry for schema, kind, folder in _folders(store) if (entry := _entry(schema, kind, folder))]
    return sorted(found, key=lambda entry: -entry.used)


def leftovers(store: Store, now: float) -> list[Leftover]:
    """What killed processes and damaged disks have left behind, unless it may still be at work."""
    found: list[Leftover] = []
    for schema, kind, folder in _folders(store, removed=True):
        inside = _files(folder)
        if folder.name.startswith(_REMOVED):
            found.append(Leftover(folder, sum(stat.st_size for _, stat in inside), -inf))
            continue
        half = [(path, stat) for path, stat in inside if _is_leftover(path)]
        found += [Leftover(path, s.st_size, -inf if path.suffix == DAMAGED else s.st_mtime) for path, s in half]
        if not half and _entry(schema, kind, folder) is None:
            with suppress(OSError):
                found.append(Leftover(folder, sum(stat.st_size for _, stat in inside), folder.stat().st_mtime))
    return [left for left in found if left.touched < now - LEFT_ALONE]


def superfluous(
    found: Sequence[Entry],
    now: float,
    *,
    older_than: float | None = None,
    max_size: int | None = None,
    stale: bool = False,
) -> list[Entry]:
    """The shelves to remove: those not used for `older_than` seconds, `stale` ones of other schemas, and then those
    used longest ago until the rest takes no more than `max_size` bytes."""
    goes = {
        entry.folder
        for entry in found
        if (older_than is not None and entry.used < now - older_than) or (stale and entry.schema != SCHEMA)
    }
    stays = sorted((entry for entry in found if entry.folder not in goes), key=lambda entry: -entry.used)
    total = 0
    for entry in stays:
        total += entry.size
        if max_size is not None and total > max_size:
            goes.add(entry.folder)
    return [entry for entry in found if entry.folder in goes]


def remove(gone: Iterable[Entry | Leftover]) -> int:
    """Delete them and return the bytes freed. A shelf used since it was listed stays. Raises StoreError."""
    freed = 0
    for one in gone:
        try:
            if isinstance(one, Leftover):
                _delete(one.path)
            else:
                now = _entry(one.schema, one.kind, one.folder)
                if now is None or now.used > one.used:
                    continue
                hidden = one.folder.with_name(f"{_REMOVED}{uuid4().hex}")
                os.replace(one.folder, hidden)
                _delete(hidden)
        except FileNotFoundError:
            continue
        except OSError as error:
            path = one.path if isinstance(one, Leftover) else one.folder
            raise StoreError(f"{path}: could not be removed ({error}); {freed:,} bytes were freed") from error
        freed += one.size
    return freed


def _delete(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def roots(store: Store) -> list[Path]:
    """The marked folders of a store, one for each schema: nothing outside them is errata's."""
    tops = _inside(store.root) if store.root else []
    return [top for top in tops if _VERSION.fullmatch(top.name) and (top / MARKER).is_file()]


def check_store(store: Store) -> None:
    """Raises StoreError if the store's folder holds other things and no store. An unmarked store is marked."""
    if store.root is None or not store.root.exists():
        return
    for top in _inside(store.root):
        if _VERSION.fullmatch(top.name) and any(top.iterdir()):
            mark(top)
    if not roots(store) and (not store.root.is_dir() or any(store.root.iterdir())):
        raise StoreError(
            f"{store.root} is not a store of errata: no v{SCHEMA} folder in it has the file {MARKER}. Nothing was "
            "removed. Give the folder of a store with --store, or set ERRATA_STORE."
        )


def _folders(store: Store, removed: bool = False) -> Iterator[tuple[int, str, Path]]:
    """(schema, kind, folder) of every shelf, known by its name and by what it holds."""
    for top in roots(store):
        for kind in _inside(top):
            for folder in _inside(kind):
                if (_SHELF.fullmatch(folder.name) and is_shelf(folder)) or (
                    removed and folder.name.startswith(_REMOVED)
                ):
                    yield int(top.name[1:]), kind.name, folder


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []


def _entry(schema: int, kind: str, folder: Path) -> Entry | None:
    """The shelf in a folder; None if the folder holds no values."""
    inside = [(path, stat) for path, stat in _files(folder) if not _is_leftover(path)]
    shards = [stat.st_mtime for path, stat in inside if path.suffix == ".safetensors"]
    if not shards:
        return None
    used = max(stat.st_mtime for _, stat in inside)
    return Entry(folder, kind, schema, sum(stat.st_size for _, stat in inside), len(shards), min(shards), used)


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    found = []
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):
                found.append((path, path.stat()))
    return found


def _is_leftover(path: Path) -> bool:
    return path.name.startswith(".") or path.suffix == DAMAGED
