"""Files and folders are written whole or not at all: whatever fails and whenever the process dies."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from errata import files
from errata.errors import StoreError

CALLS = ("rename", "replace", "mkdir", "rmdir", "unlink", "chmod", "scandir", "listdir", "open", "stat", "lstat")
"""What the writing of files and folders asks of the system, by its name in `os`."""


def write_folder(folder: Path, text: str) -> None:
    with files.whole_folder(folder, lambda old: None) as made:
        (made / "a").write_text(text)
        (made / "b").write_text(text)
        (made / "b").chmod(0o600)  # as safetensors leaves its files


def content(folder: Path) -> str:
    """What a whole folder says; a folder in parts fails here."""
    (text,) = {(folder / name).read_text() for name in sorted(os.listdir(folder))}
    assert sorted(os.listdir(folder)) == ["a", "b"]
    return text


@contextmanager
def calls_counted(then: Callable[[int, str], None]) -> Iterator[None]:
    """Inside, `then(number, name)` is called before each call of the system."""
    plain, count = {name: getattr(os, name) for name in CALLS}, 0

    def before(name: str) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            then(count, name)
            return plain[name](*args, **kwargs)

        return call

    for name in CALLS:
        setattr(os, name, before(name))
    try:
        yield
    finally:
        for name in CALLS:
            setattr(os, name, plain[name])


def number_of_calls(work: Callable[[], None]) -> int:
    calls: list[str] = []
    with calls_counted(lambda number, name: calls.append(name)):
        work()
    return len(calls)


@pytest.mark.parametrize(
    "failure", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()], ids=["error", "^C"]
)
def test_a_folder_is_old_or_new_whichever_call_fails(tmp_path: Path, failure: BaseException) -> None:
    write_folder(tmp_path / "edit", "old")
    total = number_of_calls(lambda: write_folder(tmp_path / "edit", "old"))
    assert total > 10
    for fails in range(1, total + 1):
        folder = tmp_path / str(fails) / "edit"
        write_folder(folder, "old")

        def fail(number: int, name: str, fails: int = fails) -> None:
            if number == fails:
                raise failure

        with calls_counted(fail), suppress(StoreError, KeyboardInterrupt):
            write_folder(folder, "new")
        files.recover(folder)
        assert content(folder) in ("old", "new"), fails


FORKED = """
import os, sys
from pathlib import Path
import signal
from errata import files
from tests.test_files import calls_counted, content, number_of_calls, write_folder

def fresh(number):
    folder = Path(sys.argv[1]) / str(number) / "edit"  # of its own: what is left behind is met by later calls
    write_folder(folder, "old")
    return folder

first = fresh(0)
total = number_of_calls(lambda: write_folder(first, "new"))
seen = []
for fatal in range(1, total + 1):
    folder = fresh(fatal)
    child = os.fork()
    if not child:
        def kill(number, name):
            if number == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
        with calls_counted(kill):
            write_folder(folder, "new")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, fatal
    files.recover(folder)
    seen.append(content(folder))
    write_folder(folder, "again")
    assert content(folder) == "again"
print(total, "".join(sorted(set(seen))))
"""


def test_a_folder_is_old_or_new_whenever_the_process_is_killed(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FORKED, tmp_path / "edit"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    total, seen = done.stdout.split()
    assert int(total) > 10
    assert seen == "newold"


def test_a_file_is_old_or_new_whichever_call_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_text(path, "old")
    total = number_of_calls(lambda: files.write_text(path, "old"))
    for fails in range(1, total + 1):

        def fail(number: int, name: str, fails: int = fails) -> None:
            if number == fails:
                raise OSError(errno.ENOSPC, "No space left on device")

        with calls_counted(fail), suppress(StoreError):
            files.write_text(path, "new")
        assert path.read_text() in ("old", "new")
        files.write_text(path, "old")


def test_a_file_that_was_not_finished_does_not_take_the_place(tmp_path: Path) -> None:
    files.write_text(tmp_path / "new" / "page.html", "first")
    with suppress(KeyboardInterrupt), files.whole_file(tmp_path / "new" / "page.html") as temporary:
        assert temporary.suffix == ".html"
        temporary.write_text("sec")
        raise KeyboardInterrupt
    assert (tmp_path / "new" / "page.html").read_text() == "first"
    assert os.listdir(tmp_path / "new") == ["page.html"]


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Path.write_bytes

    def half(path: Path, content: bytes) -> int:
        plain(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    files.write_text(tmp_path / "a", "old")
    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(StoreError) as caught:
        files.write_text(tmp_path / "a", "new")
    told = f"{tmp_path / 'a'}: could not be written (No space left on device); nothing was left half written"
    assert str(caught.value) == told
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_a_folder_in_a_files_place_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "page.html" / "inner").mkdir(parents=True)
    with pytest.raises(StoreError, match="could not be written"):
        files.write_text(tmp_path / "page.html", "text")
    assert os.listdir(tmp_path) == ["page.html"]
    assert (tmp_path / "page.html" / "inner").is_dir()


def test_half_a_surrogate_pair_is_written_as_an_escape(tmp_path: Path) -> None:
    files.write_text(tmp_path / "file", "\ud800é")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "\\ud800é"


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_permissions_are_those_of_the_umask_whoever_made_the_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with files.whole_file(tmp_path / "file") as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
        write_folder(tmp_path / "folder", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "folder" / "b").stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o777 & ~umask


def test_links_and_devices_stay_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    files.write_text(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "x"
    files.write_text("/dev/null", "x")
    assert not Path("/dev/null").is_file()
    (tmp_path / "real").mkdir()
    (tmp_path / "way").symlink_to(tmp_path / "real")
    write_folder(tmp_path / "way", "y")
    assert (tmp_path / "way").is_symlink()
    assert content(tmp_path / "real") == "y"


def test_a_folder_that_holds_something_is_not_replaced_unless_its_owner_says_so(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("notes")
    with pytest.raises(StoreError, match="exists; nothing was written"), files.whole_folder(tmp_path / "mine"):
        raise AssertionError("not begun")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "notes"


def test_what_is_put_into_a_folder_while_its_successor_is_written_is_kept(tmp_path: Path) -> None:
    def write_and_be_crossed() -> None:
        with files.whole_folder(tmp_path / "edit"):
            files.write_text(tmp_path / "edit" / "notes.txt", "notes")

    with pytest.raises(StoreError, match="exists"):
        write_and_be_crossed()
    assert (tmp_path / "edit" / "notes.txt").read_text() == "notes"
    assert os.listdir(tmp_path) == ["edit"]


def test_what_killed_processes_left_is_deleted_when_it_is_old(tmp_path: Path) -> None:
    old, young, other = (tmp_path / f".part-{name}" for name in ("0" * 12 + ".a", "1" * 12 + ".a", "2" * 12 + ".ab"))
    for path in (old, young, other):
        path.write_text("half")
    for path in (old, other):
        os.utime(path, (0, 0))
    files.write_text(tmp_path / "a", "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a", young.name, other.name])


def test_places_that_cannot_be_written_are_known_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    files.check_file(tmp_path / "new" / "deep" / "a.json")
    files.check_file(tmp_path / "file")
    files.check_folder(tmp_path / "folder")
    files.check_folder(tmp_path / "new" / "deep")
    for check, path, told in (
        (files.check_file, tmp_path / "file" / "a.json", "Not a directory"),
        (files.check_file, tmp_path / "folder", "is a folder, expected the name of a file"),
        (files.check_folder, tmp_path / "file", "is a file, expected the name of a folder"),
        (files.check_folder, tmp_path / "file" / "a", "Not a directory"),
        (files.check_file, Path("/proc/a.json"), "cannot be written"),
        (files.check_folder, Path("/proc/a/b"), "cannot be written"),
    ):
        with pytest.raises(StoreError, match=told):
            check(path)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
