"""Bases stored in 8 or 4 bits: edits are solved against what the matrix is worth and carried beside it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from errata import Decoder, Editor, WeightEdit
from errata.errors import StoreError, UnsupportedModel
from errata.evaluate import Case
from tests.editing import decoder_of, editor_of
from tests.models import tiny_facts

FACTS = tiny_facts()


class EightBit(nn.Linear):
    """A linear whose weight is stored as int8 with a scale per output; as bitsandbytes and its kin keep theirs."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__(dense.in_features, dense.out_features, bias=dense.bias is not None, device="meta")
        scale = dense.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.weight = nn.Parameter((dense.weight.detach() / scale).round().to(torch.int8), requires_grad=False)
        self.scale = scale
        self.bias = dense.bias

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.linear(inputs, self.weight.to(inputs.dtype) * self.scale.to(inputs.dtype), self.bias)


def quantised() -> Decoder:
    decoder = decoder_of("llama")
    for block in decoder.blocks:
        block.mlp.down_proj = EightBit(block.mlp.down_proj)  # type: ignore[union-attr,arg-type]
    return Decoder(decoder.model, decoder.tokenizer)


@cache
def dense() -> Decoder:
    """The same model with its matrices written out."""
    decoder, stored = decoder_of("llama"), quantised()
    for layer in range(decoder.depth):
        decoder.weight(layer).copy_(stored.weight(layer))
    return Decoder(decoder.model, decoder.tokenizer)


def logits(decoder: Decoder) -> Tensor:
    rows = [decoder.token_ids(fact.text) for fact in FACTS]
    return torch.cat([found for _, _, found in decoder.logits(rows, [[len(row) - 1] for row in rows])])


@pytest.mark.parametrize("method", ["memit+fe", "pmet", "alphaedit+blue"])
def test_an_edit_of_a_quantised_base_is_that_of_what_it_is_worth(method: str) -> None:
    def made(decoder: Decoder) -> tuple[dict[str, Tensor], Tensor]:
        recipe = editor_of(decoder, method).recipe.with_solver("null_space", threshold=0.3, ridge=1.0)
        outcome = editor_of(decoder, method, recipe=recipe).edit(FACTS)
        assert isinstance(outcome.edit, WeightEdit)
        found = dict(outcome.edit.delta.changes), logits(decoder)
        outcome.restore()
        return found

    base = quantised()
    stored = {name: value.clone() for name, value in base.model.state_dict().items()}
    before = logits(base)
    (changes, after), (expected, wanted) = made(base), made(dense())
    assert all(torch.allclose(changes[name], expected[name], rtol=1e-6, atol=1e-9) for name in expected)
    assert torch.allclose(after, wanted, atol=1e-8)
    assert not torch.allclose(after, before, atol=1e-3)
    assert torch.equal(logits(base), before)
    assert all(torch.equal(value, stored[name]) for name, value in base.model.state_dict().items())


def test_inside_unedited_the_change_is_not_carried_and_afterwards_it_is() -> None:
    base = quantised()
    before = logits(base)
    editor_of(base, "memit").edit(FACTS)
    after = logits(base)
    with base.unedited():
        assert torch.equal(logits(base), before)
    assert torch.equal(logits(base), after)


def test_an_edited_quantised_base_is_not_written_as_a_checkpoint(tmp_path: Path) -> None:
    base = quantised()
    outcome = editor_of(base, "memit").edit(FACTS)
    assert any("state_dict() holds nothing of it" in note for note in outcome.ledger.notes)
    with pytest.raises(StoreError, match=r"would have to quantise it again. Save the edit instead"):
        base.save(tmp_path / "model")
    with pytest.raises(StoreError, match="save_pretrained would write it without"):
        base.model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    base.restore()
    assert "save_pretrained" not in vars(base.model)


@pytest.mark.parametrize("method", ["ft-m", "rledit"])
def test_what_trains_the_matrix_itself_is_refused(method: str) -> None:
    recipe = editor_of(quantised(), "memit").recipe
    options: dict[str, Any] = {"modules": ["mlp.down_proj"]} if method == "rledit" else {}
    editor = editor_of(
        quantised(), method, recipe=replace(recipe, editors={method: options}), practice=[Case(FACTS[7], "0")]
    )
    with pytest.raises(UnsupportedModel, match=r"stored in fewer bits and cannot be trained. Nothing was changed"):
        editor.edit(FACTS[:4])


@pytest.mark.parametrize("bits", [4, 8])
def test_a_real_quantised_model_is_edited_and_restored(bits: int) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    from errata import pocket

    options: dict[str, Any] = {"load_in_8bit": True} if bits == 8 else {"load_in_4bit": True}
    config = BitsAndBytesConfig(**options, bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(pocket.path(), quantization_config=config, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(pocket.path())
    facts = [type(FACTS[0])("The mother tongue of {} is", "Voltaire", "Russian")]
    editor = Editor.from_pretrained(
        model, "memit+fe", tokenizer=tokenizer, recipe="pocket", corpus=pocket.corpus()[:200]
    )
    outcome = editor.edit(facts)
    assert outcome.answers(n_tokens=1) == [(facts[0], "French", "Russian")]
    outcome.restore()
    row = [editor.decoder.token_ids(facts[0].text)]
    assert editor.decoder.decode(editor.decoder.generate(row, 1)[0]).strip() == "French"
