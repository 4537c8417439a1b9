"""Files and folders that are written whole or not at all.

What is written gets a hidden name beside its place and is moved there when it is complete, so that whoever reads or
is killed at any moment meets the old or the new, never a part. A folder cannot take another's place in one step:
the old one is moved aside first, and `recover` moves it back if the process died before the new one was in place.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from errno import EEXIST, ENOENT, ENOTEMPTY
from pathlib import Path
from uuid import uuid4

from errata.errors import StoreError

PART, OLD = ".part-", ".old-"
"""Beginnings of hidden names: half written or half deleted, and a whole folder moved aside."""
LEFT_ALONE = 3600.0
"""Seconds: something half written that is younger than this may still be at work."""
_TRIES = 5


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yields a name to write to, with the same ending; the file written there then takes the place of `path`.

    The folder is made if it is not there. Files have the permissions that the user's umask gives, whoever made them.
    What is not a plain file, such as /dev/stdout, is written to as it is. Raises StoreError.
    """
    path = Path(os.path.realpath(Path(path).expanduser()))  # so that a link stays a link
    with _explained(path, "could not be written"):
        if path.exists() and not path.is_file() and not path.is_dir():
            yield path
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        temporary = _hidden(path, PART)
        try:
            temporary.touch(exist_ok=False)
            mode = temporary.stat().st_mode
            yield temporary
            with suppress(PermissionError):
                temporary.chmod(mode)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """A file of UTF-8 text; halves of surrogate pairs, which UTF-8 cannot hold, as escapes. Raises StoreError."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_bytes(path: str | Path, content: bytes) -> None:
    """A file of bytes, whole or not at all. Raises StoreError."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def whole_folder(folder: str | Path, check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Yields an empty folder to fill; it then takes the place of `folder`. On any failure the old one is there.

    `check` raises if the folder that is there must not be replaced; without it only an empty one is. Raises StoreError.
    """
    folder = Path(os.path.realpath(Path(folder).expanduser()))
    check = check or refuse_to_replace
    with _explained(folder, "could not be written"):
        recover(folder)
        check(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        made = _hidden(folder, PART)
        try:
            made.mkdir()
            yield made
            _open_to_umask(made)
            _move_in(made, folder, check)
        finally:
            shutil.rmtree(made, ignore_errors=True)


def recover(folder: str | Path) -> None:
    """Put back what a killed process had moved aside, or delete it if the folder is there. Raises StoreError."""
    folder = Path(os.path.realpath(Path(folder).expanduser()))
    with _explained(folder, "could not be recovered"):
        for aside in _beside(folder, OLD):
            if folder.exists():
                _discard(aside)
            else:
                os.rename(aside, folder)


def refuse_to_replace(folder: Path) -> None:
    """Raises StoreError if there is anything but an empty folder."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise StoreError(f"{folder} exists; nothing was written. Choose another folder.")


def check_file(path: str | Path) -> None:
    """Raises StoreError, before any work, if a file cannot be written there: best effort, the disk may fill later."""
    path = Path(path).expanduser()
    if path.is_dir():
        raise StoreError(f"{path} is a folder, expected the name of a file to write. Nothing was done.")
    if path.is_file() and not os.access(path, os.W_OK):
        raise StoreError(f"{path} must not be written to. Nothing was done; choose another file.")
    if not path.exists() or path.is_file():
        _check_parent(Path(os.path.realpath(path)).parent, path)


def check_folder(folder: str | Path) -> None:
    """Raises StoreError, before any work, if files cannot be written to a folder of this name: best effort."""
    folder = Path(folder).expanduser()
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file, expected the name of a folder to write. Nothing was done.")
    _check_parent(folder, folder)


def _check_parent(folder: Path, target: Path) -> None:
    """Write and delete a little where the first missing folder would be made."""
    place = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    try:
        with tempfile.TemporaryFile(dir=place) as trial:
            trial.write(b"0" * 4096)
            trial.flush()
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {place}: {error.strerror}. Nothing was done.") from error


def _open_to_umask(made: Path) -> None:
    """Give files the permissions of any new file: some writers keep theirs to their user."""
    mode = made.stat().st_mode & 0o666
    for path in made.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with suppress(PermissionError):
                path.chmod(mode)


def _move_in(made: Path, folder: Path, check: Callable[[Path], None]) -> None:
    """Move a complete folder into place, whatever other processes do there at the same time."""
    for again in reversed(range(_TRIES)):
        aside = _hidden(folder, OLD)
        try:
            if folder.exists():
                check(folder)  # again: something may have been put into it while we were at work
                os.rename(folder, aside)
            os.rename(made, folder)
        except BaseException as error:
            if aside.exists() and not folder.exists():
                os.rename(aside, folder)
            if not again or not isinstance(error, OSError) or error.errno not in (ENOTEMPTY, EEXIST, ENOENT):
                raise
        else:
            if aside.exists():
                _discard(aside)
            return


def _discard(aside: Path) -> None:
    """Delete a folder that is no longer wanted: from its first step on nobody takes it for a whole one."""
    with suppress(OSError):
        gone = aside.with_name(aside.name.replace(OLD, PART, 1))
        os.rename(aside, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _hidden(path: Path, state: str) -> Path:
    """A new name beside a path, with the same ending, which some writers go by."""
    return path.with_name(f"{state}{uuid4().hex[:12]}.{path.name[-200:]}")


def _beside(path: Path, state: str) -> list[Path]:
    """What stands under hidden names of a path, the newest first."""
    hidden = re.compile(rf"{re.escape(state)}[0-9a-f]{{12}}\.{re.escape(path.name[-200:])}")
    try:
        names = [path.with_name(name) for name in os.listdir(path.parent) if hidden.fullmatch(name)]
        return sorted(names, key=lambda name: -name.lstat().st_mtime)
    except OSError:
        return []


def _sweep(path: Path) -> None:
    """Delete what killed processes left half written under this name."""
    for left in _beside(path, PART):
        with suppress(OSError):
            if left.lstat().st_mtime < time.time() - LEFT_ALONE:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: {what} ({error.strerror or error}); nothing was left half written") from error
