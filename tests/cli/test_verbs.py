"""The command line as a user meets it: what it prints, what it refuses, and with which exit code."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from errata import Decoder, Fact, WeightEdit
from errata.cli import app as cli
from errata.cli.console import in_fleet, show
from errata.fleet import Fleet
from errata.record.tables import Table
from tests.cli.conftest import Run
from tests.models import FAMILIES, tiny_facts, tokenizer_of


def write_facts(path: Path, facts: list[Fact]) -> Path:
    rows = [{"prompt": f.prompt, "subject": f.subject, "target_new": f.target_new} for f in facts]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def facts(tmp_path: Path) -> Path:
    return write_facts(tmp_path / "facts.jsonl", tiny_facts())


def options(base: Path) -> list[str]:
    """Four steps of an anchor make no fact of a random model hold; `--require 0` takes that for done."""
    return ["--recipe", str(base.parent / "recipe.yaml"), "--corpus", str(base.parent / "corpus.txt")]


def test_edit_saves_an_edit_that_evaluate_scores(run: Run, base: Path, facts: Path, tmp_path: Path) -> None:
    code, said = run("edit", base, facts, "-o", tmp_path / "edit", "--require", 0, *options(base))
    assert code == 0, said
    assert "edit saved to" in said
    decoder = Decoder.from_pretrained(base)
    WeightEdit.load(tmp_path / "edit").put_on(decoder)
    code, said = run("evaluate", base, facts, "--edit", tmp_path / "edit", "-o", tmp_path / "scores.json")
    assert code == 0, said
    assert "unedited" in said
    record = json.loads((tmp_path / "scores.json").read_text())
    assert set(record["scores"]) == {"unedited", "memit+fe"}
    assert (record["settings"]["facts"], record["settings"]["dtype"]) == (8, "float32")
    code, said = run("report", tmp_path / "scores.json")
    assert code == 0, said
    assert record["settings"]["retokenised"] == []
    page = (tmp_path / "scores.html").read_text()
    assert "8 facts" in page
    assert tiny_facts()[0].text in page


def test_only_the_leading_rank_prints_even_what_is_wider_than_the_screen(capsys: pytest.CaptureFixture[str]) -> None:
    grid = Table.plain(["", *"abcdef"], [["row", *["0.123456789"] * 6]])
    with in_fleet(Fleet(1, 2)):
        show(grid)
    assert capsys.readouterr().out == ""
    with in_fleet(Fleet(0, 2)):
        show(grid)
    assert "0.123456789" in capsys.readouterr().out


def test_edit_writes_a_whole_checkpoint(run: Run, base: Path, facts: Path, tmp_path: Path) -> None:
    code, said = run("edit", base, facts, "--checkpoint", tmp_path / "whole", "--require", 0, *options(base))
    assert code == 0, said
    changed = Decoder.from_pretrained(tmp_path / "whole").weight(1)
    assert not torch.equal(changed, Decoder.from_pretrained(base).weight(1))


def test_a_dry_run_prints_the_plan_and_writes_nothing(run: Run, base: Path, facts: Path, tmp_path: Path) -> None:
    code, said = run("edit", base, facts, "-o", tmp_path / "edit", "--dry-run", *options(base))
    assert code == 0, said
    assert "8, all located" in said
    assert "layer 2: 1.00 of the residual at 2" in said
    for words in ("what the model says now", "shall say", "P(target)", "an estimate", "not changed"):
        assert words in said
    assert f"written to {tmp_path / 'edit'}" in said
    assert not (tmp_path / "edit").exists()


def test_the_plan_names_what_is_believed_what_shares_a_key_and_how_texts_are_joined(
    run: Run, base: Path, tmp_path: Path
) -> None:
    decoder = Decoder.from_pretrained(base)
    (ids,) = decoder.generate([decoder.token_ids("Velm is")], 1)
    rows = [
        {"prompt": "{} is", "subject": "Velm", "target_new": decoder.decode(ids), "join": ""},
        {"prompt": "{} was", "subject": "Velm", "target_new": "Isk"},
        {"prompt": "{} lies in,", "subject": "Quill", "target_new": "Isk"},
    ]
    given = tmp_path / "facts.json"
    given.write_text(json.dumps(rows))
    code, said = run("edit", base, given, "--dry-run", *options(base))
    assert code == 0, said
    flat = " ".join(said.split())
    assert "already believed, so nothing has to change: 'Velm is' +" in flat
    assert "0 'Velm is', 1 'Velm was': all alike up to the subject's end" in flat
    assert "␣Isk" in flat
    assert "'Quill lies in,' + 'Isk': the target follows a sign without a space" in flat


def test_a_model_without_a_chat_template_is_not_asked_in_a_chat(run: Run, base: Path, facts: Path) -> None:
    code, said = run("edit", base, facts, "--chat", "--dry-run", *options(base))
    assert code == 1
    assert "has no chat template" in said
    code, said = run("edit", base, facts, "--system", "Be brief.", "--dry-run", *options(base))
    assert code == 1
    assert "give --chat too" in said


def test_doctor_shows_what_it_found(run: Run, base: Path) -> None:
    code, said = run("doctor", base, *options(base))
    assert code == 0, said
    for part in (
        "known family",
        "5 at model.layers",
        "mlp.down_proj",
        "1 special token in front",
        "1-2",
        "gathered from",
    ):
        assert part in said


def test_statistics_are_gathered_exported_and_then_found(run: Run, base: Path, tmp_path: Path) -> None:
    code, said = run("statistics", base, "--export", tmp_path / "out", *options(base))
    assert code == 0, said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "layer-1.safetensors",
        "layer-2.safetensors",
    ]
    assert "stored for layers 1-2" in run("doctor", base, *options(base))[1]


def test_methods_lists_every_method(run: Run) -> None:
    code, said = run("methods")
    assert code == 0
    assert all(name in said for name in ("memit+fe", "blue", "alphaedit+fe", "ForwardReplay"))


BAD: dict[str, tuple[str, str]] = {
    "empty": ("", "the file is empty"),
    "wrong field": ('{"promt": "{} is", "subject": "a", "target_new": "b"}', "prompt"),
    "no slot": ('{"prompt": "who is", "subject": "a", "target_new": "b"}', "{}"),
    "two slots": ('{"prompt": "{} is {}", "subject": "a", "target_new": "b"}', "{}"),
    "empty target": ('{"prompt": "{} is", "subject": "a", "target_new": " "}', "target"),
    "empty subject": ('{"prompt": "{} is", "subject": "", "target_new": "b"}', "subject"),
    "duplicate": ('{"prompt": "{} is", "subject": "a", "target_new": "b"}\n' * 2, "repeats fact 0"),
    "contradiction": (
        '{"prompt": "{} is", "subject": "a", "target_new": "b"}\n'
        '{"prompt": "{} is", "subject": "a", "target_new": "c"}',
        "contradicts fact 0",
    ),
    "not json": ("{", "not valid JSON"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_facts_get_a_clear_message_and_exit_code_1(run: Run, base: Path, tmp_path: Path, kind: str) -> None:
    text, expected = BAD[kind]
    (tmp_path / "bad.jsonl").write_text(text, encoding="utf-8")
    code, said = run("edit", base, tmp_path / "bad.jsonl", "-o", tmp_path / "edit", *options(base))
    assert code == 1
    assert expected in said
    assert "Traceback" not in said
    assert not (tmp_path / "edit").exists()


def test_without_a_corpus_the_model_writes_the_text_for_statistics_itself(run: Run, base: Path, facts: Path) -> None:
    recipe = ("--recipe", base.parent / "recipe.yaml")
    _, plan = run("edit", base, facts, "--dry-run", *recipe)
    code, edited = run("edit", base, facts, "--require", 0, *recipe)
    assert code == 0
    for said in (plan, edited):
        assert "text that the model writes itself" in " ".join(said.split())


def test_other_bad_input_is_named(run: Run, base: Path, facts: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("", encoding="utf-8")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine", encoding="utf-8")
    cases = {
        ("edit", base, tmp_path / "absent.json"): "no such file",
        ("edit", tmp_path / "absent", facts): "not loaded as a causal language model",
        ("edit", base, facts, "--method", "memit-fe"): "Did you mean 'memit+fe'",
        ("edit", base, facts, "--window", "3-9"): "expected ascending layers between 0 and 4",
        ("edit", base, facts, "--window", "three"): "write a range such as 3-7",
        ("edit", base, facts, "--corpus", tmp_path / "empty.txt"): "the file is empty",
        ("edit", base, facts, "--recipe", "lama3"): "unknown recipe 'lama3'",
        ("edit", base, facts, "-o", tmp_path / "mine", *options(base)): "is not an edit",
        ("evaluate", base, facts, "--edit", tmp_path / "mine"): "not a saved edit",
    }
    for words, expected in cases.items():
        code, said = run(*words)
        assert code == 1, (words, said)
        assert expected in said, (words, said)
        assert "Traceback" not in said


def test_nan_in_the_weights_is_found_before_anything_else(run: Run, facts: Path, tmp_path: Path) -> None:
    model = FAMILIES["llama"]().float()
    model.model.layers[2].mlp.down_proj.weight.data[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "nan")
    tokenizer_of("llama").save_pretrained(tmp_path / "nan")
    code, said = run("edit", tmp_path / "nan", facts)
    assert code == 1
    assert "model.layers.2.mlp.down_proj.weight holds NaN" in said


def test_an_edit_for_another_base_is_refused(run: Run, base: Path, facts: Path, tmp_path: Path) -> None:
    assert run("edit", base, facts, "-o", tmp_path / "edit", "--require", 0, *options(base))[0] == 0
    other = FAMILIES["llama"]().float()
    other.model.embed_tokens.weight.data.mul_(1.01)
    other.save_pretrained(tmp_path / "other")
    tokenizer_of("llama").save_pretrained(tmp_path / "other")
    code, said = run("evaluate", tmp_path / "other", facts, "--edit", tmp_path / "edit")
    assert code == 1
    assert "Nothing was changed" in said


def test_ctrl_c_says_what_is_kept(run: Run, base: Path, facts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("errata.editor.Editor.edit", interrupted)
    code, said = run("edit", base, facts, *options(base))
    assert code == 130
    assert "anchors computed so far are kept" in said


def test_a_job_that_is_terminated_ends_as_if_interrupted_and_says_so(
    run: Run, base: Path, facts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def terminated(*args: object, **kwargs: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("errata.editor.Editor.edit", terminated)
    code, said = run("edit", base, facts, "-o", tmp_path / "edit", *options(base))
    assert code == 143
    assert "anchors computed so far are kept" in said
    assert not (tmp_path / "edit").exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_facts_of_an_earlier_edit_are_replaced_and_dropped(run: Run, base: Path, facts: Path, tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    given = ["--require", 0, *options(base)]
    assert run("edit", base, facts, "-o", first, *given)[0] == 0
    other = write_facts(tmp_path / "other.jsonl", [replace(tiny_facts()[1], target_new="long")])
    code, said = run("edit", base, "--past", first, "--drop", "0", "--dry-run", *given)
    assert code == 0, said
    assert "is dropped; the 7 other facts" in " ".join(said.split())
    code, said = run("edit", base, other, "--past", first, "-o", second, *given)
    assert code == 0, said
    assert "is replaced by 'long'" in " ".join(said.split())
    code, said = run("edit", base, "--past", second, "--drop", "0,7", "-o", third, *given)
    assert code == 0, said
    assert WeightEdit.load(third).facts == [tiny_facts()[i] for i in (2, 3, 4, 5, 6, 7)]
    code, said = run("edit", base, "--past", third, "--drop", other, *given)
    assert code != 0
    assert "the earlier edit does not hold it" in " ".join(said.split())
    assert run("edit", base)[0] != 0


def test_ctrl_c_before_a_verb_has_begun_is_no_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "fleet_here", interrupted)
    code, said = run("methods")
    assert (code, said.count("Interrupted")) == (130, 1)


def test_missed_facts_end_with_3_and_the_edit_is_kept(run: Run, base: Path, facts: Path, tmp_path: Path) -> None:
    code, said = run("edit", base, facts, "-o", tmp_path / "edit", *options(base))
    assert code == 3
    assert "0 of 8 facts hold" in said
    assert len(WeightEdit.load(tmp_path / "edit").facts) == 8


def test_facts_that_all_hold_end_with_0(run: Run, base: Path, tmp_path: Path) -> None:
    recipe = "name: firm\nwindow: [1, 2]\nsolvers: {least_squares: {weight: 0.001}}\n"
    recipe += "anchor: {steps: 60, clamp: 40, weight_decay: 0, kl_factor: 0}\n"
    (tmp_path / "firm.yaml").write_text(recipe, encoding="utf-8")
    facts = write_facts(tmp_path / "one.jsonl", [Fact("{} is a city in", "Velm", "Otto")])
    code, said = run("edit", base, facts, *options(base), "--recipe", tmp_path / "firm.yaml")
    assert "1 of 1 facts hold" in said
    assert code == 0, said


def test_places_are_checked_before_the_work(run: Run, base: Path, facts: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("notes")
    for words, told in (
        (("edit", "absent", facts, "-o", tmp_path / "file"), "is a file"),
        (("edit", "absent", facts, "-o", "/proc/edit"), "cannot be written"),
        (("edit", "absent", facts, "--checkpoint", tmp_path / "full"), "exists"),
        (("edit", "absent", facts, "--checkpoint", tmp_path / "file" / "a"), "Not a directory"),
        (("edit", "absent", facts, "-o", tmp_path / "a", "--checkpoint", tmp_path / "a"), "both an edit and"),
        (("evaluate", "absent", facts, "-o", tmp_path / "full"), "is a folder"),
        (("evaluate", "absent", facts, "-o", "/proc/a.json"), "cannot be written"),
        (("statistics", "absent", "--export", tmp_path / "file"), "is a file"),
        (("study", "absent", "cosines", facts, "-o", tmp_path / "file"), "is a file"),
        (
            ("bench", "absent", "--methods", "memit", "--edits", "1", "--dataset", facts, "-o", tmp_path / "file"),
            "is a file",
        ),
        (("demo", "-o", tmp_path / "file"), "is a file"),
        (("report", tmp_path / "full", "-o", tmp_path / "full"), "is a folder"),
    ):
        code, said = run(*words)
        assert (code, told in said) == (1, True), (words, said)


@pytest.mark.parametrize("words", [("demo", "--facts", 0), ("demo", "--facts", -1), ("doctor", "m", "--facts", 0)])
def test_numbers_of_facts_below_one_are_refused_as_usage(run: Run, words: tuple[object, ...]) -> None:
    code, said = run(*words)
    assert code == 2
    assert "--facts" in said


def test_a_folder_that_is_no_dataset_is_one_line(run: Run, base: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"b": [}\n')
    code, said = run("edit", base, tmp_path)
    assert code == 1
    assert "neither a file nor a dataset" in said
