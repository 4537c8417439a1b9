"""RLEdit: the update by its formula, a network that learns, runs that survive a kill, and exact edits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from errata import Decoder, Fact, Outcome, Store, WeightEdit
from errata.editors import rledit
from errata.editors.hypernetwork import Hypernetwork, Network
from errata.editors.lesson import Lesson, answer_losses, log_probabilities
from errata.editors.rledit import Practice, RLEdit, original_weights, read_traces
from errata.editors.supplies import Supplies
from errata.errors import AlreadyEdited, NotFinite, StoreError, UnsupportedModel, UnusableFacts, WrongModel
from tests.editing import BOTH, RECIPE, decoder_of
from tests.models import tiny_facts

both = pytest.mark.parametrize("family", BOTH)
FACTS = tiny_facts()
MODULES = {"llama": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"), "gpt2": ("mlp.c_fc", "mlp.c_proj")}
PRACTICE = [
    Practice(
        fact,
        paraphrases=(f"Now {fact.text}", f"It is said that {fact.text}"),
        neighbours=(("The river of Brask is", "long"), (f"{fact.subject} is a friend of", "the king")),
    )
    for fact in FACTS
]
SMALL = RLEdit(
    (1, 3),
    batch_size=3,
    rank=6,
    blocks=2,
    learning_rate=0.02,
    meta_learning_rate=3e-3,
    epochs=2,
    checkpoint_seconds=0.0,
)


def small(family: str, **changes: object) -> RLEdit:
    return replace(SMALL, modules=MODULES[family], **changes)  # type: ignore[arg-type]


@cache
def trained(family: str) -> Hypernetwork:
    return small(family).fit(decoder_of(family), PRACTICE, Store.nowhere())


def edit(
    settings: RLEdit, decoder: Decoder, facts: list[Fact], network: Hypernetwork, progress: Any = None, past: Any = None
) -> Outcome:
    """An edit by a network that the store holds already."""
    store = Store.nowhere()
    store.put("hypernetworks", settings.made_of(decoder, PRACTICE), network.tensors)
    supplies = Supplies(decoder, RECIPE, practice=PRACTICE, store=store, progress=progress)
    return settings.edit(facts, supplies, past=past)


def changes(outcome: Outcome) -> dict[str, Tensor]:
    assert isinstance(outcome.edit, WeightEdit)
    return dict(outcome.edit.delta.changes)


def weights(decoder: Decoder) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in decoder.model.state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def mean_loss(decoder: Decoder, reworded: bool = False) -> float:
    """Of the facts as given, or of the wordings trained on."""
    asked = [(text, one.fact) for one in PRACTICE for text in (one.paraphrases if reworded else (one.fact.text,))]
    lessons = [Lesson.of(decoder, text, fact.target_new) for text, fact in asked]
    return answer_losses(log_probabilities(decoder, lessons), lessons).mean().item()


# -- one batch -----------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_traces_are_inputs_and_output_gradients_where_answers_are_predicted(family: str, rows: int) -> None:
    """The sum over tokens of gradient times input is the gradient of the weight, less what other tokens give."""
    decoder = decoder_of(family)
    names = small(family).names(decoder)
    lessons = [Lesson.of(decoder, fact.text, fact.target_new) for fact in FACTS]
    found = read_traces(decoder, lessons, original_weights(decoder, names), rows)
    at = 0
    for lesson in lessons:
        part = slice(at, at + len(lesson.answer))
        at = part.stop
        for name in names:
            module = decoder.model.get_submodule(name.removesuffix(".weight"))
            seen: dict[str, Tensor] = {}

            def keep(_m: object, args: tuple[Tensor], out: Tensor, seen: dict[str, Tensor] = seen) -> Tensor:
                seen["in"], seen["out"] = args[0], out.detach().requires_grad_()
                return seen["out"]

            handle = module.register_forward_hook(keep)
            logits = decoder.model(torch.tensor([lesson.ids])).logits[0, len(lesson.prompt) - 1 :]
            handle.remove()
            loss = cross_entropy(logits, torch.tensor(lesson.answer))
            (gradient,) = torch.autograd.grad(loss, seen["out"])
            keys, gradients = found[name]
            assert torch.allclose(keys[part], seen["in"][0, len(lesson.prompt) - 1 :], atol=1e-10)
            assert torch.allclose(gradients[part], gradient[0, len(lesson.prompt) - 1 :], atol=1e-10)


def test_the_shift_is_the_ridge_solution_of_the_networks_values() -> None:
    draw = torch.Generator().manual_seed(0)
    weight = {"a": torch.zeros(5, 9, dtype=torch.float64), "b": torch.zeros(5, 9, dtype=torch.float64)}
    network = Network(weight | {"c": torch.zeros(9, 5, dtype=torch.float64)}, rank=4, blocks=3)
    network.draw(0, 0.5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
    keys = torch.randn(7, 9, generator=draw, dtype=torch.float64)
    gradients = 1e-9 * torch.randn(7, 5, generator=draw, dtype=torch.float64)
    network.observe("a", keys, gradients)
    shaper, i = network.place["b"]
    assert i == 1
    pair = torch.cat([keys, gradients], -1)
    y = (pair - pair.mean(0)) / pair.std(0)
    for k in range(3):
        y = y + shaper.scale[k, i] * (y @ shaper.down[k] @ shaper.up[k] + shaper.bias[k]).relu() + shaper.shift[k, i]
    values = -shaper.rate[i] * (keys * y[:, :9]).sum(-1, keepdim=True) * y[:, 9:]
    dense = keys.T @ keys + shaper.log_ridge[i].exp() * torch.eye(9, dtype=torch.float64)
    want = torch.linalg.solve(dense, keys.T @ values).T
    assert torch.allclose(network.shift("b", keys, gradients), want, atol=1e-10)
    assert network.place["c"][0] is not shaper


def test_running_moments_are_those_of_all_pairs() -> None:
    draw = torch.Generator().manual_seed(0)
    network = Network({"a": torch.zeros(2, 3, dtype=torch.float64)}, rank=1, blocks=1)
    pairs = [torch.randn(n, 5, generator=draw, dtype=torch.float64) + n for n in (1, 4, 9)]
    for part in pairs:
        network.observe("a", part[:, :3], part[:, 3:])
    shaper, _ = network.place["a"]
    joint = torch.cat(pairs)
    assert torch.allclose(shaper.mean, joint.mean(0))
    assert torch.allclose((shaper.spread / 13).sqrt(), joint.std(0))


# -- training ------------------------------------------------------------------------------------------


@both
def test_the_loss_of_other_wordings_falls_in_training(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []
    step = rledit._Training.step

    def watched(training: rledit._Training) -> None:
        step(training)
        losses.append(training.loss)

    monkeypatch.setattr(rledit._Training, "step", watched)
    decoder = decoder_of(family)
    before = weights(decoder)
    ticks: list[tuple[str, int, int]] = []
    settings = small(family, batch_size=8, epochs=10, meta_learning_rate=0.01)
    network = settings.fit(decoder, PRACTICE, Store.nowhere(), lambda *tick: ticks.append(tick))
    assert losses[-1] < losses[6] < losses[0] - 0.3
    assert [tick[1] for tick in ticks] == list(range(1, 11))
    assert same(before, weights(decoder))
    first = replace(settings, epochs=1, meta_learning_rate=0.0).fit(decoder, PRACTICE, Store.nowhere())
    found = []
    for one in (first, network):
        outcome = edit(settings, decoder, FACTS, one)
        found.append(mean_loss(decoder, reworded=True))
        outcome.restore()
    assert found[1] < found[0] - 0.2


def test_the_networks_gradient_is_that_of_the_loss_through_the_shift() -> None:
    """By differences: the loss of the first batch as a function of the network's parameters.

    On GPT-2, because Llama's norm is computed in float32 whatever the model's precision.
    """
    decoder = decoder_of("gpt2")
    settings = small("gpt2", regulariser=0.3, max_grad_norm=1e9, epochs=1, batch_size=8)
    training = rledit._Training(settings, decoder, PRACTICE, settings.names(decoder))
    training.length = 99  # no step of Adam yet
    draw = torch.Generator().manual_seed(0)
    for parameter in training.network.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
    training.step()
    facts = [one.fact for one in training.batch(0, 0)]
    lessons = [Lesson.of(decoder, fact.text, fact.target_new) for fact in facts]
    originals = original_weights(decoder, settings.names(decoder))
    traces = read_traces(decoder, lessons, originals, 4)
    wordings = [Lesson.of(decoder, text, p.fact.target_new) for p in training.batch(0, 0) for text in p.paraphrases]
    near = [Lesson.of(decoder, *pair) for p in training.batch(0, 0) for pair in p.neighbours]

    with torch.no_grad():
        p = log_probabilities(decoder, near)

    @torch.no_grad()
    def objective() -> float:
        shifts = {name: training.network.shift(name, *trace) for name, trace in traces.items()}
        now = {name: originals[name] + shifts[name] for name in originals}
        edit = answer_losses(log_probabilities(decoder, wordings, weights=now), wordings).mean()
        q = log_probabilities(decoder, near, weights=now)
        ends = torch.tensor([len(lesson.answer) for lesson in near]).cumsum(0).tolist()
        kl = [(p.exp() * (p - q)).sum(-1)[e - len(one.answer) : e].mean() for e, one in zip(ends, near, strict=True)]
        size = sum(shift.square().sum() for shift in shifts.values())
        return float(edit + settings.locality * torch.stack(kl).mean() + settings.regulariser * size)

    for parameter in training.network.parameters():
        assert parameter.grad is not None
        direction = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        h = 1e-6
        parameter.data += h * direction
        above = objective()
        parameter.data -= 2 * h * direction
        below = objective()
        parameter.data += h * direction
        slope = (above - below) / (2 * h)
        assert (parameter.grad * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_adam_steps_once_at_the_end_of_a_sequence_and_the_weights_start_anew() -> None:
    decoder = decoder_of("llama")
    settings = small("llama")
    training = rledit._Training(settings, decoder, PRACTICE, settings.names(decoder))
    start = {name: value.clone() for name, value in training.network.named_parameters()}
    assert (training.length, training.total) == (3, 6)
    assert [len(training.batch(0, k)) for k in range(3)] == [3, 3, 2]
    for _ in range(2):
        training.step()
        assert all(torch.equal(start[n], p) for n, p in training.network.named_parameters())
        assert not same(training.weights, training.originals)
    training.step()
    assert not all(torch.equal(start[n], p) for n, p in training.network.named_parameters())
    assert same(training.weights, training.originals)
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in training.network.parameters() if p.grad is not None))
    assert norm == 0


class Killed(Exception):
    pass


def kill_after(n: int) -> Callable[[str, int, int], None]:
    def progress(stage: str, done: int, total: int) -> None:
        if done == n:
            raise Killed

    return progress


@pytest.mark.parametrize("when", [1, 3, 5])
def test_a_killed_training_goes_on_to_the_very_same_network(when: int, tmp_path: Path) -> None:
    store = Store(tmp_path)
    settings = small("llama")
    with pytest.raises(Killed):
        settings.fit(decoder_of("llama"), PRACTICE, store, kill_after(when))
    ticks: list[int] = []
    network = settings.fit(decoder_of("llama"), PRACTICE, store, lambda _s, done, _t: ticks.append(done))
    assert ticks == list(range(when + 1, 7))
    assert same(dict(network.tensors), dict(trained("llama").tensors))
    again = settings.fit(decoder_of("llama"), PRACTICE, store, kill_after(1))
    assert same(dict(again.tensors), dict(network.tensors))
    assert max(file.stat().st_size for file in tmp_path.rglob("hypernetwork-training/*/*.safetensors")) < 1000


def test_a_run_with_other_settings_or_records_is_another_run() -> None:
    decoder = decoder_of("llama")
    settings = small("llama")
    mine = settings.made_of(decoder, PRACTICE)
    assert mine != replace(settings, time_decay=0.5).made_of(decoder, PRACTICE)
    assert mine != settings.made_of(decoder, PRACTICE[:-1])
    assert mine == replace(settings, checkpoint_seconds=1.0).made_of(decoder, PRACTICE)


# -- editing -------------------------------------------------------------------------------------------


@both
def test_editing_makes_the_facts_likelier_and_restores_bit_for_bit(family: str) -> None:
    decoder = decoder_of(family)
    before, loss = weights(decoder), mean_loss(decoder)
    ticks: list[tuple[str, int, int]] = []
    settings = small(family)
    outcome = edit(settings, decoder, FACTS, trained(family), progress=lambda *tick: ticks.append(tick))
    after = weights(decoder)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(changes(outcome)) == set(settings.names(decoder))
    assert mean_loss(decoder) < loss
    assert [tick[1] for tick in ticks] == [3, 6, 8]
    outcome.restore()
    assert same(before, weights(decoder))
    again = edit(settings, decoder_of(family), FACTS, trained(family))
    assert same(changes(outcome), changes(again))


def test_batches_are_edited_in_order_each_on_the_weights_so_far() -> None:
    settings, decoder = small("llama"), decoder_of("llama")
    first = edit(settings, decoder, FACTS[:3], trained("llama")).edit
    assert isinstance(first, WeightEdit)
    with pytest.raises(AlreadyEdited):
        edit(settings, decoder, FACTS[3:], trained("llama"))
    both_parts = edit(settings, decoder, FACTS[3:], trained("llama"), past=first)
    whole = edit(settings, decoder_of("llama"), FACTS, trained("llama"))
    for name, change in changes(whole).items():
        assert torch.allclose(changes(both_parts)[name], change, atol=1e-12)
    one = edit(settings, decoder_of("llama"), FACTS[:3], trained("llama"))
    assert same(changes(one), dict(first.delta.changes))


def test_a_network_is_saved_and_serves_one_model_only(tmp_path: Path) -> None:
    settings, network = small("llama"), trained("llama")
    network.save(tmp_path / "network.safetensors")
    loaded = Hypernetwork.load(tmp_path / "network.safetensors")
    assert (loaded.modules, loaded.rank, loaded.blocks) == (network.modules, 6, 2)
    outcome = edit(settings, decoder_of("llama"), FACTS, loaded)
    assert same(changes(outcome), changes(edit(settings, decoder_of("llama"), FACTS, network)))
    with pytest.raises(WrongModel, match="Nothing was changed"):
        settings.apply(FACTS, loaded, Supplies(decoder_of("gpt2"), RECIPE))
    outcome.edit.save(tmp_path / "edit")
    with pytest.raises(StoreError, match="expected a hypernetwork"):
        Hypernetwork.load(tmp_path / "edit" / "edit.safetensors")


def test_whatever_is_wrong_is_said_and_the_model_is_left_as_it_was() -> None:
    decoder = decoder_of("llama")
    before = weights(decoder)
    with pytest.raises(UnsupportedModel, match=r"block 1 .* no linear module mlp.c_fc; it has .*mlp.up_proj"):
        replace(SMALL, modules=("mlp.c_fc",)).fit(decoder, PRACTICE, Store.nowhere())
    with pytest.raises(UnusableFacts, match="no facts to train on"):
        small("llama").fit(decoder, [], Store.nowhere())
    with pytest.raises(NotFinite):
        small("llama", learning_rate=1e200).fit(decoder, PRACTICE, Store.nowhere())
    with pytest.raises(Killed):
        edit(small("llama"), decoder, FACTS, trained("llama"), progress=kill_after(6))
    assert same(before, weights(decoder))
    assert decoder.change is None
