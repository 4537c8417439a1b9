"""RLEdit: a network, trained on a long sequence of edits, turns the gradients of facts into changes of weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, isfinite

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from errata.decoder import hooks
from errata.decoder.decoder import Decoder
from errata.decoder.memory import Peak, descent_peak
from errata.delta import WeightDelta
from errata.editors.base import Edit, Ledger, Outcome, Pipeline, WeightEdit, weights_of
from errata.editors.guard import Watch
from errata.editors.hypernetwork import Hypernetwork, Network
from errata.editors.lesson import Lesson, Practice, answer_losses, lesson_means, log_probabilities, places
from errata.editors.schedule import AT_ONCE, Checkpoint, Schedule, adam_state, load_adam, under
from errata.editors.supplies import Progress, Supplies
from errata.errors import NotFinite, UnsupportedModel, UnusableFacts, WrongModel
from errata.fact import Fact, check_facts
from errata.store import Store

Weights = dict[str, Float[Tensor, "out in"]]
"""Parameter name -> weight, in the orientation of the mathematics."""


@dataclass(frozen=True)
class RLEdit(Pipeline):
    """Train a hypernetwork once per model (`fit`), then edit in one pass per batch (`edit`) (method 2.16).

    modules: linear modules of a block, by path; None: those that feed the down-projection, which are the gate and up
    projections in models of Llama's kind.
    batch_size: facts edited together; rows_at_once: rows per pass, a matter of memory only.
    sequence: batches of a training sequence, at whose end the network makes its one step; epochs: sequences.
    back_depth, time_decay: after each batch, the losses of so many last batches count, each older one this much less.
    checkpoint_seconds: how often `fit` writes one; the result does not depend on it.
    Unlike the published code, the loss of a row is the mean over its answer and rows count alike, so that padding
    and rows_at_once do not matter; and the regulariser has a gradient, which the published one lacks.
    """

    layers: tuple[int, ...]
    modules: tuple[str, ...] | None = None
    batch_size: int = 20
    rows_at_once: int = 4
    rank: int = 1024
    blocks: int = 4
    learning_rate: float = 1e-6
    meta_learning_rate: float = 1e-5
    sequence: int = 400
    epochs: int = 1
    back_depth: int = 10
    time_decay: float = 0.95
    locality: float = 0.6
    regulariser: float = 1e-4
    max_grad_norm: float = 1.0
    seed: int = 0
    checkpoint_seconds: float = 300.0

    needs = frozenset({"practice"})

    @property
    def edited(self) -> list[int]:
        return sorted(self.layers)

    def memory(self, decoder: Decoder, facts: int, free: int | None = None) -> dict[str, Peak]:
        """Matrices, shifts and their gradients, and the passes of a few rows."""
        sizes = [decoder.model.get_parameter(name).numel() for name in self.names(decoder)]
        passes = descent_peak(decoder, min(self.layers), self.rows_at_once, free=free)
        return {"training": Peak(5 * sum(sizes) * decoder.precision.itemsize + passes)}

    def fit(
        self, decoder: Decoder, practice: Sequence[Practice], store: Store, progress: Progress | None = None
    ) -> Hypernetwork:
        """The trained network: from the store, or trained on the unedited model and stored. Nothing is changed.

        A run that was killed goes on from its last checkpoint and ends at the very same network. Train on records
        that are not evaluated. Raises UnusableFacts, UnsupportedModel, or NotFinite if it diverges.
        """
        problems = [f"record {i}: {p}" for i, one in enumerate(practice) for p in one.fact.problems()]
        if problems or not practice:
            raise UnusableFacts(problems or ["there are no facts to train on"])
        names = self.names(decoder)
        made_of = self.made_of(decoder, practice)
        tensors = store.get("hypernetworks", made_of)
        if tensors is None:
            with decoder.unedited():
                checkpoint = Checkpoint(store, "hypernetwork-training", made_of, self.checkpoint_seconds)
                tensors = self._trained(_Training(self, decoder, practice, names), checkpoint, progress)
            store.put("hypernetworks", made_of, tensors)
            checkpoint.clear()
        return Hypernetwork(decoder.fingerprint, tuple(names), self.rank, self.blocks, tensors)

    def _trained(self, training: _Training, checkpoint: Checkpoint, progress: Progress | None) -> dict[str, Tensor]:
        training.load(checkpoint.state(training.decoder.device))
        while training.done < training.total:
            training.step()
            if checkpoint.due:
                checkpoint.keep(training.state())
            if progress:
                progress("hypernetwork", training.done, training.total)
        return {name: value.detach().cpu() for name, value in training.network.state_dict().items()}

    def edit(
        self, facts: Sequence[Fact], supplies: Supplies, schedule: Schedule = AT_ONCE, past: Edit | None = None
    ) -> Outcome:
        """See Pipeline. `fit` on what there is to practise with; then batch after batch in the order given.

        A schedule's batch takes the place of `batch_size`. Raises UnusableFacts, AlreadyEdited, WrongEdit, Collapsed.
        """
        decoder, earlier, ledger = supplies.decoder, weights_of(past, "RLEdit"), Ledger()
        check_facts([*(earlier.facts if earlier else []), *facts])
        with decoder.editing(earlier.delta if earlier else None):
            with ledger.timed("hypernetwork"):
                network = self.fit(decoder, supplies.practice, supplies.store, supplies.progress)
            applied = replace(self, batch_size=schedule.batch or self.batch_size)
            watch = Watch(guard, decoder) if (guard := supplies.guard) else None
            with ledger.timed("editing"):
                decoder.set_change(total := applied.apply(facts, network, supplies, earlier))
            if watch and (limit := watch.look(0, {}, ledger.health)):
                watch.stop(limit, 0, 1, ledger.notes)
        return Outcome(WeightEdit(total), ledger, decoder, tuple(facts))

    def apply(
        self, facts: Sequence[Fact], network: Hypernetwork, supplies: Supplies, past: WeightEdit | None = None
    ) -> WeightDelta:
        """The whole change that a trained network makes of the facts, going on from `past`, which is then put on.

        Raises WrongModel if the network was trained for another model.
        """
        decoder = supplies.decoder
        if network.fingerprint != decoder.fingerprint:
            raise WrongModel(
                f"this network was trained for weights {network.fingerprint}, the model at hand ({decoder.name}) is "
                f"{decoder.fingerprint}. Nothing was changed. Train one for this model with RLEdit.fit."
            )
        decoder.restore()
        originals = original_weights(decoder, network.modules)
        if past is not None:
            decoder.set_change(past.delta)
        return self._apply(decoder, facts, network.network(originals), originals, past, supplies)

    @torch.no_grad()
    def _apply(
        self,
        decoder: Decoder,
        facts: Sequence[Fact],
        network: Network,
        originals: Weights,
        past: WeightEdit | None,
        supplies: Supplies,
    ) -> WeightDelta:
        earlier = past.delta.changes if past else {}
        here = {name: change.to(decoder.device, decoder.precision) for name, change in earlier.items()}
        total = WeightDelta(decoder.fingerprint, here)
        for start in range(0, len(facts), self.batch_size):
            batch = facts[start : start + self.batch_size]
            lessons = [Lesson.of(decoder, fact.text, fact.target_new, form=fact.form) for fact in batch]
            weights = {name: weight + total.changes.get(name, 0) for name, weight in originals.items()}
            traces = read_traces(decoder, lessons, weights, self.rows_at_once)
            total += WeightDelta(decoder.fingerprint, {name: network.shift(name, *traces[name]) for name in weights})
            supplies.tell("facts", start + len(batch), len(facts))
        return total

    def names(self, decoder: Decoder) -> list[str]:
        """Parameter names of the modules to change. Raises WindowOutside, or UnsupportedModel naming what there is."""
        decoder.check_window(self.layers)
        known = {id(parameter): name for name, parameter in decoder.model.named_parameters()}
        names = []
        room, _, down = decoder.layout.down_projection.rpartition(".")
        for layer in self.layers:
            linears = {n: m for n, m in decoder.blocks[layer].named_modules() if isinstance(m, nn.Linear | Conv1D)}
            feeding = [name for name in linears if name.startswith(f"{room}.") and name != f"{room}.{down}"]
            modules = feeding if self.modules is None else self.modules
            if missing := [name for name in modules if name not in linears]:
                raise UnsupportedModel(
                    f"block {layer} of {decoder.name} has no linear module {', '.join(missing)}; it has "
                    f"{', '.join(linears)}"
                )
            names += [known[id(linears[name].weight)] for name in modules]
        decoder.check_dense(names)
        return names

    def made_of(self, decoder: Decoder, practice: Sequence[Practice]) -> dict[str, object]:
        """All that decides which network `fit` ends at."""
        records = json.dumps([asdict(one) for one in practice], sort_keys=True)
        settings = {name: value for name, value in asdict(self).items() if name != "checkpoint_seconds"}
        return {
            "model": decoder.identity.key,
            "settings": settings,
            "practice": hashlib.sha256(records.encode()).hexdigest(),
        }


class _Training:
    """A training run between two steps: network, optimiser, accumulated gradients and the weights shifted so far."""

    def __init__(self, settings: RLEdit, decoder: Decoder, practice: Sequence[Practice], names: Sequence[str]) -> None:
        self.settings, self.decoder, self.practice = settings, decoder, practice
        self.originals = original_weights(decoder, names)
        self.weights = dict(self.originals)
        self.network = Network(self.originals, settings.rank, settings.blocks)
        self.network.draw(settings.seed, settings.learning_rate)
        self.adam = torch.optim.Adam(self.network.parameters(), settings.meta_learning_rate)
        self.length = min(settings.sequence, ceil(len(practice) / settings.batch_size))
        self.total = self.length * settings.epochs
        self.done = 0
        self.loss = 0.0

    def batch(self, epoch: int, k: int) -> list[Practice]:
        """The k-th batch of a sequence; each sequence has its own order."""
        draw = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.practice), generator=draw).tolist()
        size = self.settings.batch_size
        return [self.practice[i] for i in order[k * size : (k + 1) * size]]

    def step(self) -> None:
        """Shift the weights for one batch and add what the shift did to the network's gradient (method 2.16)."""
        settings = self.settings
        epoch, k = divmod(self.done, self.length)
        facts = [one.fact for one in self.batch(epoch, k)]
        lessons = [Lesson.of(self.decoder, fact.text, fact.target_new, form=fact.form) for fact in facts]
        traces = read_traces(self.decoder, lessons, self.weights, settings.rows_at_once)
        for name, trace in traces.items():
            self.network.observe(name, *trace)
        shifts = {name: self.network.shift(name, *trace) for name, trace in traces.items()}
        shifted = {name: (weight + shifts[name]).detach() for name, weight in self.weights.items()}
        recent = [self.batch(epoch, past) for past in range(max(0, k - settings.back_depth + 1), k + 1)]
        gradients = self.gradients(recent[::-1], shifted)
        surrogate = torch.stack([(shifts[n] * gradients[n]).sum() for n in shifts]).sum()
        size = torch.stack([shift.square().sum() for shift in shifts.values()]).sum()
        (surrogate + settings.regulariser * size).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), settings.max_grad_norm)  # method 2.16: on the sum
        self.weights = shifted
        self.done += 1
        if self.done % self.length == 0:
            self.adam.step()
            self.adam.zero_grad()
            self.weights = dict(self.originals)

    def gradients(self, recent: Sequence[Sequence[Practice]], shifted: Weights) -> Weights:
        """d loss / d weights after the shift: of recent batches, the newest first, other wordings and neighbours."""
        settings = self.settings
        total = {name: torch.zeros_like(weight) for name, weight in shifted.items()}
        self.loss = 0.0
        for age, batch in enumerate(recent):
            factor = settings.time_decay**age
            wordings = [
                Lesson.of(self.decoder, text, one.fact.target_new, form=one.fact.form)
                for one in batch
                for text in (one.paraphrases or (one.fact.text,))
            ]
            near = [Lesson.of(self.decoder, *pair, form=one.fact.form) for one in batch for pair in one.neighbours]
            for lessons in _portions(wordings, settings.rows_at_once):
                weights = trainable(shifted)
                loss = answer_losses(log_probabilities(self.decoder, lessons, weights=weights), lessons).sum()
                self.add(total, factor / len(wordings) * loss, weights)
            for lessons in _portions(near, settings.rows_at_once):
                with torch.no_grad():
                    before = log_probabilities(self.decoder, lessons, weights=self.weights)
                weights = trainable(shifted)
                after = log_probabilities(self.decoder, lessons, weights=weights)
                kl = lesson_means((before.exp() * (before - after)).sum(-1), lessons).sum()
                self.add(total, factor * settings.locality / len(near) * kl, weights)
        if not isfinite(self.loss):
            raise NotFinite(f"the loss became {self.loss} at batch {self.done}; lower the learning rates")
        return total

    def add(self, total: Weights, loss: Tensor, weights: Weights) -> None:
        self.loss += loss.item()
        for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            total[name] += gradient

    def state(self) -> dict[str, Tensor]:
        """All that the rest of the run depends on, as tensors."""
        state = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        state |= {f"weight.{name}": value for name, value in self.weights.items()}
        for name, parameter in self.network.named_parameters():
            if parameter.grad is not None:
                state[f"gradient.{name}"] = parameter.grad
        state |= adam_state(self.adam)
        return state | {"done": torch.tensor(self.done)}

    def load(self, state: Mapping[str, Tensor] | None) -> None:
        """Go on where `state` was taken; without one (or from an empty one) at the beginning."""
        if not state:
            return
        self.done = int(state["done"])
        self.network.load_state_dict(under("network.", state))
        self.weights = under("weight.", state)
        gradients = under("gradient.", state)
        for name, parameter in self.network.named_parameters():
            parameter.grad = gradients.get(name)
        load_adam(self.adam, state)


def original_weights(decoder: Decoder, names: Sequence[str]) -> Weights:
    """Copies of the matrices [out, in] that an unedited model has, in float32 at least."""
    weights = {}
    for name in names:
        stored = decoder.model.get_parameter(name).detach()
        transposed = isinstance(decoder.model.get_submodule(name.rpartition(".")[0]), Conv1D)
        weights[name] = (stored.T if transposed else stored).to(decoder.precision, copy=True)
    return weights


def trainable(weights: Weights) -> Weights:
    """The same values as leaves that want a gradient."""
    return {name: weight.detach().requires_grad_() for name, weight in weights.items()}


@torch.enable_grad()
def read_traces(
    decoder: Decoder, lessons: Sequence[Lesson], weights: Weights, rows_at_once: int
) -> dict[str, tuple[Float[Tensor, "token in"], Float[Tensor, "token out"]]]:
    """Per module, its inputs and the gradients of the summed losses at its outputs, where answers are predicted."""
    modules = {name: decoder.model.get_submodule(name.rpartition(".")[0]) for name in weights}
    both: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in weights}
    for part in _portions(lessons, rows_at_once):
        with hooks.capture(modules, inputs=True) as inputs, hooks.capture(modules) as outputs:
            log_p = log_probabilities(decoder, part, weights=trainable(weights))
        gradients = torch.autograd.grad(answer_losses(log_p, part).sum(), [outputs[name] for name in weights])
        row, at = places(decoder, part)
        for name, gradient in zip(weights, gradients, strict=True):
            pair = inputs[name].detach()[row, at], gradient[row, at]
            both[name].append((pair[0].to(decoder.precision), pair[1].to(decoder.precision)))
    return {name: (torch.cat([k for k, _ in pairs]), torch.cat([g for _, g in pairs])) for name, pairs in both.items()}


def _portions(lessons: Sequence[Lesson], size: int) -> Iterator[Sequence[Lesson]]:
    for start in range(0, len(lessons), size):
        yield lessons[start : start + size]
