"""Shards: the safetensors files of a checkpoint folder. Which tensors they hold, where, and each of them when asked."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from errata.errors import StoreError, printable

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""The weights in one file, or the list of the files that they are spread over; transformers prefers the former."""


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: its file, and the bytes from `start` up to `end` in it."""

    file: str
    start: int
    end: int
    shape: tuple[int, ...]
    dtype: str


class Shards(Mapping[str, Tensor]):
    """Tensor name -> tensor, read from the file when it is asked for, so that one is in memory at a time."""

    def __init__(self, folder: str | Path) -> None:
        """Reads the heads of the files only. Raises StoreError if there are none, or if one is damaged."""
        self.folder = Path(folder)
        self.files = _files_of(self.folder)
        self.places = {name: place for file in self.files for name, place in _places(self.folder / file)}

    def __getitem__(self, name: str) -> Tensor:
        path = self.folder / self.places[name].file
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_tensor(name)
        except (OSError, SafetensorError, ValueError, RuntimeError) as error:
            raise StoreError(f"{path}: {name} could not be read ({str(error)[:200]})") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def index(self) -> str | None:
        """The name of the file that lists the shards, if there are several."""
        return None if self.files == [SINGLE] else INDEX


def has_shards(folder: Path) -> bool:
    """Whether a folder holds safetensors weights that transformers would load."""
    return (folder / SINGLE).is_file() or (folder / INDEX).is_file()


def _files_of(folder: Path) -> list[str]:
    if (folder / SINGLE).is_file():
        return [SINGLE]
    if not (folder / INDEX).is_file():
        raise StoreError(f"{folder}: holds no weights as safetensors: neither {SINGLE} nor {INDEX} is there")
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        files = sorted(set(index["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{folder}: {INDEX} could not be read ({type(error).__name__}: {str(error)[:200]})") from error
    for file in files:
        if not isinstance(file, str) or Path(file).name != file or not (folder / file).is_file():
            raise StoreError(f"{folder}: {INDEX} names the file {printable(file)}, which is not in the folder")
    return files


def _places(path: Path) -> Iterator[tuple[str, Place]]:
    """Each tensor's name and place. The library checks the head before its offsets are believed."""
    try:
        with safe_open(path, framework="pt"):
            pass
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            head: dict[str, Any] = json.loads(file.read(length))
    except (OSError, SafetensorError, ValueError, struct.error) as error:
        raise StoreError(f"{path}: no safetensors file ({str(error)[:200]})") from error
    for name, row in head.items():
        if name != "__metadata__":
            start, end = (8 + length + offset for offset in row["data_offsets"])
            yield name, Place(path.name, start, end, tuple(row["shape"]), row["dtype"])
