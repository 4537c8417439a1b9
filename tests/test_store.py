from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open

from benchmarks import soak_store
from errata import store as store_room
from errata.delta import write_tensors
from errata.errors import StoreError
from errata.store import SCHEMA, DamagedShard, Store, StoreUnwritable, canonical

MADE_OF = {"weights": "3f9c", "layer": 5, "lr": 0.1, "prefixes": ["{}", "The sea. {}"], "seed": None}


def tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "target": torch.randn(6, generator=generator, dtype=torch.float64),
        "loss": torch.tensor(0.5 + seed),
        "state": torch.randn(2, 3, generator=generator).to(torch.bfloat16),
        "none": torch.empty(0, 4),
    }


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor) for name, tensor in expected.items()
    )


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(tmp_path) if request.param == "disk" else Store.nowhere()


def shards(store: Store) -> list[Path]:
    assert store.root is not None
    return sorted(store.root.rglob("*.safetensors"))


def test_what_was_put_is_what_is_got(store: Store) -> None:
    assert store.get("anchors", MADE_OF) is None
    store.put("anchors", MADE_OF, tensors())
    found = store.get("anchors", dict(reversed(MADE_OF.items())))
    assert found is not None
    assert same(found, tensors())
    assert store.get("projectors", MADE_OF) is None


def test_a_second_value_replaces_the_first(store: Store) -> None:
    store.put("anchors", MADE_OF, tensors())
    store.put("anchors", MADE_OF, tensors(1))
    found = store.get("anchors", MADE_OF)
    assert found is not None
    assert same(found, tensors(1))


def test_a_value_does_not_follow_the_tensor_it_was_made_from(store: Store) -> None:
    given = tensors()
    store.put("anchors", MADE_OF, given)
    given["target"].zero_()
    found = store.get("anchors", MADE_OF)
    assert found is not None
    assert same(found, tensors())


@pytest.mark.parametrize(
    "change",
    [{"layer": 6}, {"layer": 5.0}, {"layer": "5"}, {"lr": 0.1 + 2**-56}, {"seed": 0}, {"seed": False}, {"more": 1},
     {"prefixes": ["{}"]}, {"prefixes": ["The sea. {}", "{}"]}],
)  # fmt: skip
def test_a_change_of_any_ingredient_is_another_value(store: Store, change: dict[str, object]) -> None:
    store.put("anchors", MADE_OF, tensors())
    assert store.get("anchors", MADE_OF | change) is None


def test_lists_and_tuples_and_any_order_of_names_are_the_same_key() -> None:
    assert canonical({"b": (1, 2), "a": {"y": 1e-8, "x": True}}) == '{"a":{"x":true,"y":1e-08},"b":[1,2]}'
    assert canonical({"a": {"x": True, "y": 1e-8}, "b": [1, 2]}) == canonical(
        {"b": (1, 2), "a": {"y": 1e-8, "x": True}}
    )


@pytest.mark.parametrize(
    ("made_of", "message"),
    [
        ({"a": {"b": [0, torch.ones(1)]}}, r"made_of.a.b\[1\] is a Tensor"),
        ({"a": torch.float32}, "made_of.a is a dtype"),
        ({"a": {1: 2}}, "made_of.a has the key 1"),
        ({"a": float("nan")}, "made_of.a is nan"),
        ({"a": Path("x"), "b": {3}}, "made_of.a is a PosixPath; made_of.b is a set"),
    ],
)
def test_what_is_not_json_makes_no_key(store: Store, made_of: dict[str, object], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        store.get("anchors", made_of)


def test_a_kind_that_would_leave_the_folder_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match=r"'\.\./anchors', expected a plain word"):
        store.get("../anchors", MADE_OF)


def test_a_shelf_gives_the_items_it_has_and_only_those(store: Store) -> None:
    shelf = store.shelf("anchors", MADE_OF)
    shelf.put({"fact 1": tensors(1), "fact 2": tensors(2)})
    shelf.put({"Zürich\n{}": tensors(3)})
    assert shelf.get([]) == {}
    found = store.shelf("anchors", MADE_OF).get(["fact 2", "Zürich\n{}", "fact 9"])
    assert found.keys() == {"fact 2", "Zürich\n{}"}
    assert same(found["fact 2"], tensors(2))
    assert same(found["Zürich\n{}"], tensors(3))


def test_rows_of_one_matrix_can_be_put_as_items(store: Store) -> None:
    rows = torch.randn(5, 8)
    shelf = store.shelf("anchors", MADE_OF)
    shelf.put({str(index): {"target": row, "again": row} for index, row in enumerate(rows)})
    assert all(torch.equal(shelf.get(["3"])["3"][name], rows[3]) for name in ("target", "again"))


def test_many_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    def write(worker: int) -> None:
        for index in range(8):
            Store(tmp_path).shelf("anchors", MADE_OF).put({f"{worker}.{index}": tensors(8 * worker + index)})

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Store(tmp_path).shelf("anchors", MADE_OF).get(f"{w}.{i}" for w in range(4) for i in range(8))
    assert len(found) == 32
    assert all(same(found[f"{w}.{i}"], tensors(8 * w + i)) for w in range(4) for i in range(8))
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "moved"])
def test_a_damaged_shard_is_announced_and_its_items_alone_are_missing(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    shelf = store.shelf("anchors", MADE_OF)
    shelf.put({"1": tensors(1), "2": tensors(2)})
    (shard,) = shards(store)
    raw = shard.read_bytes()
    if damage == "moved":
        store.shelf("anchors", MADE_OF | {"layer": 6}).put({"3": tensors(3)})
        shelf = store.shelf("anchors", MADE_OF | {"layer": 6})
        shard.rename(next(path for path in shards(store) if path != shard).with_name("other.safetensors"))
    else:
        shelf.put({"3": tensors(3)})
        last = raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:]
        shard.write_bytes({"cut": raw[:-5], "empty": b"", "flipped": last}[damage])
    with pytest.warns(DamagedShard, match="is damaged .* made again"):
        found = shelf.get(["1", "2", "3"])
    assert found.keys() == {"3"}
    assert same(found["3"], tensors(3))


def test_every_single_byte_cut_off_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("anchors", MADE_OF, {"target": torch.arange(3.0)})
    (shard,) = shards(store)
    raw = shard.read_bytes()
    for length in range(0, len(raw), 7):
        shard.write_bytes(raw[:length])
        with pytest.warns(DamagedShard):
            assert store.get("anchors", MADE_OF) is None


def test_what_made_a_value_lies_beside_it_for_people(tmp_path: Path) -> None:
    made_of = MADE_OF | {"fact": "Zürich liegt in {}"}
    Store(tmp_path).put("anchors", made_of, tensors())
    (written,) = tmp_path.glob("v*/anchors/*/made_of.json")
    assert json.loads(written.read_text("utf-8")) == made_of
    assert "Zürich" in written.read_text("utf-8")


def test_the_default_store_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERRATA_STORE", str(tmp_path / "here"))
    assert Store.default().root == tmp_path / "here"
    monkeypatch.delenv("ERRATA_STORE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Store.default().root == tmp_path / "errata"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert Store.default().root == Path("~/.cache/errata").expanduser()


def test_a_half_written_file_is_never_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("anchors", MADE_OF, tensors())
    (shard,) = shards(store)
    shard.rename(shard.with_name(f".0a1b.{shard.name}"))
    assert store.get("anchors", MADE_OF) is None
    shard.with_name(f".0a1b.{shard.name}").write_bytes(b"half")
    assert store.get("anchors", MADE_OF) is None


def test_a_damaged_file_is_met_once_and_its_value_can_be_put_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    shelf = store.shelf("anchors", MADE_OF)
    shelf.put({"1": tensors(1)})
    (shard,) = shards(store)
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.warns(DamagedShard):
        assert shelf.get(["1"]) == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert shelf.get(["1"]) == {}
        shelf.put({"1": tensors(1)})
        assert same(shelf.get(["1"])["1"], tensors(1))
    assert shard.with_name(f"{shard.name}.damaged").exists()


def test_a_file_that_cannot_be_read_now_is_left_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.put("anchors", MADE_OF, tensors())
    with monkeypatch.context() as broken:

        def failing(*arguments: object, **options: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        broken.setattr(store_room, "safe_open", failing)
        with pytest.warns(DamagedShard, match="cannot be read"):
            assert store.get("anchors", MADE_OF) is None
    assert store.get("anchors", MADE_OF) is not None


@pytest.mark.parametrize("error", [RuntimeError("unable to open file"), StoreError("the checksum is wrong")])
def test_a_file_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    store, calls = Store(tmp_path), []
    store.put("anchors", MADE_OF, tensors())

    def replaced(*arguments: object, **options: object) -> object:
        calls.append(arguments)
        if len(calls) == 1:
            store.put("anchors", MADE_OF, tensors(1))
            raise error
        return safe_open(*arguments, **options)

    monkeypatch.setattr(store_room, "safe_open", replaced)
    found = store.get("anchors", MADE_OF)
    assert found is not None
    assert same(found, tensors(1))
    assert not list(tmp_path.rglob("*.damaged"))


def test_a_file_removed_while_it_is_read_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.put("anchors", MADE_OF, tensors())

    def removed(path: Path, **options: object) -> None:
        shutil.rmtree(path.parent)
        raise RuntimeError("unable to open file")

    monkeypatch.setattr(store_room, "safe_open", removed)
    assert store.get("anchors", MADE_OF) is None


def test_a_checksum_covers_the_type_and_the_shape() -> None:
    plain = torch.arange(6.0)
    others = (plain.view(2, 3), plain.view(3, 2), plain.view(torch.int32))
    assert len({store_room._checksum(tensor) for tensor in (plain, *others)}) == 4


def test_a_store_of_an_older_schema_is_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setattr(store_room, "SCHEMA", store_room.SCHEMA - 1)
        Store(tmp_path).put("anchors", MADE_OF, tensors(1))
    assert Store(tmp_path).get("anchors", MADE_OF) is None
    shutil.copytree(next(tmp_path.glob("v*/anchors")), tmp_path / "anchors")  # the first schema had no folder
    assert Store(tmp_path).get("anchors", MADE_OF) is None
    Store(tmp_path).put("anchors", MADE_OF, tensors())
    found = Store(tmp_path).get("anchors", MADE_OF)
    assert found is not None
    assert same(found, tensors())


FULL = {
    "from the system": OSError(errno.ENOSPC, "No space left on device"),
    "quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "from safetensors": SafetensorError("I/O error: No space left on device (os error 28)"),
}


@pytest.mark.parametrize("cause", FULL.values(), ids=FULL)
def test_on_a_full_disk_values_wait_in_memory_and_what_was_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: Exception
) -> None:
    store = Store(tmp_path)
    store.shelf("anchors", MADE_OF).put({"1": tensors(1)})
    with monkeypatch.context() as full:

        def failing(path: Path, *rest: object) -> None:
            raise StoreError(f"{path}: could not be written") from cause

        full.setattr(store_room, "write_tensors", failing)
        with pytest.warns(StoreUnwritable, match="no room on the disk"):
            store.shelf("anchors", MADE_OF).put({"2": tensors(2)})
        with pytest.warns(StoreUnwritable):
            store.put("statistics", MADE_OF, tensors(4))
        assert store.shelf("anchors", MADE_OF).get(["1", "2"]).keys() == {"1", "2"}
        assert Store(tmp_path).shelf("anchors", MADE_OF).get(["1", "2"]).keys() == {"1"}
    store.shelf("anchors", MADE_OF).put({"3": tensors(3)})
    found = Store(tmp_path).shelf("anchors", MADE_OF).get(["1", "2", "3"])
    assert all(same(found[str(i)], tensors(i)) for i in (1, 2, 3))
    held = store.get("statistics", MADE_OF)
    assert held is not None
    assert same(held, tensors(4))
    store.put("statistics", MADE_OF, tensors(5))
    newer = Store(tmp_path).get("statistics", MADE_OF)
    assert newer is not None
    assert same(newer, tensors(5))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM, errno.EIO], ids=errno.errorcode.get)
def test_an_unwritable_store_is_like_a_full_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def failing(path: Path, *rest: object) -> None:
        raise StoreError(f"{path}: could not be written") from OSError(number, os.strerror(number))

    store = Store(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(store_room, "write_tensors", failing)
        with pytest.warns(StoreUnwritable, match="cannot be written to"):
            store.put("anchors", MADE_OF, tensors())
        assert store.get("anchors", MADE_OF) is not None
        assert Store(tmp_path).get("anchors", MADE_OF) is None
    store.put("statistics", MADE_OF, tensors())
    assert Store(tmp_path).get("statistics", MADE_OF) is not None


def test_a_store_that_is_a_file_or_on_a_read_only_system_keeps_values_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for root in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/store")):
        store = Store(root)
        with pytest.warns(StoreUnwritable, match="cannot be written to"):
            store.put("anchors", MADE_OF, tensors())
        assert store.get("anchors", MADE_OF) is not None
    assert (tmp_path / "file").read_text() == "mine"


def test_without_a_home_folder_values_are_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ERRATA_STORE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(path: str) -> str:
        return path  # as os.path.expanduser does for a user who has no home

    monkeypatch.setattr(os.path, "expanduser", unknown)
    with pytest.warns(StoreUnwritable, match="no home folder"):
        store = Store.default()
    assert store.root is None


def test_a_folder_of_another_program_is_never_written_into(tmp_path: Path) -> None:
    (tmp_path / f"v{SCHEMA}" / "photos").mkdir(parents=True)
    (tmp_path / f"v{SCHEMA}" / "photos" / "a.jpg").write_text("a")
    with pytest.warns(StoreUnwritable, match="holds what errata did not write"):
        Store(tmp_path).put("anchors", MADE_OF, tensors())
    assert [path.name for path in (tmp_path / f"v{SCHEMA}").iterdir()] == ["photos"]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EEXIST], ids=errno.errorcode.get)
def test_a_folder_taken_away_in_mid_write_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    calls = []

    def robbed(path: Path, values: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
        calls.append(path)
        if len(calls) == 1:
            shutil.rmtree(path.parent)
            raise StoreError("gone") from OSError(number, os.strerror(number))
        write_tensors(path, values, metadata)

    monkeypatch.setattr(store_room, "write_tensors", robbed)
    Store(tmp_path).put("anchors", MADE_OF, tensors())
    assert len(calls) == 2
    assert Store(tmp_path).get("anchors", MADE_OF) is not None


def test_reading_a_value_counts_as_use(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("anchors", MADE_OF, tensors())
    (described,) = tmp_path.rglob("made_of.json")
    long_ago = time.time() - 1e6
    os.utime(described, (long_ago, long_ago))
    assert store.get("anchors", MADE_OF | {"layer": 9}) is None
    assert described.stat().st_mtime == pytest.approx(long_ago)
    store.get("anchors", MADE_OF)
    assert described.stat().st_mtime > long_ago + 1e5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_killed_processes_that_share_a_store_leave_every_value_as_it_should_be() -> None:
    result = soak_store.soak_workers(kills=4, processes=2, items=8, seed=0, prune=False)
    assert result.good, result
    assert (result.kills, result.values) == (4, result.runs * 6 * 9)
