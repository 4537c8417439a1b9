"""The verb, on the pocket model: a study is printed and written; bad names are refused at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from errata.cli.console import in_fleet
from errata.cli.study import study
from errata.errors import ErrataError, UnknownName
from errata.fleet import Fleet


def call(*words: object) -> str:
    app = typer.Typer()
    app.command()(study)
    done = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "200"})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return f"{done.exit_code} {done.output}"


def test_tracing_the_pocket_model_prints_and_writes(tmp_path: Path) -> None:
    said = call("pocket", "tracing", "--facts", 2, "--layers", "5,10", "-o", tmp_path)
    assert said.startswith("0 ")
    record = json.loads((tmp_path / "tracing" / "tracing.json").read_text())
    assert record["settings"]["recipe"]["window"] == [3, 4, 5, 6, 7]
    assert len(record["facts"]) == 2
    rows = {row["layer"]: row["rise"]["mean"] for row in record["data"]["effects"]["state"]["last subject token"]}
    assert rows[5] > 0.3 > rows[10]  # the fact passes the subject's last token, and is gone from it at the end


@pytest.mark.parametrize(("what", "expected"), [("cosine", "Did you mean 'cosines'"), ("x", "Known: ")])
def test_an_unknown_study_is_refused_before_anything_is_loaded(what: str, expected: str) -> None:
    with pytest.raises(UnknownName, match=expected):
        call("pocket", what)


def test_many_processes_are_refused_before_anything_is_loaded() -> None:
    with in_fleet(Fleet(1, 2)), pytest.raises(ErrataError, match="in one process, and 2 were started"):
        call("pocket", "cosines")


def test_facts_are_asked_for_where_the_model_has_none() -> None:
    assert "FACTS_FILE" in call("some/model", "cosines")
