"""The editors of other kinds behind the Editor face: rows, recipes, saving, going on, and runs taken up again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from errata import Decoder, Editor, Outcome, Recipe, SideMemory, Store, WeightEdit, load_edit
from errata.editors import fine_tuning, wise
from errata.errors import BadRecipe, UnknownName, UnusableFacts, WrongEdit
from errata.evaluate import Case
from errata.method import Sibling
from errata.methods import METHODS, method
from tests.editing import BOTH, RECIPE, decoder_of, editor_of
from tests.models import tiny_facts

both = pytest.mark.parametrize("family", BOTH)
SIBLINGS = [name for name, row in METHODS.items() if isinstance(row, Sibling)]
FACTS = tiny_facts()[:4]
PRACTICE = [
    Case(fact, str(i), "long", (f"Now {fact.text}",), ("The river of Brask is",))
    for i, fact in enumerate(tiny_facts()[4:])
]
QUICK: dict[str, dict[str, Any]] = {
    "ft-m": {"epochs": 2, "learning_rate": 0.05},
    "locft-bf": {"epochs": 2, "learning_rate": 0.05, "batch_size": 2, "eos": False},
    "wise": {"iterations": 2, "save_every": 2, "merge_every": 2},
    "rledit": {"rank": 4, "blocks": 1, "batch_size": 2, "learning_rate": 0.01},
}


def recipe(**changes: dict[str, Any]) -> Recipe:
    return replace(RECIPE, editors=QUICK | changes)


def sibling(decoder: Decoder, name: str, **options: Any) -> Editor:
    return editor_of(decoder, name, **({"recipe": recipe(), "practice": PRACTICE} | options))


@both
@pytest.mark.parametrize("name", SIBLINGS)
def test_every_sibling_edits_is_saved_and_put_on_again_and_restores_bit_for_bit(
    family: str, name: str, tmp_path: Path
) -> None:
    decoder = decoder_of(family)
    before = {key: value.clone() for key, value in decoder.model.state_dict().items()}
    outcome = sibling(decoder, name).edit(FACTS)
    assert decoder.is_edited
    outcome.edit.save(tmp_path / "edit")
    outcome.restore()
    assert not decoder.is_edited
    assert all(torch.equal(value, before[key]) for key, value in decoder.model.state_dict().items())
    loaded = load_edit(tmp_path / "edit")
    assert type(loaded) is type(outcome.edit)
    assert loaded.facts == FACTS
    assert loaded.manifest["method"] == name
    loaded.put_on(decoder)
    assert decoder.is_edited


@pytest.mark.parametrize("name", ["ft-m", "locft-bf"])
def test_fine_tuning_in_rounds_is_going_on_from_each_earlier_round(name: str) -> None:
    rounds = sibling(decoder_of("llama"), name).edit(FACTS, batch=2)
    first = sibling(decoder_of("llama"), name).edit(FACTS[:2])
    second = sibling(decoder_of("llama"), name).edit(FACTS[2:], past=first.edit)
    assert digest(rounds) == digest(second)
    assert second.edit.facts == FACTS


def test_wise_goes_on_beside_an_earlier_memory() -> None:
    decoder = decoder_of("llama")
    first = sibling(decoder, "wise").edit(FACTS[:2])
    second = sibling(decoder, "wise").edit(FACTS[2:], past=first.edit)
    assert isinstance(first.edit, SideMemory)
    assert isinstance(second.edit, SideMemory)
    assert second.edit.sides[: len(first.edit.sides)] == first.edit.sides
    assert second.edit.facts == FACTS


@pytest.mark.parametrize(
    ("earlier", "later"), [("wise", "memit"), ("wise", "ft-m"), ("ft-m", "wise"), ("wise", "rledit")]
)
def test_an_edit_of_another_kind_is_not_gone_on_from(earlier: str, later: str) -> None:
    decoder = decoder_of("llama")
    first = sibling(decoder, earlier).edit(FACTS[:2])
    first.restore()
    with pytest.raises(WrongEdit, match="Nothing was changed"):
        sibling(decoder, later).edit(FACTS[2:], past=first.edit)
    assert not decoder.is_edited


@pytest.mark.parametrize("name", ["memit+fe", *SIBLINGS])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_mode_that_the_caller_is_in_does_not_matter(name: str, mode: Any) -> None:
    decoder = decoder_of("llama")
    with mode():
        inside = sibling(decoder, name).edit(FACTS[:2])
    assert digest(inside) == digest(sibling(decoder_of("llama"), name).edit(FACTS[:2]))


class Killed(BaseException):
    """As Ctrl-C would."""


@pytest.mark.parametrize(
    ("name", "room", "stage", "at"), [("locft-bf", fine_tuning, "fine-tuning", 6), ("wise-merge", wise, "facts", 3)]
)
def test_an_interrupted_training_goes_on_to_the_very_same_edit(
    name: str, room: Any, stage: str, at: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(room, "CHECKPOINT_SECONDS", 0.0)
    longer = recipe(**{"locft-bf": QUICK["locft-bf"] | {"epochs": 4}})

    def kill(told: str, done: int, total: int) -> None:
        if told == stage and done == at:
            raise Killed

    decoder = decoder_of("llama")
    with pytest.raises(Killed):
        sibling(decoder, name, recipe=longer, store=Store(tmp_path), progress=kill).edit(FACTS)
    assert not decoder.is_edited
    resumed = sibling(decoder_of("llama"), name, recipe=longer, store=Store(tmp_path)).edit(FACTS)
    whole = sibling(decoder_of("llama"), name, recipe=longer).edit(FACTS)
    assert "earlier run" in resumed.ledger.notes[0]
    assert digest(resumed) == digest(whole)


def test_rledit_without_practice_says_what_to_give() -> None:
    with pytest.raises(UnusableFacts, match="--practice FILE"):
        sibling(decoder_of("llama"), "rledit", practice=()).edit(FACTS)


def test_where_a_recipe_is_silent_the_place_is_proposed_from_the_depth() -> None:
    assert method("ft-m").pipeline(Recipe("any", (4,)), depth=32).edited == [21]
    assert method("locft-bf").pipeline(Recipe("any", (4,)), depth=32).edited == [22]
    assert method("wise").pipeline(Recipe("any", (4,)), depth=32).edited == [27]
    assert method("rledit").pipeline(Recipe("any", (4,)), depth=32).edited == list(range(22, 31))


@pytest.mark.parametrize(
    ("editors", "error", "words"),
    [
        ({"ft-m": {"epoch": 3}}, UnknownName, "unknown setting of ft-m 'epoch'. Did you mean 'epochs'"),
        ({"ft-m": {"epochs": 2.5}}, BadRecipe, r"editors.ft-m.epochs: .*found 2.5"),
        ({"wize": {}}, UnknownName, "unknown editor in the recipe 'tiny' 'wize'. Did you mean 'wise'"),
    ],
)
def test_bad_settings_are_refused(editors: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        editor_of(decoder_of("llama"), "ft-m", recipe=replace(RECIPE, editors=editors))


def digest(outcome: Outcome) -> Any:
    if isinstance(outcome.edit, WeightEdit):
        return outcome.edit.delta.digest
    assert isinstance(outcome.edit, SideMemory)
    return [(side.change.tolist(), side.threshold) for side in outcome.edit.sides]


def test_the_editor_scores_the_model_as_it_is_now() -> None:
    editor = sibling(decoder_of("llama"), "memit")
    before = editor.evaluate(PRACTICE, "specificity")
    assert before["specificity_kl"].value == 0
    outcome = editor.edit(FACTS)
    assert editor.evaluate(PRACTICE, "specificity")["specificity_kl"].value > 0
    outcome.restore()
    assert editor.evaluate(PRACTICE, "specificity")["specificity_kl"].per_case == before["specificity_kl"].per_case
