"""What a model object carries: edits that add up, shared by all who use it, and noticed changes from outside."""

from __future__ import annotations

import gc
import weakref
from itertools import permutations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from errata import Decoder, WeightDelta
from errata.decoder.identity import RoundedBase
from errata.decoder.weights import Weights
from errata.errors import AlreadyEdited, NotFinite, NotPutOn, WeightsChanged, WrongModel
from tests.editing import BOTH, decoder_of, editor_of
from tests.models import FAMILIES, tiny_facts, tokenizer_of

FACTS = tiny_facts()
both = pytest.mark.parametrize("family", BOTH)


def edit_of(decoder: Decoder, seed: int, *layers: int) -> WeightDelta:
    draw = torch.Generator().manual_seed(seed)
    shape = decoder.weight(0).shape
    changes = {decoder.parameter_name(i): torch.randn(shape, generator=draw, dtype=torch.float64) for i in layers}
    return WeightDelta(decoder.fingerprint, changes)


def values(decoder: Decoder) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in decoder.model.state_dict().items()}


def equal(decoder: Decoder, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in decoder.model.state_dict().items())


@both
def test_edits_add_up_and_any_one_is_taken_off_to_the_bit(family: str) -> None:
    decoder = decoder_of(family)
    base = values(decoder)
    one, two, three = edit_of(decoder, 1, 1, 2), edit_of(decoder, 2, 2, 3), edit_of(decoder, 3, 2)
    only: dict[int, dict[str, Tensor]] = {}
    for edit in (one, two, three):
        decoder.put_on(edit)
        only[id(edit)] = values(decoder)
        decoder.take_off(edit)
        assert equal(decoder, base)
    for edit in (one, two, three):
        decoder.put_on(edit)
    name = decoder.parameter_name(2)
    assert torch.allclose(decoder.weight(2), decoder.original(2) + sum(e.changes[name] for e in (one, two, three)))
    decoder.take_off(one)
    decoder.take_off(three)
    assert equal(decoder, only[id(two)])
    decoder.take_off(two)
    assert equal(decoder, base)
    assert not decoder.is_edited


def test_the_order_in_which_edits_are_put_on_makes_no_difference_to_a_bit() -> None:
    decoder = decoder_of("llama")
    edits = [edit_of(decoder, seed, 2) for seed in (1, 2, 3)]
    seen = []
    for order in permutations(edits):
        for edit in order:
            decoder.put_on(edit)
        seen.append(decoder.weight(2).clone())
        decoder.restore()
    assert all(torch.equal(weight, seen[0]) for weight in seen)


def test_an_edit_that_is_on_already_or_is_not_on_is_refused() -> None:
    decoder = decoder_of("llama")
    edit, copy, other = edit_of(decoder, 1, 2), edit_of(decoder, 1, 2), edit_of(decoder, 2, 2)
    decoder.put_on(edit)
    edited = values(decoder)
    with pytest.raises(AlreadyEdited, match="is on the model already; nothing was changed"):
        decoder.put_on(copy)
    with pytest.raises(NotPutOn, match=f"not on the model; nothing was changed. Edits that are: {edit.digest}"):
        decoder.take_off(other)
    assert equal(decoder, edited)
    decoder.take_off(copy)
    with pytest.raises(NotPutOn, match="Edits that are: none"):
        decoder.take_off(edit)


def test_putting_an_edit_on_keeps_the_one_before_and_each_outcome_takes_its_own_off() -> None:
    decoder = decoder_of("llama")
    base = values(decoder)
    first = editor_of(decoder, "memit").edit(FACTS[:2])
    first.restore()
    second = editor_of(decoder, "memit").edit(FACTS[2:4])
    both_on = decoder_of("llama")
    first.edit.put_on(both_on)
    second.edit.put_on(both_on)
    first.edit.take_off(both_on)
    assert equal(both_on, values(decoder))
    second.restore()
    assert equal(decoder, base)


@both
def test_two_editors_of_one_model_object_share_what_it_carries(family: str) -> None:
    model, tokenizer = FAMILIES[family](), tokenizer_of(family)
    base = {name: value.clone() for name, value in model.state_dict().items()}
    one, other = Decoder(model, tokenizer), Decoder(model, tokenizer)
    outcome = editor_of(one, "memit+fe").edit(FACTS[:2])
    assert other.is_edited
    assert other.fingerprint == one.fingerprint == outcome.edit.delta.fingerprint  # type: ignore[attr-defined]
    with pytest.raises(AlreadyEdited, match=r"restore\(\) the model first. Editors and Decoders of one model object"):
        editor_of(other, "memit+fe").edit(FACTS[2:4])
    outcome.restore()
    assert not other.is_edited
    second = editor_of(other, "memit+fe").edit(FACTS[2:4])
    assert one.is_edited
    second.restore()
    assert all(torch.equal(value, base[name]) for name, value in model.state_dict().items())


def test_a_model_that_nobody_uses_is_freed_whatever_it_carries() -> None:
    decoder = decoder_of("llama")
    decoder.put_on(edit_of(decoder, 1, 2))
    model = weakref.ref(decoder.model)
    del decoder
    gc.collect()
    assert model() is None


@pytest.mark.parametrize("written", [0, 1, 2])
def test_an_interrupt_while_weights_are_written_leaves_what_was_there(
    written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = decoder_of("llama")
    base = values(decoder)
    one, two = edit_of(decoder, 1, 1, 2, 3), edit_of(decoder, 2, 1, 2, 3)
    decoder.put_on(one)
    edited = values(decoder)
    write, left = Weights._overwrite, [written]

    def interrupted(self: Weights, name: str, new: Tensor) -> None:
        left[0] -= 1
        if left[0] == -1:
            raise KeyboardInterrupt
        write(self, name, new)

    for attempt in (lambda: decoder.put_on(two), lambda: decoder.take_off(one)):
        left[0] = written
        monkeypatch.setattr(Weights, "_overwrite", interrupted)
        with pytest.raises(KeyboardInterrupt):
            attempt()
        assert equal(decoder, edited)
        monkeypatch.setattr(Weights, "_overwrite", write)
    decoder.restore()
    assert equal(decoder, base)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_an_edit_goes_on_its_own_checkpoint_in_another_dtype_and_comes_off_to_the_bit(dtype: torch.dtype) -> None:
    wide = Decoder(FAMILIES["llama"](dtype=torch.float32), tokenizer_of("llama"))
    outcome = editor_of(wide, "memit").edit(FACTS[:2])
    outcome.restore()
    narrow = Decoder(wide.model.to(dtype), wide.tokenizer)
    base = values(narrow)
    with pytest.warns(RoundedBase, match="the same but for rounding"):
        outcome.edit.put_on(narrow)
    assert not equal(narrow, base)
    outcome.edit.take_off(narrow)
    assert equal(narrow, base)


def test_training_on_top_of_an_edit_is_noticed_before_it_is_undone() -> None:
    decoder = decoder_of("llama")
    edit = edit_of(decoder, 1, 2)
    decoder.put_on(edit)
    parameter = decoder.model.get_parameter(decoder.parameter_name(2))
    with torch.no_grad():
        parameter.add_(1.0)
    trained = values(decoder)
    for attempt in (
        lambda: decoder.restore(),
        lambda: decoder.take_off(edit),
        lambda: decoder.put_on(edit_of(decoder, 2, 3)),
        lambda: editor_of(decoder, "memit").edit(FACTS[:2]),
    ):
        with pytest.raises((WeightsChanged, AlreadyEdited), match=r"accept_weights|restore\(\)"):
            attempt()
        assert equal(decoder, trained)
    decoder.accept_weights()
    assert not decoder.is_edited
    outcome = editor_of(decoder, "memit").edit(FACTS[:2])
    outcome.restore()
    assert equal(decoder, trained)


def test_originals_can_be_put_over_what_something_else_changed() -> None:
    decoder = decoder_of("llama")
    base = values(decoder)
    decoder.put_on(edit_of(decoder, 1, 2))
    decoder.model.get_parameter(decoder.parameter_name(2)).data.add_(1.0)
    decoder.restore(force=True)
    assert equal(decoder, base)


def test_weights_loaded_into_an_unedited_model_are_the_new_base() -> None:
    decoder = decoder_of("llama")
    made_before = edit_of(decoder, 1, 2)
    state = {name: value + 0.01 for name, value in decoder.model.state_dict().items()}
    decoder.model.load_state_dict(state)
    with pytest.raises(WrongModel):
        decoder.put_on(made_before)
    editor_of(decoder, "memit").edit(FACTS[:2]).restore()
    assert equal(decoder, state)


def test_a_sum_that_overflows_the_stored_dtype_is_refused_before_anything_is_written() -> None:
    decoder = Decoder(FAMILIES["llama"](dtype=torch.float16), tokenizer_of("llama"))
    base = values(decoder)
    names = [decoder.parameter_name(layer) for layer in (1, 2)]
    small, large = torch.ones(48, 80), torch.ones(48, 80)
    large[3, 5] = 1e5
    with pytest.raises(
        NotFinite, match=rf"{names[1]}: with this change 1 values overflow float16.*nothing was changed"
    ):
        decoder.put_on(WeightDelta(decoder.fingerprint, {names[0]: small, names[1]: large}))
    assert equal(decoder, base)
    assert not decoder.is_edited


def test_a_damaged_model_is_noticed_before_it_is_edited() -> None:
    decoder = decoder_of("llama")
    decoder.model.get_parameter(decoder.parameter_name(4)).data[0, 0] = torch.nan
    with pytest.raises(NotFinite, match="the checkpoint is damaged"):
        editor_of(decoder, "memit").edit(FACTS[:2])


def test_unedited_may_be_entered_again_and_an_edit_put_on_inside_does_not_stay() -> None:
    decoder = decoder_of("gpt2")
    base = values(decoder)
    decoder.put_on(edit_of(decoder, 1, 2))
    edited = values(decoder)
    with decoder.unedited():
        assert equal(decoder, base)
        decoder.put_on(edit_of(decoder, 2, 2, 3))
        with decoder.unedited():
            assert equal(decoder, base)
        assert not equal(decoder, base)
    assert equal(decoder, edited)
    decoder.restore()
    assert equal(decoder, base)


def test_a_decoder_leaves_a_model_as_trainable_as_it_was() -> None:
    model = FAMILIES["llama"](dtype=torch.float32).train()
    model.requires_grad_(True)
    model.get_input_embeddings().weight.requires_grad_(False)
    frozen = model.get_submodule("model.layers.1").eval()

    def state() -> tuple[list[bool], list[bool]]:
        return [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]

    before = state()
    decoder = Decoder(model, tokenizer_of("llama"))
    outcome = editor_of(decoder, "memit+fe").edit(FACTS[:2])
    outcome.answers()
    assert state() == before
    outcome.restore()
    with pytest.raises(ZeroDivisionError):
        editor_of(decoder, "memit", progress=lambda stage, done, total: 1 / 0).edit(FACTS[:2])
    assert state() == before
    assert not frozen.training
    ids = torch.tensor([decoder.token_ids(FACTS[0].text)])
    model(input_ids=ids, labels=ids).loss.backward()
    assert model.get_parameter(decoder.parameter_name(2)).grad is not None


def test_dropout_is_off_while_errata_computes() -> None:
    model = FAMILIES["gpt2"](dtype=torch.float32)
    decoder = Decoder(model, tokenizer_of("gpt2"))
    rows = [decoder.token_ids(fact.text) for fact in FACTS]
    quiet = decoder.generate(rows, 5)
    model.train()
    assert decoder.generate(rows, 5) == quiet


def test_a_configuration_that_asks_for_bare_tuples_is_read_all_the_same(tmp_path: Path) -> None:
    model = FAMILIES["llama"]()
    model.config.return_dict = False
    decoder = Decoder(model, tokenizer_of("llama"))
    outcome = editor_of(decoder, "memit").edit(FACTS[:2])
    plain = editor_of(decoder_of("llama"), "memit").edit(FACTS[:2])
    assert outcome.answers() == plain.answers()
    assert model.config.return_dict is False
