"""The first command of the README, made small: what it prints, and what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from errata import load_edit
from errata.cli import app as cli


def test_the_demo_changes_facts_shows_what_else_moved_and_undoes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("errata.cli.console.out.width", 200)
    monkeypatch.setenv("ERRATA_STORE", str(tmp_path / "store"))
    words = ["--facts", "2", "--methods", "onelayer,memit+fe", "--window", "4-5", "-o", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", ["errata", "demo", *words])
    with pytest.raises(SystemExit) as left:
        cli.main()
    said = capsys.readouterr().out
    assert not left.value.code
    for part in ("2 facts", "layers [4, 5]", "What the model says", "Scores over 2 facts", "residual", "Seconds"):
        assert part in said
    record = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert list(record["scores"]) == ["unedited", "onelayer", "memit+fe"]
    for row in record["answers"]:
        assert row["prompt"] in said
        assert row["before"] != row["to say"]
        assert row["memit+fe"].startswith(row["to say"])
        assert row["undone"] == row["before"]
    shares = {name: {s["name"]: s["value"] for s in scores} for name, scores in record["scores"].items()}
    assert (shares["unedited"]["efficacy_accuracy"], shares["memit+fe"]["efficacy_accuracy"]) == (0.0, 1.0)
    assert shares["unedited"]["specificity_kl"] == 0.0 < shares["memit+fe"]["specificity_kl"]
    edits = {path.name: load_edit(path) for path in (tmp_path / "run" / "edits").iterdir()}
    assert {name: len(edit.facts) for name, edit in edits.items()} == {"onelayer": 2, "memit+fe": 2}
    assert (tmp_path / "run" / "README.md").is_file()
