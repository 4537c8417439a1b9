"""WISE: routing per sequence and for good, the original untouched, and the arithmetic against plain loops."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.activations import ACT2FN

from errata import Contexts, Decoder, Fact, Outcome, WeightDelta
from errata.editors import wise
from errata.editors.base import WeightEdit
from errata.editors.lesson import Lesson
from errata.editors.side_memory import Router, Side, SideMemory
from errata.editors.supplies import Progress, Supplies
from errata.editors.wise import Wise, margin_loss, own_sentences, ties, wise_contexts
from errata.errors import AlreadyEdited, NotFinite, NotPutOn, StoreError, WindowOutside, WrongModel
from tests.editing import BOTH, RECIPE
from tests.models import FAMILIES, TINY_GROUPS, tiny_corpus, tiny_facts, tokenizer_of

both = pytest.mark.parametrize("family", BOTH)
FACTS = [tiny_facts()[i] for i in (4, 6)]
CONTEXTS = Contexts((("{}",), TINY_GROUPS[1][:1]))
SENTENCES = [tiny_corpus()[i] for i in (0, 3)]
APART = Wise(3, learning_rate=0.3, iterations=50, margins=(1.0, 5.0, 4.0), act_ratio=0.6, save_every=1)
"""A shard for every fact, so that tiny models keep them apart."""
QUICK = replace(APART, iterations=2)


def decoder_of(family: str) -> Decoder:
    """A decoder whose final norm is five times as loud: the tiny ones cannot be surer of a token than 90 %."""
    decoder = Decoder(FAMILIES[family](), tokenizer_of(family))
    decoder.model.get_submodule(str(decoder.layout.final_norm)).weight.data.mul_(5)  # type: ignore[operator,union-attr]
    return decoder


def learn(settings: Wise, decoder: Decoder, facts: Sequence[Fact], progress: Progress | None = None) -> Outcome:
    """An edit under the contexts and with the sentences above."""
    with mock.patch.object(wise, "own_sentences", return_value=SENTENCES):
        return settings.edit(facts, Supplies(decoder, RECIPE, contexts=CONTEXTS, progress=progress))


@cache
def learnt(family: str) -> SideMemory:
    return memory_of(learn(APART, decoder_of(family), FACTS))


def memory_of(outcome: Outcome) -> SideMemory:
    assert isinstance(outcome.edit, SideMemory)
    return outcome.edit


def edited(family: str) -> Decoder:
    decoder = decoder_of(family)
    learnt(family).put_on(decoder)
    return decoder


def router(decoder: Decoder) -> Router:
    assert isinstance(decoder.grafted, Router)
    return decoder.grafted


def chosen(decoder: Decoder) -> list[int]:
    choice = router(decoder).choice
    assert choice is not None
    return choice.tolist()


def rows_of(decoder: Decoder) -> list[list[int]]:
    """Prompts of facts and other texts, of many lengths, in turn."""
    texts = [text for pair in zip((fact.text for fact in FACTS), SENTENCES, strict=False) for text in pair]
    return [decoder.token_ids(text) for text in [*texts, "The story of " + FACTS[0].text]]


def last_logits(decoder: Decoder, rows: Sequence[Sequence[int]]) -> Tensor:
    found: dict[int, Tensor] = {}
    for row, _, logits in decoder.logits(rows, [[len(row) - 1] for row in rows]):
        found |= dict(zip(row.tolist(), logits, strict=True))
    return torch.stack([found[i] for i in range(len(rows))])


def says(decoder: Decoder, fact: Fact) -> bool:
    answer = decoder.answer_ids(fact.target_new)
    return decoder.generate([decoder.token_ids(fact.text)], len(answer))[0] == list(answer)


# -- editing -------------------------------------------------------------------------------------------


@both
def test_facts_are_said_other_texts_are_not_touched_and_no_weight_moves(family: str) -> None:
    decoder, plain = decoder_of(family), decoder_of(family)
    ticks: list[tuple[str, int, int]] = []
    outcome = learn(APART, decoder, FACTS, lambda *tick: ticks.append(tick))
    assert [says(decoder, fact) for fact in FACTS] == [True] * len(FACTS)
    assert len(outcome.ledger.losses) == len(FACTS)
    assert max(outcome.ledger.losses) < 3  # the margins; about 16 at first
    assert ticks[-1] == ("facts", len(FACTS), len(FACTS))
    rows = [decoder.token_ids(text) for text in SENTENCES]
    assert torch.equal(last_logits(decoder, rows), last_logits(plain, rows))
    state = plain.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in decoder.model.state_dict().items())


@both
def test_without_the_graft_the_model_is_the_original_bit_for_bit(family: str) -> None:
    plain, decoder = decoder_of(family), edited(family)
    rows = rows_of(decoder)
    original, with_memory = last_logits(plain, rows), last_logits(decoder, rows)
    assert not torch.equal(original, with_memory)
    with decoder.unedited():
        assert torch.equal(last_logits(decoder, rows), original)
        with decoder.unedited():
            assert torch.equal(last_logits(decoder, rows), original)
    assert torch.equal(last_logits(decoder, rows), with_memory)
    learnt(family).take_off(decoder)
    assert torch.equal(last_logits(decoder, rows), original)
    assert decoder.grafted is None
    decoder.check_unedited()


@pytest.mark.parametrize(("retrieve", "save", "merge"), [(True, 2, 4), (False, 1, 2), (True, 9, 9)])
def test_the_same_seed_learns_the_same(retrieve: bool, save: int, merge: int) -> None:
    settings = replace(QUICK, retrieve=retrieve, save_every=save, merge_every=merge)
    one, two = (memory_of(learn(settings, decoder_of("llama"), tiny_facts()[:3])) for _ in range(2))
    assert all(torch.equal(a.change, b.change) for a, b in zip(one.sides, two.sides, strict=True))
    assert [side.threshold for side in one.sides] == [side.threshold for side in two.sides]


# -- routing -------------------------------------------------------------------------------------------


@both
def test_a_sequence_is_routed_alike_whatever_runs_beside_it(family: str) -> None:
    decoder = edited(family)
    rows = rows_of(decoder)
    alone = []
    for row in rows:
        last_logits(decoder, [row])
        alone += chosen(decoder)
    assert {-1, 0, 1} <= set(alone)
    together = last_logits(decoder, rows)
    assert sorted(chosen(decoder)) == sorted(alone)
    assert torch.allclose(together, torch.cat([last_logits(decoder, [row]) for row in rows]), atol=1e-9)
    for order in itertools.islice(itertools.permutations(range(len(rows))), 0, 5000, 1000):
        mixed = last_logits(decoder, [rows[i] for i in order])
        assert torch.allclose(mixed, together[list(order)], atol=1e-9)


@both
def test_generation_from_a_cache_is_generation_without_one(family: str) -> None:
    decoder = edited(family)
    rows = rows_of(decoder)
    for row in rows:
        ids = list(row)
        for _ in range(8):
            logits = decoder.run(torch.tensor([ids]), prompts=[len(row)])
            assert logits is not None
            ids.append(int(logits[0, -1].argmax()))
        assert decoder.generate([row], 8)[0] == ids[len(row) :]
    assert decoder.generate(rows, 8) == [decoder.generate([row], 8)[0] for row in rows]


@both
def test_transformers_own_generate_runs_the_routing_too(family: str) -> None:
    decoder = edited(family)
    rows = rows_of(decoder)
    longest = max(map(len, rows))
    left = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    made = decoder.model.generate(
        input_ids=left, attention_mask=mask, max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    assert made[:, longest:].tolist() == decoder.generate(rows, 5)


@both
def test_an_answer_is_scored_under_the_decision_that_generation_makes(family: str) -> None:
    decoder = edited(family)
    prompts = rows_of(decoder)
    said = decoder.generate(prompts, 4)
    rows = [prompt + new for prompt, new in zip(prompts, said, strict=True)]
    positions = [list(range(len(prompt) - 1, len(prompt) + 3)) for prompt in prompts]
    for row, place, logits in decoder.logits(rows, positions):
        for i, k, best in zip(row.tolist(), place.tolist(), logits.argmax(-1).tolist(), strict=True):
            assert said[i][k] == best


@both
def test_keys_of_later_blocks_see_the_memory(family: str) -> None:
    decoder = edited(family)
    plain = decoder_of(family)
    prompts = [decoder.tokens.locate(fact.prompt, fact.subject) for fact in FACTS]
    read, original = decoder.keys(prompts, [2, 4]), plain.keys(prompts, [2, 4])
    assert torch.equal(read[2], original[2])
    rows = [list(prompt.stem.ids) for prompt in prompts]
    last_logits(decoder, rows)
    sent = any(choice >= 0 for choice in chosen(decoder))
    assert sent == (not torch.equal(read[4], original[4]))


def test_the_farthest_side_beyond_its_own_threshold_is_taken() -> None:
    draw = torch.Generator().manual_seed(1)
    changes = [torch.randn(6, 5, generator=draw, dtype=torch.float64) * scale for scale in (1.0, 1.2, 0.1)]
    inputs = torch.randn(40, 130, 5, generator=draw, dtype=torch.float64)
    output = torch.randn(40, 130, 6, generator=draw, dtype=torch.float64)
    lengths = torch.tensor([1, 3, 99, 100, 101, 130, 7, 8] * 5)
    act = ACT2FN["silu"]
    distance = [
        [(act(output[r, :n] + inputs[r, :n] @ change.T) - act(output[r, :n])).norm(dim=-1) for change in changes]
        for r, n in enumerate(lengths.tolist())
    ]
    pooled = torch.stack([torch.stack([d.max() if len(d) > 100 else d.mean() for d in row]) for row in distance])
    thresholds = pooled.quantile(0.7, dim=0).tolist()
    graft = Router(SideMemory("", 0, "silu", tuple(map(Side, changes, thresholds))), torch.device("cpu"), torch.float64)
    graft.begin(torch.arange(130) < lengths[:, None])
    given = graft.give(inputs, output)
    for r, row in enumerate(pooled.tolist()):
        beyond = [k for k in range(3) if row[k] > thresholds[k]]
        best = max(beyond, key=lambda k: row[k]) if beyond else None
        want = output[r] if best is None else output[r] + inputs[r] @ changes[best].T
        assert torch.allclose(given[r], want)
        assert chosen_of(graft)[r] == (-1 if best is None else best)
    assert len(set(chosen_of(graft))) >= 3


def chosen_of(graft: Router) -> list[int]:
    assert graft.choice is not None
    return graft.choice.tolist()


# -- arithmetic ----------------------------------------------------------------------------------------


@both
def test_learning_is_masked_sgd_on_the_side_weight(family: str) -> None:
    """Against plain autograd on a copy of the model that runs with the side weight in place of its own."""
    settings = replace(QUICK, iterations=3, mask_ratio=1.0, weight_decay=0.01, save_every=9)
    fact = FACTS[1]
    found = memory_of(learn(settings, decoder_of(family), [fact])).sides[0]
    decoder = decoder_of(family)
    name, act = decoder.parameter_name(3), ACT2FN[found_activation(decoder)]
    weight = decoder.weight(3).clone()
    side = weight.clone()
    lessons = [Lesson.of(decoder, t.replace("{}", fact.text), fact.target_new) for t in CONTEXTS.templates]
    texts = [*(list(lesson.prompt) for lesson in lessons), decoder.token_ids(SENTENCES[0])]
    keys = [next(decoder.key_batches([text], [3]))[3] for text in texts]
    bias = getattr(decoder.down_projection(3), "bias", None)
    own = [key @ weight.T + (0 if bias is None else bias) for key in keys]

    def dist(now: Tensor) -> list[Tensor]:
        moved = [act(out + key @ (now - weight).T) - act(out) for key, out in zip(keys, own, strict=True)]
        return [torch.linalg.vector_norm(one, dim=-1).mean() for one in moved]

    for _ in range(3):
        now = side.clone().requires_grad_()
        losses = []
        for lesson in lessons:
            logits = decoder.run(torch.tensor([[*lesson.prompt, *lesson.answer]]), weights={name: now})
            assert logits is not None
            losses.append(cross_entropy(logits[0, len(lesson.prompt) - 1 : -1], torch.tensor(lesson.answer)))
        *inside, outside = dist(now)
        loss = torch.stack(losses).mean() + margin_loss(torch.stack(inside), outside[None], settings.margins)
        (gradient,) = torch.autograd.grad(loss, now)
        side = side - settings.learning_rate * (gradient + settings.weight_decay * side)
        side = torch.clamp(side, weight - 1.0, weight + 1.0)
    assert torch.allclose(found.change, side - weight, atol=1e-9)
    least = torch.stack(dist(side)[:-1]).mean().item()
    assert found.threshold == pytest.approx(settings.act_ratio * least, abs=1e-9)


def found_activation(decoder: Decoder) -> str:
    return {"llama": "silu", "gpt2": "gelu_new"}[str(decoder.model.config.model_type)]


def test_the_mask_holds_the_gradient_and_the_clamp_holds_the_weight() -> None:
    settings = replace(APART, iterations=4, weight_decay=0.0, learning_rate=30.0, norm_constraint=0.05)
    sides = memory_of(learn(settings, decoder_of("llama"), FACTS[:2])).sides
    for side in sides:
        moved = (side.change != 0).double().mean().item()
        assert 0.15 < moved < 0.25
        assert side.change.abs().max() == 0.05
    assert not torch.equal(sides[0].change != 0, sides[1].change != 0)


def test_the_margin_loss_is_three_hinges_over_their_positive_entries() -> None:
    inside, outside = torch.tensor([0.5, 3.0, 9.0]), torch.tensor([2.0])
    alpha, beta, gamma = 1.5, 4.0, 2.0
    first = [2.0 - 0.5 + gamma, 2.0 - 3.0 + gamma]  # the third, 2 - 9 + 2, is not positive
    want = sum(first) / 2 + (2.0 - alpha) + ((beta - 0.5) + (beta - 3.0)) / 2
    assert margin_loss(inside, outside, (alpha, beta, gamma)).item() == pytest.approx(want)
    assert margin_loss(torch.tensor([99.0]), torch.tensor([0.0]), (alpha, beta, gamma)).item() == 0


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.2, 0.2, 0.6], [1.0]])
def test_ties_is_what_a_plain_loop_says(weights: list[float]) -> None:
    draw = torch.Generator().manual_seed(len(weights))
    changes = [torch.randn(7, 9, generator=draw, dtype=torch.float64) for _ in weights]
    density, n = 0.53, 63
    kept = []
    for change in changes:
        largest = sorted(range(n), key=lambda i: -abs(change.flatten()[i].item()))[: int(density * n)]
        kept.append([change.flatten()[i].item() if i in largest else 0.0 for i in range(n)])
    want = []
    for i in range(n):
        total = sum(w * k[i] for w, k in zip(weights, kept, strict=True))
        sign = 1 if total >= 0 else -1
        agree = [(w, k[i]) for w, k in zip(weights, kept, strict=True) if k[i] * sign > 0]
        want.append(sum(w * value for w, value in agree) / sum(w for w, _ in agree) if agree else 0.0)
    assert torch.allclose(ties(changes, weights, density).flatten(), torch.tensor(want, dtype=torch.float64))


def test_shards_are_kept_side_by_side_until_they_are_merged() -> None:
    facts = tiny_facts()[:5]

    def edit(**settings: object) -> tuple[Side, ...]:
        made = replace(QUICK, iterations=1, **settings)  # type: ignore[arg-type]
        return memory_of(learn(made, decoder_of("llama"), facts)).sides

    single = edit(save_every=1, merge_every=99)
    assert len(single) == 5
    merged = edit(save_every=1, merge_every=2)
    assert len(merged) == 3
    for k in (0, 1):
        pair = single[2 * k : 2 * k + 2]
        assert torch.equal(merged[k].change, ties([side.change for side in pair], [0.5, 0.5], 0.53))
        assert merged[k].threshold == min(side.threshold for side in pair)
    assert torch.equal(merged[2].change, single[4].change)
    into = edit(save_every=1, merge_every=2, retrieve=False)
    assert len(into) == 2
    parts = [single[2].change, single[3].change, merged[0].change]
    assert torch.equal(into[0].change, ties(parts, [0.2, 0.2, 0.6], 0.53))
    assert {side.threshold for side in into} == {min(side.threshold for side in single)}
    assert len(edit(save_every=5, merge_every=5)) == 1
    assert len(edit(save_every=4, merge_every=8)) == 2


# -- a value -------------------------------------------------------------------------------------------


@both
def test_a_saved_memory_gives_the_same_logits(family: str, tmp_path: Path) -> None:
    decoder = edited(family)
    rows = rows_of(decoder)
    with_memory = last_logits(decoder, rows)
    learnt(family).save(tmp_path / "edit")
    other = decoder_of(family)
    SideMemory.load(tmp_path / "edit").put_on(other)
    assert torch.equal(last_logits(other, rows), with_memory)
    for row, expected in zip(rows, decoder.generate(rows, 5), strict=True):
        made = other.model.generate(torch.tensor([row]), max_new_tokens=5, do_sample=False, pad_token_id=0)
        assert made[0, len(row) :].tolist() == expected[: made.shape[1] - len(row)]
    (tmp_path / "edit" / "memory.safetensors").write_bytes(b"cut short")
    with pytest.raises(StoreError, match="could not be read"):
        SideMemory.load(tmp_path / "edit")


def test_another_base_is_refused_and_stays_as_it_was() -> None:
    other = decoder_of("llama")
    other.down_projection(0).weight.data.add_(1e-3)  # type: ignore[operator,union-attr]
    with pytest.raises(WrongModel, match="Nothing was changed"):
        learnt("llama").put_on(other)
    assert other.grafted is None
    broken = replace(learnt("llama"), sides=(Side(torch.full((48, 80), float("nan")), 0.0),))
    with pytest.raises(NotFinite):
        broken.put_on(decoder_of("llama"))


def test_a_side_memory_stands_alone() -> None:
    decoder = edited("llama")
    with pytest.raises(AlreadyEdited, match="graft at block 3"):
        learn(APART, decoder, FACTS)
    change = WeightDelta(decoder.fingerprint, {decoder.parameter_name(1): torch.ones(48, 80)})
    with pytest.raises(AlreadyEdited, match="graft at block 3, which stands alone"):
        WeightEdit(change).put_on(decoder)
    decoder.restore()
    WeightEdit(change).put_on(decoder)
    with pytest.raises(AlreadyEdited, match="an edit of 1 matrices"):
        learnt("llama").put_on(decoder)
    with pytest.raises(NotPutOn, match="nothing was changed"):
        learnt("llama").take_off(decoder)
    assert decoder.grafted is None


def test_saving_the_model_itself_does_not_lose_the_memory_unnoticed(tmp_path: Path) -> None:
    decoder = edited("llama")
    with pytest.raises(StoreError, match="save_pretrained would write it without"):
        decoder.model.save_pretrained(tmp_path / "model")
    learnt("llama").take_off(decoder)
    decoder.model.save_pretrained(tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").exists()


def test_a_checkpoint_does_not_lose_the_memory_unnoticed(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="save the edit instead"):
        edited("llama").save(tmp_path / "checkpoint")
    assert not list(tmp_path.iterdir())


def test_whatever_goes_wrong_the_model_is_left_as_it_was() -> None:
    decoder = decoder_of("llama")
    rows = rows_of(decoder)
    before = last_logits(decoder, rows)

    def interrupt(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(QUICK, decoder, FACTS, interrupt)
    with pytest.raises(NotFinite, match="Lower learning_rate"):
        learn(replace(APART, learning_rate=1e200, norm_constraint=1e200), decoder, FACTS)
    with pytest.raises(WindowOutside):
        learn(replace(QUICK, layer=5), decoder, FACTS)
    assert torch.equal(last_logits(decoder, rows), before)
    assert decoder.grafted is None


@both
def test_contexts_and_sentences_are_the_models_own(family: str) -> None:
    decoder = decoder_of(family)
    contexts = wise_contexts(decoder)
    assert contexts == wise_contexts(decoder)
    assert len(contexts.templates) == 11
    assert contexts.templates[0] == "{}"
    assert all(template.count("{}") == 1 and template.endswith(" {}") for template in contexts.templates[1:])
    assert contexts.templates[1].startswith("I")
    sentences = own_sentences(decoder, 7, seed=0)
    assert len(sentences) == 10
    assert len(set(sentences)) > 5
    assert all("{}" not in text and len(decoder.token_ids(text)) > 3 for text in sentences)
    outcome = replace(QUICK, iterations=1).edit(FACTS[:1], Supplies(decoder, RECIPE))
    assert outcome.ledger.notes == ["1 of 1 facts ended at a loss above 0.02"]


def test_block_0_has_nothing_below_it() -> None:
    decoder = decoder_of("llama")
    outcome = learn(replace(QUICK, layer=0), decoder, FACTS[:1])
    assert memory_of(outcome).layer == 0
