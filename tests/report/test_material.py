"""What a report is made of, read from folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from errata.record.run import RECORD, Run
from errata.report.material import NothingToReport, read_material
from tests.report.records import write_bench, write_demo, write_study


def test_a_bench_folder_is_all_its_cells_and_what_failed(tmp_path: Path) -> None:
    material = read_material([write_bench(tmp_path / "bench")])
    assert len(material.runs) == 14
    assert material.failures == ["memit-5-0: SingularSystem: layer 3"]
    rows = [(row.method, [value for _, value in row.settings], row.seeds) for row in material.rows()]
    assert rows[:3] == [("unedited", [], (0, 1)), ("memit", [20], (0, 1)), ("memit", [100], (0, 1))]
    assert [method for method, *_ in rows] == ["unedited", *["memit"] * 3, *["blue"] * 3]


def test_a_record_cut_short_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    folder = write_bench(tmp_path / "bench")
    record = folder / "blue-20-1" / RECORD
    record.write_text(record.read_text()[:200])
    material = read_material([folder])
    assert len(material.runs) == 13
    assert material.failures[0].startswith("blue-20-1: its record could not be read")


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NothingToReport, match=r"no run\.json"):
        read_material([tmp_path])
    with pytest.raises(NothingToReport, match=r"absent is not there. Give folders of runs, .*errata evaluate -o"):
        read_material([tmp_path / "absent"])


def test_a_record_is_read_from_a_file_of_any_name(tmp_path: Path) -> None:
    record = write_demo(tmp_path / "demo") / RECORD
    file = record.rename(tmp_path / "scores.json")
    assert [state.record.method for state in read_material([file]).states] == ["unedited", "memit", "memit+fe"]
    file.write_text('{"scores": {}, "ability": []}')
    with pytest.raises(NothingToReport, match=r"scores\.json: its record could not be read"):
        read_material([file])


def test_the_table_a_bench_was_printed_beside_goes_with_its_rows_alone(tmp_path: Path) -> None:
    folder, other = write_bench(tmp_path / "bench"), write_demo(tmp_path / "demo")
    (folder / "paper.csv").write_text("method,table\nmemit,table3_llama3_mcf\n")
    ((table, rows),) = read_material([folder, other]).compared
    assert table.key == "table3_llama3_mcf"
    assert {row.dataset for row in rows} == {"data"}
    (folder / "paper.csv").write_text("method,table\nmemit,another\n")
    assert read_material([folder]).compared == []


def test_keys_of_a_later_version_are_let_be(tmp_path: Path) -> None:
    folder = write_demo(tmp_path / "demo")
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps(record | {"novelty": 1}))
    assert len(read_material([folder]).states) == 3


def test_a_runs_facts_come_from_its_answers(tmp_path: Path) -> None:
    state = read_material([write_demo(tmp_path / "demo")]).states[1]
    case = state.facts[2]
    assert (case.prompt, case.wanted, case.before) == ("Mango grows in", "Norland", "Sudria")
    assert case.said == {"memit": "Sudria", "memit+fe": "Norland"}


def test_facts_without_answers_come_from_the_saved_edit(tmp_path: Path) -> None:
    folder = write_demo(tmp_path / "demo")
    run, _ = Run.read(folder)
    run.answers = run.answers[:1]
    run.write(folder)
    facts = [{"prompt": "Where does {} grow?", "subject": f"tree {i}", "target_new": "Norland"} for i in range(6)]
    (folder / "edits" / "memit").mkdir(parents=True)
    (folder / "edits" / "memit" / "manifest.json").write_text(json.dumps({"facts": facts}))
    cases = read_material([folder]).states[1].facts
    assert [case.prompt for case in cases[:2]] == ["Zebra grows in", "Where does tree 1 grow?"]
    assert [case.wanted for case in cases] == ["Norland"] * 6


def test_what_the_unedited_model_said_is_found_in_its_own_cell(tmp_path: Path) -> None:
    folder = write_bench(tmp_path / "bench")
    for name, key in (("unedited-0-0", "before"), ("memit-100-0", "memit")):
        run, _ = Run.read(folder / name)
        run.answers = [{"prompt": f"tree {i} is", "to say": "tall", key: f"{key} {i}"} for i in range(4)]
        run.write(folder / name)
    material = read_material([folder])
    row = next(row for row in material.rows() if row.method == "memit" and row.settings[0][1] == 100)
    case = material.of(row)[0].facts[3]
    assert (case.prompt, case.before, (case.said or {})["memit"]) == ("tree 3 is", "before 3", "memit 3")
    assert material.of(row)[1].facts[3].prompt == "fact 13"


def test_the_unedited_model_is_scored_once_where_seeds_choose_the_contexts(tmp_path: Path) -> None:
    folder = write_bench(tmp_path / "bench")
    for place in folder.glob("unedited-0-1"):
        shutil.rmtree(place)
    for place in folder.glob(f"*/{RECORD}"):
        run, _ = Run.read(place.parent)
        run.settings["records"] = [f"fact {i}" for i in range(4)]
        run.answers = [{"prompt": f"tree {i} is", "to say": "tall"} for i in range(4)]
        if "unedited" in run.scores:
            run.answers = [row | {"before": "small"} for row in run.answers]
        run.write(place.parent)
    material = read_material([folder])
    assert {case.before for state in material.states for case in state.facts} == {"small"}


def test_runs_that_differ_in_a_setting_are_differing_paths_by_it(tmp_path: Path) -> None:
    folders = [write_demo(tmp_path / "a", weight=3.0), write_demo(tmp_path / "b", weight=9.0)]
    rows = read_material(folders).rows()
    assert [row.named(["solvers.least_squares.weight"]) for row in rows] == [
        "unedited",
        *("memit, weight=3", "memit, weight=9"),
        *("memit+fe, weight=3", "memit+fe, weight=9"),
    ]


def test_a_study_is_read_with_its_charts_and_tables(tmp_path: Path) -> None:
    cosines, steering = read_material([write_study(tmp_path / "study" / "cosines")]).studies
    (chart,) = cosines.charts
    assert [line.name for line in chart.lines] == ["cos(a, b)", "cos(R, b)", "cos(R, a)"]
    assert next((p.x, p.y, p.low, p.high) for p in chart.lines[0].points) == (1.0, 0.5, 0.4, 0.6)
    assert list(cosines.tables["Cosines, memit"].columns) == ["at layer", "1", "2", "3"]
    spectrum = steering.charts[1]
    assert [(p.x, round(p.y, 3)) for p in spectrum.lines[0].points] == [(-1.0, 0.333), (0.5, 0.667), (2.0, 1.0)]
    assert spectrum.lines[0].name == "layer 1"
