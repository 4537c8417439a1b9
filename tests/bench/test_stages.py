"""The benchmark's own instruments."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import machine, stages


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
def test_a_peak_counts_what_is_freed_again_but_not_what_was_there() -> None:
    held = torch.ones(1 << 22)
    size = 1 << 27

    def work() -> None:
        for _ in range(2):
            torch.ones(size // 4)

    peaks = [machine.peak(work) for _ in range(3)]  # the system takes pages and gives them when it likes
    assert max(peaks) > 0.9 * size
    assert min(peaks) < 1.3 * size
    assert held.numel()


def test_arithmetic_is_counted() -> None:
    left, right = torch.ones(10, 20), torch.ones(20, 30)
    assert machine.gflop(lambda: left @ right) == pytest.approx(2e-9 * 10 * 20 * 30)


def test_solves_are_told_for_each_number_of_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "WIDTHS", {64: 16})
    monkeypatch.setattr(stages, "matrix_rate", lambda *_: 1.0)
    monkeypatch.setattr(stages, "FACTS", (1, 100))
    rows = list(stages.solves(64, torch.device("cpu")))
    assert [row.amount for row in rows if row.stage == "solve"] == ["1 facts", "100 facts"]


def test_solves_are_a_stage_like_the_others() -> None:
    assert not list(stages.measured([], [3072], ["anchors", "keys"]))


def test_rows_that_are_known_survive_what_comes_after_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def measured(*_: object) -> Iterator[stages.Row]:
        yield stages.Row("tiny", "keys", "2 facts", "1 facts/s", times=2.5, share=0.5)
        raise MemoryError

    monkeypatch.setattr(stages, "measured", measured)
    with pytest.raises(MemoryError):
        stages.main(["--json", str(tmp_path / "rows.json")])
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert (row["stage"], row["times"]) == ("keys", 2.5)


def test_without_a_gpu_its_size_is_skipped_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (row,) = stages.measured(stages.names(["llama-3-8b"]), [])
    assert row.stage == "skipped"
    assert "no GPU here" in row.errata
