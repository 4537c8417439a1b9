"""errata store: sizes and ages to read, and removal that asks first."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from errata.cli.store import store_app
from errata.cli.units import age_text, parse_age, parse_size, size_text
from errata.errors import ErrataError
from errata.store import Store
from errata.upkeep import entries


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    for kind, days in (("anchors", 40), ("statistics", 2)):
        store.put(kind, {"model": "3f9c", "layer": 5}, {"x": torch.zeros(500)})
        (folder,) = tmp_path.glob(f"v*/{kind}/*")
        for path in folder.iterdir():
            os.utime(path, (time.time() - days * 86400,) * 2)
    return store


def run(store: Store, *flags: str, answer: str = "") -> Result:
    return CliRunner().invoke(store_app, [*flags, "--store", str(store.root)], input=answer, catch_exceptions=False)


def kinds(store: Store) -> list[str]:
    return [entry.kind for entry in entries(store)]


def test_the_list_shows_kinds_sizes_and_ages(store: Store) -> None:
    told = run(store, "list").stdout
    assert [line.split()[0] for line in told.splitlines() if "ago" in line] == ["anchors", "statistics", "all"]
    assert "40d ago" in told
    told = run(store, "list", "--each", "--kind", "anchors").stdout
    assert "layer 5, model 3f9c" in " ".join(told.split())
    assert "statistics" not in told


def test_nothing_is_removed_without_a_yes(store: Store) -> None:
    assert run(store, "prune", "--older-than", "30d", answer="n\n").exit_code == 1
    assert run(store, "prune", "--older-than", "30d").exit_code == 1
    told = run(store, "prune", "--older-than", "30d", "--dry-run")
    assert told.exit_code == 0
    assert "1 shelves" in told.stdout
    assert kinds(store) == ["statistics", "anchors"]


def test_a_yes_removes_what_was_not_used_for_long(store: Store) -> None:
    assert run(store, "prune", "--older-than", "30d", answer="y\n").exit_code == 0
    assert kinds(store) == ["statistics"]
    assert "freed" in run(store, "prune", "--max-size", "1KB", "--yes").stdout
    assert kinds(store) == []
    assert run(store, "prune").exit_code == 0


def test_a_kind_limits_what_is_removed(store: Store) -> None:
    assert run(store, "prune", "--kind", "statistics", "--max-size", "0", "--yes").exit_code == 0
    assert kinds(store) == ["anchors"]
    with pytest.raises(ErrataError, match="it has anchors"):
        run(store, "list", "--kind", "anchor")


def test_ages_and_sizes_are_read_and_told() -> None:
    assert (parse_age("30d"), parse_age("1.5 h"), parse_age("2W")) == (2592000, 5400, 1209600)
    assert (parse_size("10GB"), parse_size("2 gib"), parse_size("77"), parse_size("0")) == (10**10, 2**31, 77, 0)
    assert [size_text(n) for n in (0, 999, 12345, 49_200_000)] == ["0 B", "999 B", "12.3 KB", "49.2 MB"]
    assert [age_text(n) for n in (-1, 100, 4000, 3e6)] == ["0s", "2m", "1h", "35d"]


@pytest.mark.parametrize("flags", [("--older-than", "30"), ("--older-than", "d"), ("--max-size", "10 giga")])
def test_mistakes_are_told_and_remove_nothing(store: Store, flags: tuple[str, str]) -> None:
    with pytest.raises(ErrataError, match="such as"):
        run(store, "prune", *flags)
    assert len(kinds(store)) == 2


def test_a_folder_that_is_no_store_is_refused_and_what_goes_is_listed_first(store: Store, tmp_path: Path) -> None:
    said = run(store, "prune", "--older-than", "30d", "--dry-run").stdout
    (gone,) = [entry.folder for entry in entries(store) if entry.kind == "anchors"]
    assert str(gone) in said.replace("\n", "")
    (tmp_path / "cache" / "program" / ("0" * 32)).mkdir(parents=True)
    for verb in ("list", "prune"):
        with pytest.raises(ErrataError, match="is not a store of errata"):
            run(Store(tmp_path / "cache"), verb)
