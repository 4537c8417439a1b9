"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from errata.errors import StoreError
from errata.files import whole_file, write_text


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what is written arrives, then the disk is full."""
    real = Path.write_bytes

    def write(path: Path, data: bytes) -> int:
        real(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write)


def test_a_file_is_replaced_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    write_text(path, "first")
    with suppress(KeyboardInterrupt), whole_file(path) as unfinished:
        unfinished.write_text("sec")
        raise KeyboardInterrupt
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path: Path, full_disk: None) -> None:
    path = tmp_path / "run.json"
    path.touch()
    with pytest.raises(StoreError) as caught:
        write_text(path, "a" * 100)
    assert str(caught.value) == f"{path}: could not be written (No space left on device); nothing was left half written"
    assert path.read_text() == ""
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_the_files_place_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "page.html" / "inner").mkdir(parents=True)
    with pytest.raises(StoreError, match="could not be written"):
        write_text(tmp_path / "page.html", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html" / "inner").is_dir()


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_access_rights_are_those_of_any_new_file(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_half_a_surrogate_pair_is_written_as_an_escape(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "\ud800é")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "\\ud800é"
