"""Store: a shelf for tensors that are dear to make. A value's key is a hash of everything that made the value.

Many processes may share a store and any of them may be killed at any moment: a file is written beside its place and
moved there whole, holds checksums of all its tensors, and is never changed afterwards.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import warnings
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors import SafetensorError, safe_open
from torch import Tensor, uint8

from errata.delta import write_tensors
from errata.errors import StoreError
from errata.files import write_text

Tensors = dict[str, Tensor]
SCHEMA = 3
"""Raised when files take another form, or when the same ingredients come to make other values. A folder of the store:
what was written under another schema is never found."""
SHARDS, DESCRIPTION, DAMAGED = "*.safetensors", "made_of.json", ".damaged"
MARKER = "errata-store.txt"
"""In every `v<schema>` folder: only what is beneath such a folder is errata's, to be listed and removed."""
_MARK = (
    "What is in this folder was computed by errata. `errata store list` shows it, `errata store prune` removes it.\n"
)
_SHELF = re.compile(r"[0-9a-f]{32}")
_ALONE = "value"  # the item under which a single value lies on its shelf
_TRIES = 5


class DamagedShard(UserWarning):
    """A file of the store is cut short or altered; it is set aside and what it held is made again."""


class StoreUnwritable(UserWarning):
    """The store cannot be written to: full, read-only, not a folder. Values are kept in memory meanwhile."""


class Store:
    """A folder of shelves, `<root>/v<schema>/<kind>/<key>/`; without a root everything is kept in memory.

    `made_of` is a mapping of JSON types that names everything that made the value: weights fingerprint, layout,
    window, settings, prefixes, dtype ... A field left out is a wrong value found later, so leave none out.
    """

    def __init__(self, root: str | Path | None) -> None:
        self.root = Path(root).expanduser() if root is not None else None
        self._memory: dict[tuple[str, str], MemoryShelf] = {}
        """All there is without a root; with one, what did not fit on the disk."""
        self._described: dict[tuple[str, str], str] = {}
        """What made the values of the shelves in memory."""

    @classmethod
    def default(cls) -> Store:
        """At $ERRATA_STORE, else `errata` in the user's cache folder."""
        cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        place = Path(os.environ.get("ERRATA_STORE") or Path(cache) / "errata")
        try:
            return cls(place)
        except RuntimeError:
            _warn(f"{place}: there is no home folder. Values are kept in memory; set ERRATA_STORE to keep them.")
            return cls.nowhere()

    @classmethod
    def nowhere(cls) -> Store:
        """A store that lasts as long as this process."""
        return cls(None)

    def shelf(self, kind: str, made_of: Mapping[str, object]) -> Shelf:
        """The collection of per-fact tensors that `made_of` made. Raises StoreError for other than JSON types."""
        if not kind or set(kind) & set("/\\.:"):
            raise StoreError(f"found the kind {kind!r}, expected a plain word: it becomes a folder's name.")
        text = canonical(made_of)
        key = _key(text)
        memory = self._memory.setdefault((kind, key), MemoryShelf())
        self._described[kind, key] = text
        if self.root is None:
            return memory
        return DiskShelf(self.root / f"v{SCHEMA}" / kind / key, text, memory)

    def get(self, kind: str, made_of: Mapping[str, object]) -> Tensors | None:
        """The single value that `made_of` made, on the CPU; None if it is not there or damaged."""
        return self.shelf(kind, made_of).get([_ALONE]).get(_ALONE)

    def descriptions(self, kind: str) -> list[dict[str, Any]]:
        """What made the values on each shelf of a kind that holds any: what `get` can be asked for.

        A description that is not that of its shelf, because somebody wrote into it, is left out.
        """
        texts = {of: text for of, text in self._described.items() if of[0] == kind and self._memory[of].all()}
        for path in [] if self.root is None else sorted((self.root / f"v{SCHEMA}" / kind).glob(f"*/{DESCRIPTION}")):
            with suppress(OSError, ValueError, StoreError):
                text = canonical(json.loads(path.read_text(encoding="utf-8")))
                if _key(text) == path.parent.name and any(path.parent.glob(SHARDS)):
                    texts[kind, path.parent.name] = text
        return [json.loads(text) for text in texts.values()]

    def put(self, kind: str, made_of: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
        """Keep a single value, replacing what was there. Raises StoreError."""
        self.shelf(kind, made_of).put({_ALONE: tensors}, name=_ALONE)


class Shelf(ABC):
    """Named tensors of many items (facts), all made of the same."""

    @abstractmethod
    def get(self, items: Iterable[str]) -> dict[str, Tensors]:
        """Those of the items that are here, on the CPU. Treat the tensors as read-only."""

    @abstractmethod
    def put(self, values: Mapping[str, Mapping[str, Tensor]], name: str | None = None) -> None:
        """Add a few items, in full or not at all; call it often. `name` replaces an earlier put of that name."""


class MemoryShelf(Shelf):
    def __init__(self) -> None:
        self._items: dict[str, Tensors] = {}

    def get(self, items: Iterable[str]) -> dict[str, Tensors]:
        return {item: dict(self._items[item]) for item in items if item in self._items}

    def put(self, values: Mapping[str, Mapping[str, Tensor]], name: str | None = None) -> None:
        for item, tensors in values.items():
            self._items[item] = {key: tensor.detach().cpu().clone() for key, tensor in tensors.items()}

    def all(self) -> dict[str, Tensors]:
        """Every item."""
        return dict(self._items)

    def clear(self) -> None:
        """Forget every item."""
        self._items = {}


class DiskShelf(Shelf):
    """Every put is a file of its own, so an interrupted run loses nothing and processes do not clash.

    `waiting` holds what could not be written for want of room. Files whose names begin with a dot are half written.
    """

    def __init__(self, folder: Path, made_of: str, waiting: MemoryShelf) -> None:
        self.folder, self._made_of, self._waiting = folder, made_of, waiting

    @property
    def root(self) -> Path:
        """The folder of all shelves of this schema."""
        return self.folder.parent.parent

    def get(self, items: Iterable[str]) -> dict[str, Tensors]:
        wanted = set(items)
        found = self._waiting.get(wanted)
        for shard in sorted(path for path in self.folder.glob(SHARDS) if not path.name.startswith(".")):
            if missing := wanted - found.keys():
                with suppress(OSError):
                    found |= self._read(shard, missing)
        if found:
            with suppress(OSError):
                os.utime(self.folder / DESCRIPTION)  # when it was used last, for who makes room
        return found

    def _read(self, shard: Path, wanted: set[str]) -> dict[str, Tensors]:
        """The wanted items of one shard; none, with a warning, if anything about it is wrong.

        safetensors opens a file twice, so a file replaced in between may look damaged: it is then read again.
        Raises FileNotFoundError.
        """
        for _ in range(_TRIES):
            before = _which(shard)
            try:
                return self._items(shard, wanted)
            except (OSError, RuntimeError) as error:
                told = f"{shard} cannot be read ({error}); its values are made again."
                damaged = False
            except (SafetensorError, StoreError, KeyError, ValueError) as error:
                told = f"{shard} is damaged ({error}); its values are made again."
                damaged = True
            if _which(shard) == before:
                if damaged:
                    with suppress(OSError):
                        os.replace(shard, shard.with_name(shard.name + DAMAGED))
                warnings.warn(told, DamagedShard, stacklevel=4)
                break
        return {}

    def _items(self, shard: Path, wanted: set[str]) -> dict[str, Tensors]:
        with safe_open(shard, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata["seal"] != self._seal(metadata["items"], metadata["entries"]):
                raise StoreError("its table of contents is not of this shelf")
            found: dict[str, Tensors] = {item: {} for item in json.loads(metadata["items"]) if item in wanted}
            for entry, (item, name, checksum) in json.loads(metadata["entries"]).items():
                if item in found:
                    found[item][name] = tensor = file.get_tensor(entry)
                    if _checksum(tensor) != checksum:
                        raise StoreError(f"the checksum of {name!r} is wrong")
            return found

    def put(self, values: Mapping[str, Mapping[str, Tensor]], name: str | None = None) -> None:
        try:
            self._write({**self._waiting.all(), **values}, name)
            self._waiting.clear()
        except StoreError as error:
            self._waiting.put(values)
            full = _system_error(error) in (errno.ENOSPC, errno.EDQUOT)
            reason = "no room on the disk" if full else f"the store cannot be written to ({_reason(error)})"
            _warn(
                f"{self.root}: {reason}. Values are kept in memory and written as soon as that is possible; what is in "
                "the store already stays. See `errata store list` and `errata store prune`."
            )

    def _write(self, values: Mapping[str, Mapping[str, Tensor]], name: str | None) -> None:
        entries: dict[str, tuple[str, str, int]] = {}
        tensors: Tensors = {}
        owners: set[int] = set()
        for item, named in values.items():
            for key, tensor in named.items():
                plain = tensor.detach().cpu().contiguous()
                if plain.untyped_storage().data_ptr() in owners:
                    plain = plain.clone()  # safetensors refuses two tensors in one memory
                owners.add(plain.untyped_storage().data_ptr())
                entries[str(len(entries))] = (item, key, _checksum(plain))
                tensors[str(len(tensors))] = plain
        contents = json.dumps(list(values)), json.dumps(entries)
        metadata = {"items": contents[0], "entries": contents[1], "seal": self._seal(*contents)}
        path = self.folder / f"{name or uuid4().hex}.safetensors"
        for again in reversed(range(_TRIES)):
            try:
                self._describe()
                write_tensors(path, tensors, metadata)
                return
            except StoreError as error:
                # Gone: another process has made room. There and not there: it did so while the folder was made.
                if not again or _system_error(error) not in (errno.ENOENT, errno.EEXIST):
                    raise

    def _seal(self, *contents: str) -> str:
        return hashlib.sha256("\n".join((self.folder.name, *contents)).encode()).hexdigest()[:16]

    def _describe(self) -> None:
        """Write made_of.json beside the shards: for people, and for who asks what there is. Its time is that of the
        last use."""
        path = self.folder / DESCRIPTION
        try:
            os.utime(path)
        except FileNotFoundError:
            mark(self.root)
            write_text(path, json.dumps(json.loads(self._made_of), indent=2, ensure_ascii=False))
        except OSError as error:
            raise StoreError(f"{path}: could not be written ({error.strerror})") from error


def mark(root: Path) -> None:
    """Mark a folder as one in which all is errata's. Raises StoreError if it is not or cannot be written to."""
    if (root / MARKER).is_file():
        return
    try:
        if root.exists() and not is_ours(root):
            raise StoreError(f"{root} holds what errata did not write; choose another folder for the store")
    except OSError as error:
        raise StoreError(f"{root}: could not be read ({error.strerror})") from error
    write_text(root / MARKER, _MARK)


def is_ours(root: Path) -> bool:
    """Whether a folder of shelves holds nothing but kinds, shelves in them, and files of shelves in those.

    And perhaps the marker: another process may have written it just now.
    """
    kinds = [kind for kind in root.iterdir() if not kind.name.startswith(".") and kind.name != MARKER]
    return all(
        kind.is_dir()
        and all(
            shelf.name.startswith(".") or (_SHELF.fullmatch(shelf.name) and is_shelf(shelf)) for shelf in kind.iterdir()
        )
        for kind in kinds
    )


def is_shelf(folder: Path) -> bool:
    """Whether a folder holds only what a shelf can hold."""
    return folder.is_dir() and all(
        path.name == DESCRIPTION or path.name.startswith(".") or path.suffix in (".safetensors", DAMAGED)
        for path in folder.iterdir()
        if not path.is_dir() or not path.name.startswith(".")
    )


def _warn(message: str) -> None:
    warnings.warn(message, StoreUnwritable, stacklevel=4)


def _which(path: Path) -> tuple[int, int]:
    """Tells a file from another that has taken its place. Raises FileNotFoundError."""
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns


def _system_error(error: StoreError) -> int | None:
    """The system's number for what is behind an error of writing; safetensors tells it in words only."""
    if isinstance(error.__cause__, OSError):
        return error.__cause__.errno
    found = re.search(r"os error (\d+)", str(error.__cause__))
    return int(found[1]) if found else None


def _reason(error: StoreError) -> str:
    return getattr(error.__cause__, "strerror", None) or str(error)


def canonical(made_of: Mapping[str, object]) -> str:
    """JSON with sorted keys, floats by their repr, 1 and 1.0 and true apart. Raises StoreError for other types."""
    foreign = list(_foreign(made_of, "made_of"))
    if foreign:
        raise StoreError(
            "cannot make a key: " + "; ".join(foreign) + ". Expected str, int, finite float, bool, None,"
            " lists and mappings with str keys: write down what identifies the object instead."
        )
    return json.dumps(made_of, sort_keys=True, separators=(",", ":"), default=dict)


def _key(text: str) -> str:
    """The name of a shelf."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _foreign(value: object, where: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from (f"{where} has the key {key!r}" for key in value if type(key) is not str)
        for key, item in value.items():
            yield from _foreign(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _foreign(item, f"{where}[{index}]")
    elif type(value) is float:
        if value - value != 0.0:
            yield f"{where} is {value}"
    elif type(value) not in (str, int, bool, type(None)):
        yield f"{where} is a {type(value).__name__}"


def _checksum(tensor: Tensor) -> int:
    form = f"{tensor.dtype} {tuple(tensor.shape)}"
    return zlib.crc32(tensor.reshape(-1).view(uint8).numpy().data, zlib.crc32(form.encode()))
