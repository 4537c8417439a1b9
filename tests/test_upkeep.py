from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from errata import upkeep
from errata.errors import StoreError
from errata.store import MARKER, SCHEMA, Store
from errata.upkeep import LEFT_ALONE, Entry, check_store, entries, leftovers, remove, superfluous

NOW = 1e9
DAY = 86400.0


def filled(root: Path) -> Store:
    """Three shelves, last used 1, 10 and 40 days ago."""
    store = Store(root)
    for days, (kind, layer, size) in {
        1: ("anchors", 1, 10),
        10: ("statistics", 1, 3000),
        40: ("anchors", 2, 20),
    }.items():
        store.put(kind, {"layer": layer}, {"x": torch.zeros(size)})
        aged(next(e for e in entries(store) if e.kind == kind and e.made_of == {"layer": layer}), days)
    return store


def aged(entry: Entry, days: float) -> None:
    for path in (*entry.folder.iterdir(), entry.folder):
        os.utime(path, (NOW - days * DAY,) * 2)


def layers(found: list[Entry]) -> list[tuple[str, object]]:
    return [(entry.kind, entry.made_of["layer"]) for entry in found]


def test_every_shelf_is_listed_the_one_used_last_first(tmp_path: Path) -> None:
    found = entries(filled(tmp_path))
    assert layers(found) == [("anchors", 1), ("statistics", 1), ("anchors", 2)]
    assert [round((NOW - entry.used) / DAY) for entry in found] == [1, 10, 40]
    assert found[1].size > 12000 > found[0].size > 40
    assert {entry.schema for entry in found} == {SCHEMA}
    assert entries(Store.nowhere()) == []
    assert entries(Store(tmp_path / "none")) == []


def test_what_was_not_used_for_long_goes(tmp_path: Path) -> None:
    found = entries(filled(tmp_path))
    assert layers(superfluous(found, NOW, older_than=30 * DAY)) == [("anchors", 2)]
    assert superfluous(found, NOW) == []


def test_room_is_made_by_what_was_used_longest_ago(tmp_path: Path) -> None:
    found = entries(filled(tmp_path))
    assert layers(superfluous(found, NOW, max_size=found[0].size + found[1].size)) == [("anchors", 2)]
    assert layers(superfluous(found, NOW, max_size=found[0].size)) == [("statistics", 1), ("anchors", 2)]
    assert superfluous(found, NOW, max_size=10**9) == []


def test_removed_values_are_gone_and_the_others_are_not(tmp_path: Path) -> None:
    store = filled(tmp_path)
    gone = superfluous(entries(store), NOW, older_than=5 * DAY)
    assert remove(gone) == sum(entry.size for entry in gone)
    assert layers(entries(store)) == [("anchors", 1)]
    assert store.get("statistics", {"layer": 1}) is None
    assert store.get("anchors", {"layer": 1}) is not None
    assert remove(gone) == 0
    assert not list(tmp_path.rglob(".*"))


def test_a_shelf_used_since_it_was_listed_stays(tmp_path: Path) -> None:
    store = filled(tmp_path)
    gone = superfluous(entries(store), NOW, older_than=5 * DAY)
    assert store.get("anchors", {"layer": 2}) is not None
    remove(gone)
    assert set(layers(entries(store))) == {("anchors", 1), ("anchors", 2)}


def test_shelves_of_another_schema_are_listed_as_such_and_go_when_asked(tmp_path: Path) -> None:
    store = filled(tmp_path)
    shutil.copytree(tmp_path / f"v{SCHEMA}" / "anchors", tmp_path / f"v{SCHEMA + 1}" / "anchors")
    check_store(store)
    found = entries(store)
    assert sorted(entry.schema for entry in found) == [SCHEMA, SCHEMA, SCHEMA, SCHEMA + 1, SCHEMA + 1]
    gone = superfluous(found, NOW, stale=True)
    assert {entry.schema for entry in gone} == {SCHEMA + 1}
    assert len(gone) == 2


def test_leftovers_are_what_nobody_reads_and_nobody_writes(tmp_path: Path) -> None:
    store = filled(tmp_path)
    shelf = entries(store)[0].folder
    (shelf / ".0a1b.safetensors").write_bytes(b"half")
    (shelf / "c.safetensors.damaged").write_bytes(b"bad")
    (shelf.parent / f"{upkeep._REMOVED}7").mkdir()
    (shelf.parent / ("0" * 32)).mkdir()
    now = (shelf / ".0a1b.safetensors").stat().st_mtime
    young = {left.path.name for left in leftovers(store, now)}
    assert young == {"c.safetensors.damaged", f"{upkeep._REMOVED}7"}
    old = leftovers(store, now + 2 * LEFT_ALONE)
    assert {left.path.name for left in old} == young | {".0a1b.safetensors", "0" * 32}
    assert remove(old) == len(b"half" + b"bad")
    assert leftovers(store, now + 2 * LEFT_ALONE) == []
    assert len(entries(store)) == 3


def test_a_folder_that_is_no_store_is_left_alone(tmp_path: Path) -> None:
    for folder in ("models/llama", "v2/models/gpt2", "a/.hidden"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "model.safetensors").write_bytes(b"dear")
        (tmp_path / folder / ".part").write_bytes(b"dear")
    assert entries(Store(tmp_path)) == []
    assert leftovers(Store(tmp_path), NOW * 10) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    filled(tmp_path / "other")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / f"v{SCHEMA}").symlink_to(tmp_path / "other" / f"v{SCHEMA}")
    assert entries(Store(tmp_path / "mine")) == []


def test_a_missing_description_is_not_an_error(tmp_path: Path) -> None:
    store = filled(tmp_path)
    (entries(store)[0].folder / "made_of.json").write_bytes(b"{")
    assert entries(store)[0].made_of == {}
    (entries(store)[0].folder / "made_of.json").unlink()
    assert len(entries(store)) == 3


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may remove anything")
def test_what_cannot_be_removed_is_told(tmp_path: Path) -> None:
    store = filled(tmp_path)
    kind = entries(store)[0].folder.parent
    kind.chmod(0o500)
    with pytest.raises(upkeep.StoreError, match="could not be removed"):
        remove(entries(store))
    kind.chmod(0o700)


def cache_of_others(root: Path) -> list[Path]:
    """A cache folder as other programs fill it, with names like those of shelves."""
    files = [
        root / "thumbnails" / ("0" * 32) / "a.safetensors",
        root / f"v{SCHEMA}" / "kind" / ("1" * 32) / "movie.mp4",
        root / "pip" / "http" / "b",
        root / "model" / ("2" * 32) / "made_of.json",
    ]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("mine")
        os.utime(file, (0, 0))
        os.utime(file.parent, (0, 0))
    return files


def test_a_folder_of_other_programs_is_no_store_and_loses_nothing(tmp_path: Path) -> None:
    files = cache_of_others(tmp_path)
    store = Store(tmp_path)
    assert entries(store) == []
    assert leftovers(store, NOW) == []
    with pytest.raises(StoreError, match=r"errata did not write|is not a store"):
        check_store(store)
    assert all(file.read_text() == "mine" for file in files)
    assert not list(tmp_path.rglob(MARKER))


def test_only_marked_folders_and_shelves_that_hold_nothing_else_are_touched(tmp_path: Path) -> None:
    store = filled(tmp_path)
    (foreign,) = (tmp_path / f"v{SCHEMA}" / "statistics").iterdir()
    (foreign / "notes.txt").write_text("mine")
    (tmp_path / "pictures").mkdir()
    assert {entry.kind for entry in entries(store)} == {"anchors"}
    remove([*superfluous(entries(store), NOW, max_size=0), *leftovers(store, NOW * 9)])
    assert (foreign / "notes.txt").read_text() == "mine"
    assert (tmp_path / "pictures").is_dir()
    check_store(store)


def test_an_empty_or_absent_folder_is_a_store_with_nothing_in_it(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        check_store(Store(root))
        assert entries(Store(root)) == []


def test_a_store_without_its_mark_is_taken_for_one_if_all_in_it_is_a_stores(tmp_path: Path) -> None:
    store = filled(tmp_path)
    (tmp_path / f"v{SCHEMA}" / MARKER).unlink()
    assert entries(store) == []
    check_store(store)
    assert len(entries(store)) == 3
