"""errata bench on the command line, with a tiny checkpoint and a file of cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from errata.cli.app import app
from errata.errors import ErrataError
from errata.report.bench_tables import COSTS
from tests.models import FAMILIES, tiny_corpus, tiny_facts, tokenizer_of


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("bench")
    FAMILIES["llama"]().save_pretrained(room / "model")
    tokenizer_of("llama").save_pretrained(room / "model")
    rows = [
        {"prompt": f.prompt, "subject": f.subject, "target_new": f.target_new, "target_true": "Norland"}
        | {"paraphrases": [f"Know that {f.text}"], "neighbourhood": ["Quill is a city in"]}
        for f in tiny_facts()
    ]
    (room / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (room / "corpus.txt").write_text("\n".join(tiny_corpus()))
    return room


def run(room: Path, *flags: str) -> Result:
    shared = ["--dataset", str(room / "cases.jsonl"), "--corpus", str(room / "corpus.txt"), "-o", str(room / "out")]
    fixed = ["--sweep", "window=1-3", "--sweep", "anchor.steps=3", "--probes", "belief,specificity"]
    weights = ["--sweep", "solvers.least_squares.weight=0.5,2"]
    start = ["bench", str(room / "model"), "--methods", "memit,memit+fe", "--edits", "2"]
    return CliRunner().invoke(app, [*start, *shared, *fixed, *weights, *flags], catch_exceptions=False)


def test_a_grid_from_flags_end_to_end(room: Path) -> None:
    planned = run(room, "--dry-run")
    assert planned.exit_code == 0
    assert not (room / "out").exists()
    done = run(room)
    assert done.exit_code == 0
    assert "4 cells computed, 0 taken from earlier runs" in done.stdout
    assert COSTS in done.stdout
    assert "at matched D_KL" in (room / "out" / "table.md").read_text()
    again = run(room, "--format", "md", "--finished", "--seeds", "0,1")
    assert "| memit+fe | 0.5 | 1 |" in again.stdout
    assert (room / "out" / "table.md").read_text().strip() == again.stdout.strip()


def test_a_grid_from_a_file(room: Path) -> None:
    (room / "grid.yaml").write_text(
        f"models: [{room / 'model'}]\ndatasets: [{room / 'cases.jsonl'}]\nmethods: [onelayer]\nedits: 2\n"
        f"corpus: {room / 'corpus.txt'}\nprobes: belief\nsweep: {{window: [1-3], anchor.steps: [3]}}\n"
    )
    out = str(room / "other")
    done = CliRunner().invoke(app, ["bench", str(room / "grid.yaml"), "-o", out, "--format", "csv"])
    assert done.exit_code == 0
    assert done.stdout.splitlines()[2].split(",")[3] == "onelayer"


def test_records_that_conflict_are_settled_and_as_many_facts_are_edited_as_asked_for(room: Path) -> None:
    lines = (room / "cases.jsonl").read_text().splitlines()
    (room / "twice.jsonl").write_text("\n".join([lines[0], *lines]))
    start = ["bench", str(room / "model"), "--methods", "memit", "--edits", "2", "--dataset", str(room / "twice.jsonl")]
    start += ["--corpus", str(room / "corpus.txt"), "-o", str(room / "twice"), "--dry-run"]
    with pytest.raises(ErrataError, match="fact 1 repeats fact 0"):
        CliRunner().invoke(app, start, catch_exceptions=False)
    done = CliRunner().invoke(app, [*start, "--on-conflict", "first"], catch_exceptions=False)
    assert done.exit_code == 0


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--sweep", "anchor.stops=3"], "anchor.steps"),
        (["--sweep", "anchor.steps"], "PATH=VALUE"),
        (["--edits", "x"], "whole numbers"),
        (["--edits", "9"], "it has 8 facts"),
        (["--format", "pdf"], "unknown format"),
    ],
)
def test_mistakes_are_told(room: Path, flags: list[str], told: str) -> None:
    with pytest.raises(ErrataError, match=told):
        run(room, *flags, "-o", str(room / "never"))
    assert not (room / "never").exists()
