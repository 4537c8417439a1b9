"""Edits are values: saved, loaded elsewhere, refused by the wrong model, taken off exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from errata import Decoder, WeightEdit
from errata.errors import NotFinite, StoreError, WrongModel
from tests.editing import BOTH, decoder_of, editor_of
from tests.models import FAMILIES, tiny_facts, tokenizer_of
from tests.processes import answer

FACTS = tiny_facts()


def saved_base(family: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    model = FAMILIES[family]().to(dtype)
    model.save_pretrained(folder)
    tokenizer_of(family).save_pretrained(folder)
    return folder


def ask(tell: Callable[[Any], None], base: Path, edit: Path) -> None:
    """What the edited model says, whether taking the edit off leaves nothing, and sums of the edited weights."""
    decoder = Decoder.from_pretrained(base)
    before = {n: p.clone() for n, p in decoder.model.state_dict().items()}
    loaded = WeightEdit.load(edit)
    loaded.put_on(decoder)
    said = decoder.generate([decoder.token_ids(fact.text) for fact in loaded.facts], 6)
    sums = {n: p.sum(dtype=torch.float64).item() for n, p in decoder.model.state_dict().items()}
    loaded.take_off(decoder)
    tell([said, all(torch.equal(before[n], p) for n, p in decoder.model.state_dict().items()), sums])


@pytest.mark.parametrize(("family", "dtype"), [("llama", torch.bfloat16), ("gpt2", torch.float32)])
def test_a_saved_edit_gives_the_same_model_in_a_fresh_process(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base = saved_base(family, tmp_path / "base", dtype)
    decoder = Decoder.from_pretrained(base)
    outcome = editor_of(decoder, "memit+fe").edit(FACTS)
    outcome.edit.save(tmp_path / "edit")
    said = decoder.generate([decoder.token_ids(fact.text) for fact in FACTS], 6)
    sums = {n: p.sum(dtype=torch.float64).item() for n, p in decoder.model.state_dict().items()}
    assert answer(ask, base, tmp_path / "edit") == [said, True, sums]


@pytest.mark.parametrize("family", BOTH)
def test_an_edited_checkpoint_loads_with_plain_transformers(family: str, tmp_path: Path) -> None:
    decoder = decoder_of(family)
    editor_of(decoder, "memit").edit(FACTS)
    decoder.save(tmp_path / "edited")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "edited", dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "edited")
    for name, value in decoder.model.state_dict().items():
        assert torch.equal(plain.state_dict()[name], value), name
    assert tokenizer(FACTS[0].text)["input_ids"] == decoder.token_ids(FACTS[0].text)
    with pytest.raises(StoreError, match="exists; nothing was written"):
        decoder.save(tmp_path / "edited")


def test_an_edit_is_refused_by_another_base_which_stays_unchanged(tmp_path: Path) -> None:
    outcome = editor_of(decoder_of("llama"), "memit").edit(FACTS)
    outcome.edit.save(tmp_path / "edit")
    other = decoder_of("llama")
    other.down_projection(0).weight.data.add_(1e-3)  # type: ignore[operator,union-attr]
    before = {name: value.clone() for name, value in other.model.state_dict().items()}
    with pytest.raises(WrongModel, match=r"made for weights \w+, the model at hand .* Nothing was changed"):
        WeightEdit.load(tmp_path / "edit").put_on(other)
    assert all(torch.equal(before[name], value) for name, value in other.model.state_dict().items())


def test_the_fingerprint_does_not_depend_on_the_dtype_a_checkpoint_is_loaded_in(tmp_path: Path) -> None:
    base = saved_base("llama", tmp_path / "base", torch.bfloat16)
    prints = {Decoder.from_pretrained(base, dtype=dtype).fingerprint for dtype in (None, "float32", "float64")}
    assert len(prints) == 1


def test_the_fingerprint_is_that_of_the_original_while_edited() -> None:
    decoder = decoder_of("gpt2")
    before = decoder.fingerprint
    editor_of(decoder, "memit").edit(FACTS)
    decoder.identify()
    assert decoder.fingerprint == before


def test_a_change_that_is_not_finite_is_refused() -> None:
    decoder = decoder_of("llama")
    outcome = editor_of(decoder, "memit").edit(FACTS)
    assert isinstance(outcome.edit, WeightEdit)
    outcome.restore()
    with pytest.raises(NotFinite, match="nothing was changed"):
        decoder.put_on(outcome.edit.delta.scaled(float("nan")))
    assert decoder.change is None


def test_unedited_shows_the_original_and_comes_back_even_after_an_error() -> None:
    decoder = decoder_of("llama")
    before = decoder.weight(1).clone()
    editor_of(decoder, "memit").edit(FACTS)
    after = decoder.weight(1).clone()

    def look() -> None:
        with decoder.unedited():
            assert torch.equal(decoder.weight(1), before)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        look()
    assert torch.equal(decoder.weight(1), after)
    assert torch.equal(decoder.original(1), before)


def test_an_edit_explains_itself(tmp_path: Path) -> None:
    outcome = editor_of(decoder_of("llama"), "memit+fe").edit(FACTS)
    outcome.edit.save(tmp_path / "edit")
    manifest = json.loads((tmp_path / "edit" / "manifest.json").read_text())
    assert manifest["method"] == "memit+fe"
    assert manifest["window"] == [1, 2, 3]
    assert manifest["contexts"][0] == ["{}"]
    assert len(manifest["facts"]) == len(FACTS)
    assert {"errata", "torch", "transformers"} <= set(manifest["versions"])
    assert FACTS[0].text in (tmp_path / "edit" / "README.md").read_text()
    assert WeightEdit.load(tmp_path / "edit").facts == FACTS


def test_saving_over_something_that_is_not_an_edit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    outcome = editor_of(decoder_of("llama"), "memit").edit(FACTS)
    with pytest.raises(StoreError, match="exists and is not an edit"):
        outcome.edit.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_a_disk_that_fills_up_leaves_the_old_edit_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = editor_of(decoder_of("llama"), "memit").edit(FACTS)
    outcome.edit.save(tmp_path / "edit")
    old = (tmp_path / "edit" / "manifest.json").read_text()

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("errata.delta.save_file", full)
    with pytest.raises(StoreError, match="No space left"):
        outcome.edit.save(tmp_path / "edit")
    assert (tmp_path / "edit" / "manifest.json").read_text() == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edit"]


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="not a saved edit"):
        WeightEdit.load(tmp_path)


def test_answers_show_before_and_after() -> None:
    outcome = editor_of(decoder_of("llama"), "memit+fe").edit(FACTS)
    for fact, before, after in outcome.answers(n_tokens=3):
        assert fact in FACTS
        assert isinstance(before, str)
        assert isinstance(after, str)
