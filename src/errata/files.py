"""Files that are there whole or not at all: written beside their place under another name, then moved into it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from errata.errors import StoreError


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """A path to write to in place of `path`, with the same ending; moved there when the block has ended well.

    Missing folders are made. What stood at `path` stays until then, and stays if anything fails. Access rights are
    those of any new file (umask). Raises StoreError if the file cannot be written, such as on a full disk.
    """
    path = Path(path)
    unfinished = path.with_name(f".{uuid4().hex}.{path.name[-100:]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(f"{path}: could not be written ({reason}); nothing was left half written") from error


def write_text(path: str | Path, text: str) -> None:
    """A whole file of UTF-8 text; halves of surrogate pairs, which UTF-8 cannot hold, as escapes. Raises StoreError."""
    with whole_file(path) as unfinished:
        unfinished.write_bytes(text.encode("utf-8", errors="backslashreplace"))
