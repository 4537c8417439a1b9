"""Saved edits of one base are put together, with a warning where they disturb each other."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import errata
from errata import SideMemory, WeightDelta, WeightEdit, load_edit
from errata.editors.collisions import CollidingEdits
from errata.errors import WrongEdit, WrongModel
from tests.editing import decoder_of, editor_of
from tests.models import tiny_facts

FACTS = tiny_facts()


def made(*which: int) -> WeightEdit:
    outcome = editor_of(decoder_of("llama"), "memit").edit([FACTS[i] for i in which])
    assert isinstance(outcome.edit, WeightEdit)
    return outcome.edit


def test_the_sum_of_two_edits_is_both_of_them_on_one_model(tmp_path: Path) -> None:
    one, other = made(0, 4), made(5, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CollidingEdits)
        both = one + other
    both.save(tmp_path / "both")
    whole, parts = decoder_of("llama"), decoder_of("llama")
    load_edit(tmp_path / "both").put_on(whole)
    one.put_on(parts)
    other.put_on(parts)
    for layer in range(whole.depth):
        assert torch.allclose(whole.weight(layer), parts.weight(layer), rtol=0, atol=1e-12)
    assert both.facts == [FACTS[i] for i in (0, 4, 5, 6)]
    assert both.manifest["method"] == "memit + memit"
    assert [len(keys) for keys in both.keys.values()] == [4, 4, 4]
    whole.restore()
    assert not whole.is_edited


def test_facts_that_contradict_or_repeat_each_other_are_refused() -> None:
    one = made(0)
    for target, words in (("Elsewhere", "contradict each other on"), (FACTS[0].target_new, "both hold")):
        facts = [{"prompt": FACTS[0].prompt, "subject": FACTS[0].subject, "target_new": target}]
        other = replace(one, manifest=one.manifest | {"facts": facts})
        with pytest.raises(WrongEdit, match=rf"{words} '{FACTS[0].text}'.*Nothing was combined"):
            errata.combine(one, other)


def test_near_keys_are_warned_about_and_noted() -> None:
    one, other = made(0), made(4)
    near = replace(other, keys={layer: keys + 1e-3 for layer, keys in one.keys.items()})
    with pytest.warns(CollidingEdits, match="1 pairs of facts of the combined edits have nearly the same key"):
        both = errata.combine(one, near)
    (note,) = both.manifest["notes"]
    assert FACTS[0].text in note
    assert FACTS[4].text in note


def test_edits_of_other_weights_and_side_memories_are_refused() -> None:
    one = made(0)
    with pytest.raises(WrongModel, match="cannot add a change for weights other"):
        errata.combine(one, WeightEdit(WeightDelta("other", one.delta.changes)))
    with pytest.raises(WrongEdit, match="a side memory stands alone"):
        errata.combine(one, SideMemory(one.delta.fingerprint, 2, "silu", ()))
