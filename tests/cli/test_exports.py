"""Verbs that write and compare edits and checkpoints, as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from errata import Decoder, SideMemory, WeightEdit
from errata.difference import BROAD, IDENTICAL, SURGICAL, difference
from errata.editors.side_memory import Side
from errata.errors import NotFinite
from errata.record.verdict import FactVerdict, Verdict
from tests.cli.conftest import Run
from tests.export.test_checkpoint import base_of, contents, edit_of
from tests.models import tiny_facts


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_of(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def decoder(base: Path) -> Decoder:
    return Decoder.from_pretrained(base)


@pytest.fixture
def edit(decoder: Decoder, tmp_path: Path) -> Path:
    edit_of(decoder).save(tmp_path / "edit")
    return tmp_path / "edit"


@pytest.fixture
def other(decoder: Decoder, tmp_path: Path) -> Path:
    """An edit of one more fact, at another layer."""
    made = edit_of(decoder, (3,))
    made.manifest["facts"] = [{"prompt": "{} was born in", "subject": "Una", "target_new": "Oster"}] * 1
    WeightEdit(made.delta, made.manifest, {3: made.keys[3][:1]}).save(tmp_path / "other")
    return tmp_path / "other"


@pytest.fixture
def run(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """On a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    return run


def as_json(said: str) -> dict[str, object]:
    document: dict[str, object] = json.loads(said[said.index("{") : said.rindex("}") + 1])
    return document


def test_apply_writes_what_undo_turns_back(run: Run, base: Path, edit: Path, other: Path, tmp_path: Path) -> None:
    code, said = run("apply", base, edit, other, "-o", tmp_path / "made")
    assert code == 0, said
    assert "3 matrices" in said
    assert f"written to {tmp_path / 'made'}" in said
    code, said = run("undo", tmp_path / "made", "-o", tmp_path / "back", "--json")
    assert code == 0, said
    assert as_json(said)["restored"] == "3 matrices"
    assert contents(tmp_path / "back") == contents(base)


def test_export_writes_adapters_and_checkpoints(run: Run, edit: Path, tmp_path: Path) -> None:
    for to, file in (("lora", "adapter_model.safetensors"), ("gguf-lora", "adapter.gguf"), ("checkpoint", "README.md")):
        code, said = run("export", edit, "--to", to, "-o", tmp_path / to)
        assert code == 0, said
        assert (tmp_path / to / file).is_file()
        assert not [line for line in said.splitlines() if len(line) > 80 and "/" not in line]
    code, said = run("export", edit, "--to", "lora", "--rank", 2, "-o", tmp_path / "thin", "--json")
    assert code == 0, said
    assert as_json(said)["rank"] == "2, cut from 3"


def test_places_are_looked_at_before_a_model_is_loaded(run: Run, edit: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for words in (
        ("apply", "no/such-model", edit),
        ("export", edit, "--base", "no/such-model", "--to", "lora"),
        ("export", edit, "--base", "no/such-model", "--to", "checkpoint"),
        ("undo", edit),
    ):
        code, said = run(*words, "-o", tmp_path / "full")
        assert (code, said.count("\n")) == (1, 1), said
        assert "exists; nothing was written" in said


def test_a_side_memory_is_refused_with_the_reason(run: Run, base: Path, tmp_path: Path) -> None:
    SideMemory("x", 2, "silu", (Side(torch.zeros(48, 80), 0.5),)).save(tmp_path / "side")
    for words in (("apply", base, tmp_path / "side"), ("export", tmp_path / "side", "--base", base, "--to", "lora")):
        code, said = run(*words, "-o", tmp_path / "made")
        assert code == 1
        assert "decides for each prompt which of two matrices to use" in said
    assert not (tmp_path / "made").exists()


def test_combine_saves_one_edit_of_several(run: Run, edit: Path, other: Path, tmp_path: Path) -> None:
    code, said = run("combine", edit, other, "-o", tmp_path / "both")
    assert code == 0, said
    assert "memit + memit" in said
    assert len(WeightEdit.load(tmp_path / "both").facts) == 4
    code, said = run("combine", edit, edit, "-o", tmp_path / "twice")
    assert code == 1
    assert "both hold" in said
    assert not (tmp_path / "twice").exists()
    assert run("combine", edit, "-o", tmp_path / "one")[0] == 2


def test_show_prints_facts_method_base_and_matrices(run: Run, edit: Path, base: Path, tmp_path: Path) -> None:
    code, said = run("show", edit)
    assert code == 0, said
    for words in ("memit", "Sudmark", str(base), "down_proj", "48 x 80"):
        assert words in said
    code, said = run("show", edit, "--json")
    document = as_json(said)
    assert code == 0
    assert (document["method"], document["kind"]) == ("memit", "WeightEdit")
    assert len(document["facts"]) == 3  # type: ignore[arg-type]
    run("apply", base, edit, "-o", tmp_path / "made")
    assert "memit" in run("show", tmp_path / "made")[1]


def test_show_says_what_was_seen_when_the_edit_was_made(run: Run, edit: Path) -> None:
    asked = [(f.text, f.target_new, f.subject == "Velm") for f in tiny_facts()[:3]]
    seen = tuple(FactVerdict(prompt, wanted, "-", "-", holds, False, 0.5) for prompt, wanted, holds in asked)
    verdict = Verdict(seen, 3, None, (), "", None, (10.0, 10.5), "")
    (edit / "verdict.json").write_text(json.dumps(verdict.to_json()))
    code, said = run("show", edit)
    assert code == 0, said
    assert "1 of 3 facts hold" in said
    assert "held-out text 10.0 -> 10.5 perplexity" in said
    assert said.count("missed") == 2
    (edit / "verdict.json").write_text("{")
    code, said = run("show", edit)
    assert (code, said.count("\n")) == (1, 1), said


def test_show_takes_a_manifest_of_strange_values_as_it_is(run: Run, edit: Path) -> None:
    manifest = json.loads((edit / "manifest.json").read_text())
    for strange in (5, "text", None, {"a": 1}, [[]]):
        changed = dict.fromkeys(("notes", "combined", "window", "versions", "method", "model", "dtype"), strange)
        (edit / "manifest.json").write_text(json.dumps({**manifest, **changed}))
        (edit / "ledger.json").write_text(json.dumps({"memit": strange}))
        code, said = run("show", edit)
        assert code == 0, said


@pytest.mark.parametrize("damage", ["gone", "no manifest", "no delta", "other manifest"])
def test_show_refuses_what_is_no_edit_in_one_line(run: Run, edit: Path, tmp_path: Path, damage: str) -> None:
    if damage == "gone":
        edit = tmp_path / "nothing"
    elif damage == "no manifest":
        (edit / "manifest.json").unlink()
    elif damage == "no delta":
        (edit / "edit.safetensors").write_bytes(b"abc")
    else:
        (edit / "manifest.json").write_text('{"kind": "another"}')
    code, said = run("show", edit)
    assert (code, said.count("\n")) == (1, 1), said


def test_diff_says_what_an_edit_changed(run: Run, base: Path, edit: Path, other: Path, tmp_path: Path) -> None:
    run("apply", base, edit, "-o", tmp_path / "made")
    code, said = run("diff", base, tmp_path / "made")
    assert code == 0, said
    assert "2 of 47 tensors, in layers 1, 2" in said or "2 of 48 tensors, in layers 1, 2" in said
    assert "3 of 48" in said
    assert "verdict  surgical: few matrices changed" in said
    document = as_json(run("diff", base, tmp_path / "made", "--json")[1])
    assert (document["verdict"], document["layers"], document["files"]) == ("surgical", [1, 2], [])
    assert "verdict  identical" in run("diff", base, base)[1]
    assert run("diff", base, tmp_path / "made", "--require", "identical")[0] == 3
    assert run("diff", base, tmp_path / "made", "--require", "surgical")[0] == 0
    code, said = run("diff", edit, other)
    assert code == 0, said
    assert "3 of 3 changed matrices" in said


def test_diff_refuses_what_cannot_be_compared(run: Run, base: Path, edit: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for second, words in (
        (edit, "only like can be compared with like"),
        (tmp_path / "empty", "holds no weights as safetensors"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "nothing", "there is no such folder"),
    ):
        code, said = run("diff", base, second)
        assert code == 1
        assert words in " ".join(said.split())
    broken = base_of(tmp_path / "broken")
    shard = next(broken.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:100])
    code, said = run("diff", base, broken)
    assert (code, said.count("\n")) == (1, 1), said


def test_the_verdict_follows_from_how_many_how_far_and_in_how_many_ranks(tmp_path: Path) -> None:
    first = {f"blocks.{i}.weight": torch.randn(16, 32) for i in range(20)}
    low = torch.randn(16, 1) @ torch.randn(1, 32)
    for change, verdict in (
        (torch.zeros(16, 32), IDENTICAL),
        (0.01 * low, SURGICAL),
        (10 * low, BROAD),
        (0.01 * torch.randn(16, 32), BROAD),
    ):
        second = {**first, "blocks.3.weight": first["blocks.3.weight"] + change}
        assert difference(first, second).verdict == verdict
    assert difference(first, {name: tensor + 0.01 * low for name, tensor in first.items()}).verdict == BROAD
    renamed = {name.replace("blocks.3", "blocks.33"): tensor for name, tensor in first.items()}
    assert difference(first, renamed).verdict == BROAD
    halves = {name: tensor.bfloat16() for name, tensor in first.items()}
    told = difference(halves, {name: tensor.float() for name, tensor in halves.items()})
    assert (told.verdict, len(told.retyped)) == (IDENTICAL, 20)
    with pytest.raises(NotFinite, match=r"blocks\.3"):
        difference(first, {**first, "blocks.3.weight": first["blocks.3.weight"] * float("nan")})


def test_bytes_that_are_the_same_are_identical_whatever_they_mean() -> None:
    odd = {
        "nan": torch.tensor([float("nan"), 1.0]),
        "eight": torch.randn(8, 8).to(torch.float8_e4m3fn),
        "packed": torch.arange(9, dtype=torch.uint8),
        "number": torch.tensor(3),
        "empty": torch.empty(0, 4),
    }
    assert difference(odd, {name: tensor.clone() for name, tensor in odd.items()}).verdict == IDENTICAL
    moved = {**odd, "eight": torch.randn(8, 8).to(torch.float8_e4m3fn), "packed": odd["packed"] + 1}
    assert [change.name for change in difference(odd, moved).changes] == ["eight", "packed"]
    assert difference({"zero": torch.zeros(3)}, {"zero": -torch.zeros(3)}).verdict == IDENTICAL


def test_json_holds_nothing_that_a_terminal_obeys(run: Run, edit: Path) -> None:
    manifest = json.loads((edit / "manifest.json").read_text())
    manifest["facts"][0]["target_new"] = "Rome\u202e\x9b2J\x1b[2J"
    (edit / "manifest.json").write_text(json.dumps(manifest))
    code, said = run("show", edit, "--json")
    assert code == 0
    assert not set("\u202e\x9b\x1b") & set(said)
    assert as_json(said)["facts"][0]["target"] == "Rome\u202e\x9b2J\x1b[2J"  # type: ignore[index]
    assert not set("\u202e\x9b\x1b") & set(run("show", edit)[1])


def test_ranks_are_counted_above_the_rounding_of_the_stored_dtype(tmp_path: Path) -> None:
    first = {f"blocks.{i}.weight": torch.randn(64, 96).bfloat16() for i in range(12)}
    change = torch.randn(64, 3) @ torch.randn(3, 96)
    second = {**first, "blocks.3.weight": (first["blocks.3.weight"].float() + 0.05 * change).bfloat16()}
    assert [one.rank for one in difference(first, second).changes] == [3]
    save_file(second, tmp_path / "model.safetensors")
    assert torch.equal(load_file(tmp_path / "model.safetensors")["blocks.3.weight"], second["blocks.3.weight"])
