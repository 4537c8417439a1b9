"""Facts in batches: what is remembered, how a run is taken up again, and how an edit is gone on from."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from errata import Outcome, Store, WeightEdit
from errata.errors import AlreadyEdited
from errata.solvers import LeastSquares
from tests.editing import BOTH, decoder_of, editor_of
from tests.models import tiny_facts

FACTS = tiny_facts()
both = pytest.mark.parametrize("family", BOTH)


def changes(outcome: Outcome) -> dict[str, torch.Tensor]:
    assert isinstance(outcome.edit, WeightEdit)
    return dict(outcome.edit.delta.changes)


def equal(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@both
@pytest.mark.parametrize("method", ["memit", "memit+fe", "blue"])
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
    assert seen[6:] == [None] * 6
    assert not equal(remembered, forgotten)


def test_targets_of_the_original_model_differ_from_those_of_the_current_one() -> None:
    current, original = (
        changes(editor_of(decoder_of("gpt2"), "memit").edit(FACTS, batch=4, targets=targets))  # type: ignore[arg-type]
        for targets in ("current", "original")
    )
    assert not equal(current, original)


def test_an_edit_that_is_on_the_model_may_be_gone_on_from_and_no_other() -> None:
    decoder = decoder_of("llama")
    first = editor_of(decoder, "memit").edit(FACTS[:4]).edit
    other = editor_of(decoder_of("llama"), "memit").edit(FACTS[4:]).edit
    assert isinstance(first, WeightEdit)
    assert isinstance(other, WeightEdit)
    with pytest.raises(AlreadyEdited):
        editor_of(decoder, "memit").edit(FACTS[4:], past=other)
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


RUN = """
import sys, time, torch
from errata import Store
from tests.editing import decoder_of, editor_of
from tests.models import tiny_facts
torch.set_num_threads(1)
decoder = decoder_of("llama")
def tell(stage, done, total):
    if stage == "batches":
        print(done, flush=True)
        time.sleep(float(sys.argv[2]))
outcome = editor_of(decoder, "memit+fe", store=Store(sys.argv[1]), progress=tell).edit(tiny_facts(), batch=2)
print(outcome.edit.delta.digest, len(outcome.ledger.rows), flush=True)
"""


def test_a_run_killed_between_batches_goes_on_to_bit_identical_weights(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN, str(tmp_path / "killed")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([*command, "60"], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "1"
        process.send_signal(signal.SIGKILL)
    resumed = subprocess.run([*command, "0"], capture_output=True, text=True, env=environment, check=True)
    *batches, digest, rows = resumed.stdout.split()
    assert rows == "12"  # of three layers in four batches, those of the killed run among them
    assert batches == ["2", "3", "4"]
    whole = editor_of(decoder_of("llama"), "memit+fe", store=Store.nowhere()).edit(FACTS, batch=2).edit
    assert isinstance(whole, WeightEdit)
    assert digest == whole.delta.digest
