"""Fine-tuning: losses fall, answers are said, only the chosen matrices move, and every run is the same."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from errata import Decoder, Outcome, WeightEdit
from errata.editors.fine_tuning import FineTuning
from errata.editors.lesson import Lesson, answer_losses, log_probabilities
from errata.editors.supplies import Supplies
from errata.errors import AlreadyEdited, ModelError, NotFinite, UnusableFacts, WindowOutside
from tests.editing import BOTH, RECIPE
from tests.models import FAMILIES, tiny_facts, tokenizer_of

both = pytest.mark.parametrize("family", BOTH)
FACTS = tiny_facts()
FT_M = FineTuning((2,), learning_rate=0.05, epochs=60, batch_size=2, shuffle=False)
LOCFT = FineTuning((3,), learning_rate=0.1, epochs=60, batch_size=4, eos=True)


def decoder_of(family: str, dtype: torch.dtype = torch.float64) -> Decoder:
    """A decoder whose final norm is five times as loud: the tiny ones cannot be surer of a token than 90 %."""
    decoder = Decoder(FAMILIES[family](), tokenizer_of(family))
    decoder.model.get_submodule(str(decoder.layout.final_norm)).weight.data.mul_(5)  # type: ignore[operator,union-attr]
    return Decoder(decoder.model.to(dtype), decoder.tokenizer)  # type: ignore[arg-type]


def weights(decoder: Decoder) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in decoder.model.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


def changes(outcome: Outcome) -> dict[str, torch.Tensor]:
    assert isinstance(outcome.edit, WeightEdit)
    return dict(outcome.edit.delta.changes)


def says(decoder: Decoder, end: bool = False) -> list[bool]:
    answers = [Lesson.of(decoder, fact.text, fact.target_new, end).answer for fact in FACTS]
    rows = [decoder.token_ids(fact.text) for fact in FACTS]
    return [tuple(decoder.generate([row], len(a))[0]) == a for row, a in zip(rows, answers, strict=True)]


@both
@pytest.mark.parametrize("settings", [FT_M, LOCFT, replace(FT_M, layers=(1, 3))], ids=["ft-m", "locft-bf", "two"])
def test_the_facts_are_said_and_only_the_chosen_matrices_move(family: str, settings: FineTuning) -> None:
    decoder = decoder_of(family)
    before = weights(decoder)
    outcome = settings.edit(FACTS, Supplies(decoder, RECIPE))
    after = weights(decoder)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(changes(outcome)) == {decoder.parameter_name(layer) for layer in settings.layers}
    losses = outcome.ledger.losses
    assert losses[-1] < settings.stop_loss < losses[0]
    assert len(losses) <= settings.epochs
    assert all(says(decoder, settings.eos))
    outcome.restore()
    assert same(before, weights(decoder))


@both
def test_the_loss_is_the_mean_over_facts_of_the_mean_over_answer_tokens(family: str) -> None:
    decoder = decoder_of(family)
    lessons = [Lesson.of(decoder, fact.text, fact.target_new, end=True) for fact in FACTS]
    found = answer_losses(log_probabilities(decoder, lessons), lessons)
    for lesson, loss in zip(lessons, found.tolist(), strict=True):
        assert lesson.answer[-1] == decoder.tokenizer.eos_token_id
        logits = decoder.model(torch.tensor([[*lesson.prompt, *lesson.answer]])).logits[0]
        part = logits[len(lesson.prompt) - 1 : -1]
        assert loss == pytest.approx(cross_entropy(part, torch.tensor(lesson.answer)).item(), abs=1e-10)


@both
def test_one_step_is_a_step_of_adam_on_the_models_own_parameter(family: str) -> None:
    decoder, plain = decoder_of(family), decoder_of(family)
    outcome = FineTuning((2,), learning_rate=1e-3, epochs=1, weight_decay=0.1).edit(FACTS, Supplies(decoder, RECIPE))
    parameter = plain.model.get_parameter(plain.parameter_name(2)).requires_grad_()
    adam = torch.optim.Adam([parameter], 1e-3, weight_decay=0.1)
    lessons = [Lesson.of(plain, fact.text, fact.target_new) for fact in FACTS]
    logits = [plain.model(torch.tensor([one.ids])).logits[0, list(one.positions)] for one in lessons]
    parts = [answer_losses(seen.log_softmax(-1), [one])[0] for seen, one in zip(logits, lessons, strict=True)]
    loss = torch.stack(parts).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    adam.step()
    assert outcome.ledger.losses[0] == pytest.approx(loss.item(), abs=1e-10)
    assert torch.allclose(decoder.weight(2), plain.weight(2).detach(), atol=1e-7)
    assert "above 0.01" in outcome.ledger.notes[0]


def test_every_weight_stays_within_the_norm_constraint() -> None:
    outcome = replace(FT_M, norm_constraint=1e-3, epochs=3).edit(FACTS, Supplies(decoder_of("llama"), RECIPE))
    (change,) = changes(outcome).values()
    assert change.abs().max() <= 1e-3 + 1e-12
    assert (change.abs() > 1e-3 - 1e-9).any()


def test_a_run_depends_on_its_seed_alone() -> None:
    def run(seed: int) -> torch.Tensor:
        (change,) = changes(
            replace(LOCFT, epochs=2, seed=seed).edit(FACTS, Supplies(decoder_of("llama"), RECIPE))
        ).values()
        return change

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def test_a_batch_that_is_learnt_makes_no_step() -> None:
    decoder = decoder_of("llama")
    (change,) = changes(replace(FT_M, stop_loss=1e9).edit(FACTS, Supplies(decoder, RECIPE))).values()
    assert not change.any()


@pytest.mark.parametrize("portion", [1, 3])
def test_a_batch_in_portions_trains_alike(portion: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(LOCFT, epochs=2)
    (whole,) = changes(settings.edit(FACTS, Supplies(decoder_of("gpt2"), RECIPE))).values()
    monkeypatch.setattr("errata.editors.fine_tuning.tails_at_once", lambda *_: portion)
    monkeypatch.setattr("errata.editors.fine_tuning.free_memory", lambda _: 0)
    (parts,) = changes(settings.edit(FACTS, Supplies(decoder_of("gpt2"), RECIPE))).values()
    assert torch.allclose(whole, parts, atol=1e-9)


def test_a_low_precision_model_is_trained_in_float32() -> None:
    decoder = decoder_of("llama", torch.bfloat16)
    before = weights(decoder)
    outcome = replace(FT_M, epochs=20).edit(FACTS, Supplies(decoder, RECIPE))
    (change,) = changes(outcome).values()
    assert change.dtype == torch.float32
    assert decoder.dtype == torch.bfloat16
    assert outcome.ledger.losses[-1] < outcome.ledger.losses[0] / 10
    assert not torch.equal(change, change.to(torch.bfloat16).float())
    outcome.restore()
    assert same(before, weights(decoder))


def test_a_later_edit_goes_on_from_an_earlier_one() -> None:
    decoder = decoder_of("llama")
    first = FT_M.edit(FACTS[:4], Supplies(decoder, RECIPE)).edit
    assert isinstance(first, WeightEdit)
    with pytest.raises(AlreadyEdited):
        FT_M.edit(FACTS[4:], Supplies(decoder, RECIPE))
    outcome = replace(LOCFT, eos=False).edit(FACTS[4:], Supplies(decoder, RECIPE), past=first)
    assert set(changes(outcome)) == {decoder.parameter_name(2), decoder.parameter_name(3)}
    assert torch.equal(changes(outcome)[decoder.parameter_name(2)], first.delta.changes[decoder.parameter_name(2)])
    assert all(says(decoder)[4:])


def test_whatever_goes_wrong_the_model_is_left_as_it_was() -> None:
    decoder = decoder_of("llama")
    before = weights(decoder)

    def interrupt(stage: str, done: int, total: int) -> None:
        assert done <= total
        if done > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FT_M.edit(FACTS, Supplies(decoder, RECIPE, progress=interrupt))
    with pytest.raises(NotFinite, match="Lower the learning rate"):
        replace(FT_M, learning_rate=1e300).edit(FACTS, Supplies(decoder, RECIPE))
    with pytest.raises(WindowOutside):
        replace(FT_M, layers=(9,)).edit(FACTS, Supplies(decoder, RECIPE))
    with pytest.raises(UnusableFacts):
        FT_M.edit([], Supplies(decoder, RECIPE))
    decoder.tokenizer = deepcopy(decoder.tokenizer)  # tests share it
    decoder.tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-text token"):
        LOCFT.edit(FACTS, Supplies(decoder, RECIPE))
    assert same(before, weights(decoder))
    assert decoder.change is None
