"""Run folders to which something has happened: what is damaged is named in one line, and the rest is reported.

Thousands more, through the command line: `python -m tests.fuzz --family runs --inputs 5000`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from errata.record.run import RECORD
from errata.report.material import Material, NothingToReport, read_material
from errata.report.page import page
from tests.fuzz.damage import damage_file
from tests.report.records import write_bench, write_demo, write_study

MUTATIONS = 200
CELL = "memit-100-0"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bench(tmp_path_factory.mktemp("whole") / "bench")


@pytest.fixture
def bench(whole: Path, tmp_path: Path) -> Path:
    """A bench of fourteen cells, one of which is to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "bench"))


def change(path: Path, *place: Any, value: Any) -> None:
    """Put a value into a file of JSON."""
    inner = row = json.loads(path.read_text())
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(row))


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


BROKEN: dict[str, Callable[[Path], object]] = {
    "cut short": lambda path: path.write_text(path.read_text()[:300]),
    "empty": lambda path: path.write_text(""),
    "a list": lambda path: path.write_text("[]"),
    "a number": lambda path: path.write_text("12"),
    "of 100,000 brackets": lambda path: path.write_text("[" * 100_000),
    "of a number of 5,000 digits": lambda path: path.write_text("9" * 5000),
    "in another encoding": lambda path: path.write_bytes(path.read_text().encode("utf-16")),
    "a folder": as_folder,
    "scores are text": lambda path: change(path, "scores", "memit", value="0.5"),
    "scores are gone": lambda path: change(path, "scores", value={}),
    "a score is not a number": lambda path: change(path, "scores", "memit", 0, "value", value=float("nan")),
    "a score is beyond measure": lambda path: change(path, "scores", "memit", 0, "value", value=1e300),
    "an interval has one end": lambda path: change(path, "scores", "memit", 0, "interval", value=[0.5]),
    "cases are an object": lambda path: change(path, "scores", "memit", 0, "per_case", value={"a": 1}),
    "the cell is text": lambda path: change(path, "settings", "cell", value="memit"),
    "a seed is a list": lambda path: change(path, "settings", "cell", "seed", value=[0]),
    "edits are beyond measure": lambda path: change(path, "settings", "cell", "edits", value=10**30),
    "a setting is an object": lambda path: change(path, "settings", "cell", "settings", value={"a": {}}),
    "a key is half a surrogate pair": lambda path: change(path, "\ud800", value=1),
    "nested deep": lambda path: change(path, "settings", "a", value=json.loads("[" * 300 + "]" * 300)),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_damaged_cell_is_named_in_one_line_and_the_others_are_reported(bench: Path, damage: str) -> None:
    BROKEN[damage](bench / CELL / RECORD)
    material = read_material([bench])
    (line,) = [text for text in material.failures if text.startswith(f"{CELL}: ")]
    assert "record could not be read (" in line
    assert len(line) < 350
    assert "\n" not in line
    assert len(material.runs) == 13
    text = page(material)
    assert "2 failed and are not in this report" in text
    assert 'id="scores"' in text


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("ledgers", "memit", "rows"), "none"),
        (("ledgers", "memit", "rows", 0, "edit"), 10**9),
        (("ledgers", "memit", "rows", 0, "remaining"), {"last": 0.5}),
        (("seconds", "solve"), "fast"),
        (("answers",), [["a"]]),
        (("ability",), [{"task": "sums"}]),
        (("memory",), None),
        (("versions", "errata"), 1),
    ],
)
def test_a_damaged_part_is_left_out_and_the_rest_of_the_run_is_reported(
    bench: Path, place: tuple[Any, ...], value: Any
) -> None:
    change(bench / CELL / RECORD, *place, value=value)
    material = read_material([bench])
    (line,) = [text for text in material.failures if text.startswith(f"{CELL}: ")]
    assert "a part was left out (" in line
    assert str(place[0]) in line
    assert len(material.runs) == 14
    assert page(material)


def test_a_method_with_damaged_scores_does_not_take_the_others_along(tmp_path: Path) -> None:
    folder = write_demo(tmp_path / "demo")
    change(folder / RECORD, "scores", "memit", 1, "per_case", value="all")
    material = read_material([folder])
    assert [state.record.method for state in material.states] == ["unedited", "memit+fe"]
    assert material.failures == [
        "demo: a part was left out (scores.memit.1.per_case: input should be a valid list, found 'all')"
    ]


def test_numbers_of_a_ruined_model_are_left_blank(tmp_path: Path) -> None:
    folder = write_demo(tmp_path / "demo")
    for value in (float("nan"), float("inf")):
        change(folder / RECORD, "ledgers", "memit", "rows", 1, "update_norm", value=value)
        change(folder / RECORD, "ledgers", "memit", "rows", 1, "remaining", "3", value=value)
        material = read_material([folder])
        assert material.failures == []
        assert "nan" not in page(material).split('<section id="residuals">')[1].split("</section>")[0]


def test_studies_that_are_damaged_are_named(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study")
    (folder / "cosines.json").write_text((folder / "cosines.json").read_text()[:500])
    change(folder / "steering.json", "charts", 0, "x", "scale", value="log")
    change(folder / "steering.json", "charts", 0, "lines", 0, "points", 0, "x", value=-1)
    with pytest.raises(NothingToReport, match=r"2 failed: study: cosines\.json is not whole JSON"):
        read_material([folder])
    material = read_material([folder, write_demo(tmp_path / "demo")])
    assert "a logarithmic axis has no place for -1" in material.failures[1]


def test_a_folder_without_anything_whole_is_one_line(tmp_path: Path) -> None:
    folder = write_demo(tmp_path / "demo")
    (folder / RECORD).write_text("{")
    with pytest.raises(NothingToReport) as caught:
        read_material([folder])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_no_damage_is_a_traceback(whole: Path, tmp_path: Path) -> None:
    samples = [write_demo(tmp_path / "demo"), whole / CELL, write_study(tmp_path / "study")]
    outcomes: dict[str, int] = {"whole": 0, "in part": 0, "refused": 0}
    for number in range(MUTATIONS):
        rng, sample = Random(number), samples[number % len(samples)]
        folder = Path(shutil.copytree(sample, tmp_path / str(number)))
        damage_file(rng.choice(sorted(folder.glob("*.json"))), rng)
        try:
            material: Material | None = read_material([folder])
        except NothingToReport:
            material = None
        if material:
            assert page(material)
        outcomes["refused" if material is None else "in part" if material.failures else "whole"] += 1
    assert min(outcomes.values()) >= 5, outcomes
