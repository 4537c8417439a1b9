"""Facts in batches: what is remembered, how a run is taken up again, and how an edit is gone on from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from errata import Outcome, Store, WeightEdit
from errata.editors import anchors
from errata.errors import AlreadyEdited, UnusableFacts
from errata.solvers import LeastSquares, NullSpace
from tests.editing import BOTH, RECIPE, decoder_of, editor_of
from tests.models import tiny_facts
from tests.processes import answer, started

FACTS = tiny_facts()
both = pytest.mark.parametrize("family", BOTH)


def changes(outcome: Outcome) -> dict[str, torch.Tensor]:
    assert isinstance(outcome.edit, WeightEdit)
    return dict(outcome.edit.delta.changes)


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(("family", "method"), [("llama", "memit"), ("gpt2", "memit+fe"), ("llama", "blue")])
def test_one_batch_of_all_facts_is_all_at_once(family: str, method: str) -> None:
    whole, batch = (changes(editor_of(decoder_of(family), method).edit(FACTS, batch=n)) for n in (None, 8))
    assert equal(whole, batch)


def test_going_on_from_a_saved_edit_is_a_run_in_two_batches(tmp_path: Path) -> None:
    at_once = changes(editor_of(decoder_of("llama"), "memit+fe").edit(FACTS, batch=4))
    editor_of(decoder_of("llama"), "memit+fe").edit(FACTS[:4]).edit.save(tmp_path / "first")
    first = WeightEdit.load(tmp_path / "first")
    second = editor_of(decoder_of("llama"), "memit+fe").edit(FACTS[4:], past=first)
    assert equal(changes(second), at_once)
    assert isinstance(second.edit, WeightEdit)
    assert second.edit.facts == FACTS
    assert [len(keys) for keys in second.edit.keys.values()] == [8, 8, 8]


def test_past_keys_enter_the_second_batch_and_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    real = LeastSquares.prepare

    def noted(self: LeastSquares, statistics: Any, past: Any = None, **more: Any) -> Any:
        seen.append(None if past is None else int(torch.linalg.matrix_rank(past)))
        return real(self, statistics, past, **more)

    monkeypatch.setattr(LeastSquares, "prepare", noted)
    remembered = changes(editor_of(decoder_of("llama"), "memit").edit(FACTS, batch=4))
    assert seen == [None] * 3 + [4] * 3
    forgotten = changes(editor_of(decoder_of("llama"), "memit").edit(FACTS, batch=4, remember=False))
    assert set(seen[6:]) == {None}
    assert not equal(remembered, forgotten)


def test_targets_of_the_original_model_differ_from_those_of_the_current_one() -> None:
    current, original = (
        changes(editor_of(decoder_of("gpt2"), "memit").edit(FACTS, batch=4, targets=targets))  # type: ignore[arg-type]
        for targets in ("current", "original")
    )
    assert not equal(current, original)


def test_going_on_with_targets_of_the_original_model_is_a_run_in_two_batches() -> None:
    at_once = changes(editor_of(decoder_of("llama"), "memit+fe").edit(FACTS, batch=4, targets="original"))
    decoder = decoder_of("llama")
    first = editor_of(decoder, "memit+fe").edit(FACTS[:4]).edit
    second = changes(editor_of(decoder, "memit+fe").edit(FACTS[4:], past=first, targets="original"))
    current = changes(editor_of(decoder_of("llama"), "memit+fe").edit(FACTS[4:], past=first))
    assert all(torch.allclose(second[name], at_once[name], rtol=0, atol=1e-9) for name in at_once)
    assert not any(torch.allclose(current[name], at_once[name], rtol=0, atol=1e-4) for name in at_once)


@pytest.mark.parametrize("remember", [True, False])
def test_a_null_space_is_found_once_per_layer_however_many_batches(
    remember: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int | None] = []
    real = NullSpace._basis

    def noted(self: NullSpace, statistics: torch.Tensor, layer: int | None) -> torch.Tensor:
        found.append(layer)
        return real(self, statistics, layer)

    monkeypatch.setattr(NullSpace, "_basis", noted)
    recipe = RECIPE.with_solver("null_space", threshold=0.3, ridge=1.0)
    editor_of(decoder_of("llama"), "alphaedit+fe", recipe=recipe).edit(FACTS, batch=2, remember=remember)
    assert found == [1, 2, 3]


@pytest.mark.parametrize("batch", [0, -3])
def test_a_batch_of_no_facts_is_refused(batch: int) -> None:
    with pytest.raises(UnusableFacts, match=f"a batch of {batch} facts; expected at least 1"):
        editor_of(decoder_of("llama"), "memit").edit(FACTS, batch=batch)


def test_another_past_is_another_run() -> None:
    """Equal weights do not make the keys equal that are to be preserved."""
    store = Store.nowhere()
    first = editor_of(decoder_of("llama"), "memit", store=store).edit(FACTS[:4]).edit
    assert isinstance(first, WeightEdit)
    forgetful = replace(first, keys={})
    run = [
        changes(editor_of(decoder_of("llama"), "memit", store=store).edit(FACTS[4:], batch=2, past=past))
        for past in (first, forgetful)
    ]
    assert not equal(*run)


def test_an_edit_that_is_on_the_model_may_be_gone_on_from_and_no_other() -> None:
    decoder = decoder_of("llama")
    first = editor_of(decoder, "memit").edit(FACTS[:4]).edit
    other = editor_of(decoder_of("llama"), "memit").edit(FACTS[4:]).edit
    assert isinstance(first, WeightEdit)
    assert isinstance(other, WeightEdit)
    with pytest.raises(AlreadyEdited):
        editor_of(decoder, "memit").edit(FACTS[:4], past=other)
    editor_of(decoder, "memit").edit(FACTS[4:], past=first)
    decoder.restore()
    assert torch.equal(decoder.weight(2), decoder_of("llama").weight(2))


def test_a_failure_while_going_on_leaves_the_past_edit_on(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = decoder_of("llama")
    first = editor_of(decoder, "memit").edit(FACTS[:4]).edit
    assert isinstance(first, WeightEdit)
    edited = decoder.weight(2).clone()
    monkeypatch.setattr(LeastSquares, "solve", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        editor_of(decoder, "memit").edit(FACTS[4:], past=first)
    assert torch.equal(decoder.weight(2), edited)


def sequence(tell: Callable[[Any], None], folder: Path, stop: tuple[str, int] | None = None) -> None:
    """Two batches; at progress `stop` it says so and waits to be killed."""
    anchors.FLUSH_SECONDS = 0.0
    seen: list[str] = []

    def progress(stage: str, done: int, total: int) -> None:
        seen.append(stage)
        if stop == (stage, seen.count(stage)):
            tell("there")
            time.sleep(60)

    outcome = editor_of(decoder_of("gpt2"), "memit+fe", store=Store(folder), progress=progress).edit(FACTS, batch=4)
    assert isinstance(outcome.edit, WeightEdit)
    tell((outcome.edit.delta.digest, len(outcome.ledger.rows), seen.count("batches")))


@pytest.mark.parametrize("stop", [("batches", 1), ("anchors at layer 1", 7)], ids=["between", "in"])
def test_a_run_killed_goes_on_to_bit_identical_weights(stop: tuple[str, int], tmp_path: Path) -> None:
    process, told = started(sequence, tmp_path / "killed", stop)
    assert told.recv() == "there"
    process.kill()
    process.join()
    whole = editor_of(decoder_of("gpt2"), "memit+fe", store=Store.nowhere()).edit(FACTS, batch=4).edit
    assert isinstance(whole, WeightEdit)
    # Rows of three layers in two batches, those of the killed run among them; one batch was left to do.
    assert answer(sequence, tmp_path / "killed") == (whole.delta.digest, 6, 1)
