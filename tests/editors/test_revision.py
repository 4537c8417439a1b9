"""Minds change: facts of an earlier edit get another object or are dropped, as if they had never been edited."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from errata import Edit, Fact, Outcome, SideMemory, WeightEdit, load_edit
from errata.editors import anchors
from errata.errors import AlreadyEdited, UnusableFacts, WrongEdit
from errata.solvers import LeastSquares
from tests.editing import RECIPE, decoder_of, editor_of
from tests.editors.test_siblings import QUICK
from tests.models import tiny_facts

FACTS = tiny_facts()
OTHER = replace(FACTS[1], target_new="long")


def edit(method: str, facts: list[Fact], family: str = "llama", **how: Any) -> Outcome:
    """On a new model, with a store of its own."""
    recipe = replace(RECIPE, editors=QUICK)
    return editor_of(decoder_of(family), method, recipe=recipe, guard=None).edit(facts, **how)


def without(facts: list[Fact], *gone: int) -> list[Fact]:
    return [fact for i, fact in enumerate(facts) if i not in gone]


def close(one: Edit, other: Edit) -> bool:
    assert isinstance(one, WeightEdit)
    assert isinstance(other, WeightEdit)
    changes = one.delta.changes
    return changes.keys() == other.delta.changes.keys() and all(
        torch.allclose(change, other.delta.changes[name], rtol=0, atol=1e-9) for name, change in changes.items()
    )


@pytest.mark.parametrize("method", ["memit", "memit+fe", "blue", "rome", "ft-m"])
@pytest.mark.parametrize("batch", [None, 3])
def test_an_edit_with_facts_dropped_is_the_edit_made_without_them(
    method: str, batch: int | None, tmp_path: Path
) -> None:
    edit(method, FACTS[:6], batch=batch).edit.save(tmp_path / "past")
    dropped = edit(method, [], past=load_edit(tmp_path / "past"), drop=[1, FACTS[4]])
    assert close(dropped.edit, edit(method, without(FACTS[:6], 1, 4), batch=batch).edit)
    assert dropped.edit.facts == list(dropped.facts) == without(FACTS[:6], 1, 4)
    assert [row["fact"]["subject"] for row in dropped.edit.manifest["taken_back"]] == [
        FACTS[1].subject,
        FACTS[4].subject,
    ]


def test_another_object_replaces_the_fact_that_was_edited_before(tmp_path: Path) -> None:
    edit("memit+fe", FACTS[:4]).edit.save(tmp_path / "past")
    changed = edit("memit+fe", [OTHER, FACTS[5]], past=load_edit(tmp_path / "past"))
    first = edit("memit+fe", without(FACTS[:4], 1)).edit
    assert close(changed.edit, edit("memit+fe", [OTHER, FACTS[5]], past=first).edit)
    assert changed.edit.facts == [*without(FACTS[:4], 1), OTHER, FACTS[5]]
    assert (
        "is replaced by 'long'; the 3 other facts of the earlier edit were solved for again"
        in (changed.ledger.notes[0])
    )
    assert changed.edit.manifest["taken_back"][0]["now"] == "long"


def test_runs_gone_on_from_each_other_are_made_again_one_by_one() -> None:
    first = edit("memit", FACTS[:3]).edit
    second = edit("memit", FACTS[3:6], past=first, batch=2).edit
    expected = edit("memit", FACTS[4:6], past=edit("memit", FACTS[:2]).edit, batch=2).edit
    assert close(edit("memit", [], past=second, drop=[2, 3]).edit, expected)


def test_a_side_memory_is_learnt_again_without_what_is_dropped() -> None:
    dropped = edit("wise", [], past=edit("wise", FACTS[:3]).edit, drop=[0]).edit
    expected = edit("wise", FACTS[1:3]).edit
    assert isinstance(dropped, SideMemory)
    assert isinstance(expected, SideMemory)
    assert all(torch.equal(a.change, b.change) for a, b in zip(dropped.sides, expected.sides, strict=True))


def test_saved_anchors_serve_without_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit("memit+fe", FACTS).edit.save(tmp_path / "past")
    asked, real = [], anchors.optimise_anchors

    def counted(decoder: Any, site: Any, layer: int, settings: Any, facts: list[int], **how: Any) -> Any:
        asked.append(len(facts))
        yield from real(decoder, site, layer, settings, facts, **how)

    monkeypatch.setattr(anchors, "optimise_anchors", counted)
    edit("memit+fe", [], past=load_edit(tmp_path / "past"), drop=[0])
    assert sum(asked) == 0


def test_what_cannot_be_taken_back_is_refused_and_the_earlier_edit_stays_on(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = decoder_of("llama")
    editor = editor_of(decoder, "memit")
    past = editor.edit(FACTS[:3]).edit
    assert isinstance(past, WeightEdit)
    edited = decoder.weight(2).clone()
    unsaid = replace(past, manifest={"facts": past.manifest["facts"]})
    refused: list[tuple[type[Exception], str, list[Fact], dict[str, Any]]] = [
        (UnusableFacts, "no fact 3 to drop; the earlier edit holds facts 0 to 2", [], {"drop": [3]}),
        (UnusableFacts, "the earlier edit does not hold it", [], {"drop": [FACTS[5]]}),
        (UnusableFacts, "the earlier edit says", [], {"drop": [OTHER]}),
        (UnusableFacts, "take the edit off instead", [], {"drop": [0, 1, 2]}),
        (UnusableFacts, "fact 1 contradicts fact 0", [FACTS[1], OTHER], {}),
        (UnusableFacts, "there are no facts", [], {}),
        (
            WrongEdit,
            "does not say in which runs",
            [OTHER],
            {"past": unsaid},
        ),
    ]
    for error, words, facts, how in refused:
        with pytest.raises(error, match=words):
            editor.edit(facts, **{"past": past} | how)
    with pytest.raises(WrongEdit, match="construction was BackwardSpreading"):
        editor_of(decoder, "memit+fe").edit([OTHER], past=past)
    monkeypatch.setattr(LeastSquares, "solve", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        editor.edit([OTHER], past=past)
    assert torch.equal(decoder.weight(2), edited)


def test_facts_are_dropped_from_an_edit_alone() -> None:
    decoder = decoder_of("llama")
    with pytest.raises(UnusableFacts, match="only be dropped from an earlier edit"):
        editor_of(decoder, "memit").edit(FACTS, drop=[0])
    past = edit("memit", FACTS[:3]).edit
    editor_of(decoder, "memit").edit(FACTS[4:])
    with pytest.raises(AlreadyEdited):
        editor_of(decoder, "memit").edit([], past=past, drop=[0])
