"""Files on the command line: the format of records, conflicts, limits, and the layout of an unknown model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from errata import load_edit, read_facts
from tests.cli.conftest import Run
from tests.decoder.test_layout import written as layout_file
from tests.models import tiny_facts

ROWS: list[dict[str, Any]] = [
    {"prompt": f.prompt, "subject": f.subject, "target_new": f.target_new} for f in tiny_facts()[:2]
]


def facts_file(folder: Path, rows: list[dict[str, Any]], name: str = "facts.json") -> Path:
    (folder / name).write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return folder / name


def edit(run: Run, base: Path, facts: Path, out: Path, *words: object) -> tuple[int, str]:
    usual = (
        "--method",
        "memit",
        "--require",
        0,
        "--recipe",
        base.parent / "recipe.yaml",
        "--corpus",
        base.parent / "corpus.txt",
    )
    return run("edit", base, facts, "-o", out, *usual, *words)


def test_the_command_edits_what_the_public_reader_reads(run: Run, base: Path, tmp_path: Path) -> None:
    rewrites = [{**row, "target_new": {"str": row["target_new"]}, "question": "Who?"} for row in ROWS]
    record = {"case_id": 1, "requested_rewrite": rewrites, "questions": ["Where?"], "new_answer": "x"}
    path = facts_file(tmp_path, [record])
    code, said = edit(run, base, path, tmp_path / "edit")
    assert code == 0, said
    assert load_edit(tmp_path / "edit").facts == read_facts(path)
    assert len(read_facts(path)) == 2


def test_conflicting_records_are_refused_or_left_out_and_told(run: Run, base: Path, tmp_path: Path) -> None:
    other = ROWS[0] | {"target_new": ROWS[1]["target_new"]}
    path = facts_file(tmp_path, [*ROWS, other])
    code, said = edit(run, base, path, tmp_path / "edit")
    assert code == 1
    assert "fact 2 contradicts fact 0" in said
    assert "--on-conflict" in said
    code, said = edit(run, base, path, tmp_path / "edit", "--on-conflict", "last")
    assert code == 0, said
    assert "left out, because they contradict later records: 1 of 3 records" in said
    assert [fact.target_new for fact in load_edit(tmp_path / "edit").facts] == [
        ROWS[1]["target_new"],
        other["target_new"],
    ]


@pytest.mark.parametrize("verb", ["edit", "evaluate"])
@pytest.mark.parametrize("limit", ["0", "-1"])
def test_a_limit_below_one_is_refused(verb: str, limit: str, run: Run, base: Path, tmp_path: Path) -> None:
    code, said = run(verb, base, facts_file(tmp_path, ROWS), "--limit", limit)
    assert code == 2
    assert "--limit" in said


def test_a_format_can_be_named_and_an_unknown_one_is_answered(run: Run, base: Path, tmp_path: Path) -> None:
    code, said = edit(run, base, facts_file(tmp_path, ROWS), tmp_path / "edit", "--format", "eratta", "--dry-run")
    assert code == 1
    assert "Did you mean 'errata'" in said


def test_a_layout_file_is_accepted_by_the_verbs_that_open_a_model(run: Run, base: Path, tmp_path: Path) -> None:
    mine = layout_file(tmp_path, note="my own layout")
    code, said = run("doctor", base, "--layout", mine)
    assert code == 0, said
    assert "my own layout" in said
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.safe_dump({"blocks": "nowhere", "down_projection": "x", "head": "y"}), encoding="utf-8")
    facts = facts_file(tmp_path, ROWS)
    verbs = [("doctor", base), ("edit", base, facts), ("evaluate", base, facts), ("statistics", base)]
    verbs += [
        ("study", base, "cosines", facts),
        ("bench", base, "--dataset", facts, "--methods", "memit", "--edits", 1),
    ]
    for words in verbs:
        code, said = run(
            *words, "--layout", wrong, *(["-o", tmp_path / "out"] if words[0] in ("study", "bench") else [])
        )
        assert code == 1, words
        assert "layout does not fit" in said, words


@pytest.mark.parametrize("words", [("evaluate", "--edit"), ("edit", "--past")])
def test_an_edit_that_is_none_is_refused_before_the_model_is_opened(
    words: tuple[str, str],
    run: Run,
    tmp_path: Path,
) -> None:
    verb, option = words
    code, said = run(verb, tmp_path / "no-model", facts_file(tmp_path, ROWS), option, tmp_path / "no-edit")
    assert code == 1
    assert "no-edit: not a saved edit" in said
