"""errata edit without settings and errata take: what is printed, saved, and with which exit code they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from errata import load_edit
from errata.cli.app import app
from errata.errors import UnknownName, WrongEdit
from errata.record.path import EditPath
from errata.record.verdict import Verdict
from tests.models import FAMILIES, tiny_corpus, tiny_facts, tokenizer_of


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, a corpus, a recipe without a weight, and the edit that it gives."""
    folder = tmp_path_factory.mktemp("path")
    FAMILIES["llama"]().float().save_pretrained(folder / "model")
    tokenizer_of("llama").save_pretrained(folder / "model")
    (folder / "corpus.txt").write_text("\n".join(tiny_corpus()), encoding="utf-8")
    (folder / "recipe.yaml").write_text("name: tiny\nwindow: [1, 2]\nanchor: {steps: 4}\n", encoding="utf-8")
    rows = [{"prompt": f.prompt, "subject": f.subject, "target_new": f.target_new} for f in tiny_facts()[:3]]
    (folder / "facts.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


def said(work: Path, *words: object, verb: str = "edit") -> tuple[int, str]:
    given = [verb, *map(str, words)]
    if verb == "edit":
        given[1:1] = [str(work / "model"), str(work / "facts.jsonl"), "--recipe", str(work / "recipe.yaml")]
        given += ["--corpus", str(work / "corpus.txt")]
    done = CliRunner().invoke(app, given, env={"COLUMNS": "80"})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_an_edit_without_settings_walks_a_path_and_any_point_can_be_taken(work: Path) -> None:
    code, output = said(work, "-o", work / "edit")
    assert code == 3  # four steps of an anchor make no fact of a random model hold
    for part in ("The path, from gentle to strong", "facts held;", "facts hold; of", "perplexity", "missed"):
        assert part in output
    assert max(map(len, output.split("\n"))) <= 250  # sentences are folded by the terminal
    saved = load_edit(work / "edit")
    path = EditPath.from_json(saved.manifest["path"])
    assert saved.manifest["recipe"]["solvers"]["least_squares"]["weight"] == path.point.value
    verdict = Verdict.from_json(json.loads((work / "edit" / "verdict.json").read_text(encoding="utf-8")))
    assert saved.manifest["verdict"] == str(verdict)
    assert str(verdict) in output
    other = next(point.number for point in path.points if point.number != path.taken)
    code, output = said(work, work / "edit", other, "-o", work / "other", verb="take")
    assert code == 0, output
    assert EditPath.from_json(load_edit(work / "other").manifest["path"]).taken == other
    assert "The path" in said(work, work / "edit", verb="take")[1]
    with pytest.raises(UnknownName):
        said(work, work / "edit", 99, verb="take")


def test_settings_given_on_the_command_line_leave_no_path(work: Path) -> None:
    code, output = said(work, "--set", "solvers.least_squares.weight=500", "--set", "share=0.5", "-o", work / "plain")
    assert code == 3
    assert "The path" not in output
    made = load_edit(work / "plain").manifest
    assert made["recipe"]["solvers"]["least_squares"]["weight"] == 500
    assert made["share"] == 0.5
    with pytest.raises(WrongEdit):
        said(work, work / "plain", 1, verb="take")


def test_the_plan_says_how_settings_are_chosen(work: Path) -> None:
    assert "chosen so that at least 95% of the facts hold" in said(work, "--dry-run")[1]
    assert "edited in batches" in said(work, "--dry-run", "--batch", "1")[1]


def test_going_on_takes_the_settings_of_the_earlier_edit(work: Path, tmp_path: Path) -> None:
    said(work, "--set", "solvers.least_squares.weight=700", "--set", "share=0.5", "-o", tmp_path / "first")
    more = {"prompt": "{} was born in", "subject": "Una", "target_new": "Oster"}
    (tmp_path / "more.jsonl").write_text(json.dumps(more), encoding="utf-8")
    words = [work / "model", tmp_path / "more.jsonl", "--recipe", work / "recipe.yaml", "--past", tmp_path / "first"]
    done = CliRunner().invoke(app, ["edit", *map(str, [*words, "-o", tmp_path / "both"])])
    assert "settings of the earlier edit are used: solvers.least_squares.weight=700" in done.output, done.output
    made = load_edit(tmp_path / "both").manifest
    assert (made["recipe"]["solvers"]["least_squares"]["weight"], made["share"]) == (700, 0.5)


def test_a_mistyped_setting_is_refused_with_the_nearest_one(work: Path) -> None:
    with pytest.raises(UnknownName, match="least_squares"):
        said(work, "--set", "solvers.least_squares.wieght=500")
