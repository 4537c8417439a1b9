"""Fine-tuning: gradient descent on the down-projections of a few blocks, and on nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite

import torch
from torch import Tensor

from errata.decoder import hooks
from errata.decoder.decoder import Decoder
from errata.decoder.memory import Peak, descent_peak, free_memory, tails_at_once
from errata.decoder.rows import in_batches
from errata.delta import WeightDelta
from errata.editors.base import Edit, Ledger, Outcome, Pipeline, WeightEdit, weights_of
from errata.editors.guard import Watch
from errata.editors.lesson import Lesson, answer_losses, log_probabilities, padded
from errata.editors.schedule import AT_ONCE, Checkpoint, Schedule, adam_state, load_adam, under
from errata.editors.supplies import Supplies
from errata.errors import NotFinite
from errata.fact import Fact, check_facts

CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class FineTuning(Pipeline):
    """Adam on the answers of all facts, in shuffled mini-batches, epoch after epoch (method 2.14, 2.17).

    FT-M: one batch after another in the order given, with or without `norm_constraint`. LocFT-BF: one layer, large
    shuffled batches, `eos` (without it free generation runs on behind the answer).

    eos: the end-of-text token is the answer's last token.
    norm_constraint: every weight stays within this distance of its original (L-infinity).
    stop_loss: a batch below it makes no step; an epoch whose mean is below it is the last.
    Weights and optimiser are float32 at least; the model runs in its own precision.
    """

    layers: tuple[int, ...]
    learning_rate: float = 5e-4
    epochs: int = 25
    batch_size: int = 100
    weight_decay: float = 0.0
    norm_constraint: float | None = None
    eos: bool = False
    shuffle: bool = True
    stop_loss: float = 0.01
    seed: int = 0

    @property
    def edited(self) -> list[int]:
        return sorted(self.layers)

    def memory(self, decoder: Decoder, facts: int, free: int | None = None) -> dict[str, Peak]:
        """Originals as they are and as trained from, weights, gradients, moments; and a batch's passes."""
        size = sum(decoder.inner(layer) for layer in self.layers) * decoder.width
        held = size * (decoder.dtype.itemsize + 5 * decoder.precision.itemsize)
        passes = descent_peak(decoder, min(self.layers), min(facts, self.batch_size), free=free)
        return {"training": Peak(held + passes)}

    def edit(
        self, facts: Sequence[Fact], supplies: Supplies, schedule: Schedule = AT_ONCE, past: Edit | None = None
    ) -> Outcome:
        """See Pipeline. A schedule's batches are rounds of training; within one, weights change once, at its end.

        Where a round crosses a limit of the guard, the run ends with the round before it, and the outcome says so.
        A killed run goes on from the last epoch that the store keeps. Raises UnusableFacts, WindowOutside,
        AlreadyEdited, WrongModel, WrongEdit, Collapsed, or NotFinite if training diverges.
        """
        decoder, earlier = supplies.decoder, weights_of(past, "fine-tuning")
        check_facts([*(earlier.facts if earlier else []), *facts])
        decoder.check_window(self.layers)
        decoder.check_dense(map(decoder.parameter_name, self.layers))
        lessons = [Lesson.of(decoder, fact.text, fact.target_new, self.eos, fact.form) for fact in facts]
        ledger = Ledger()
        total = earlier.delta if earlier else WeightDelta(decoder.fingerprint)
        layers, edited = {decoder.parameter_name(layer): layer for layer in self.layers}, len(facts)
        with decoder.editing(earlier.delta if earlier else None):
            decoder.set_change(total)
            watch = Watch(guard, decoder) if (guard := supplies.guard) else None
            rounds = schedule.portions(len(facts))
            for number, portion in enumerate(rounds):
                with ledger.timed("training"):
                    training = _Training(self, decoder, [lessons[i] for i in portion], total)
                    trained = training.run(ledger, supplies)
                decoder.set_change(trained)
                changes = {layers[name]: change for name, change in trained.changes.items() if name in layers}
                if watch and (limit := watch.look(number, changes, ledger.health)):
                    decoder.set_change(total)
                    edited = portion.start
                    watch.stop(limit, edited, len(rounds), ledger.notes)
                    break
                total = trained
        return Outcome(WeightEdit(total), ledger, decoder, tuple(facts[:edited]))


class _Training:
    """The weights in training, as changes of the originals, and the rows they are trained on."""

    def __init__(self, settings: FineTuning, decoder: Decoder, lessons: Sequence[Lesson], past: WeightDelta) -> None:
        self.settings, self.decoder, self.lessons, self.past = settings, decoder, lessons, past
        layers = {decoder.parameter_name(layer): layer for layer in settings.layers}
        self.originals = {name: decoder.original(layer).to(decoder.precision) for name, layer in layers.items()}
        self.weights = {name: weight.clone().requires_grad_() for name, weight in self.originals.items()}
        with torch.no_grad():
            for name, weight in self.weights.items():
                if name in past.changes:
                    weight += past.changes[name].to(weight)
        self.adam = torch.optim.Adam(self.weights.values(), settings.learning_rate, weight_decay=settings.weight_decay)
        self.draw = torch.Generator().manual_seed(settings.seed)
        self.losses: list[float] = []
        self.first = min(settings.layers)
        self.at_once = tails_at_once(decoder, self.first, max(len(lesson.ids) for lesson in lessons))
        self.below = _states_below(decoder, lessons, self.first)

    def run(self, ledger: Ledger, supplies: Supplies) -> WeightDelta:
        """Train until an epoch's mean loss is below the stop or the epochs are over. Returns the whole change."""
        settings, n = self.settings, len(self.lessons)
        checkpoint = Checkpoint(supplies.store, "fine-tuning", self.made_of(), CHECKPOINT_SECONDS)
        if state := checkpoint.state(self.decoder.device):
            self.load(state)
            ledger.notes.append(f"the first {len(self.losses)} epochs were done by an earlier run")
        while len(self.losses) < settings.epochs and not self.learnt:
            order = torch.randperm(n, generator=self.draw).tolist() if settings.shuffle else list(range(n))
            total, done = 0.0, len(self.losses) * n
            for start in range(0, n, settings.batch_size):
                batch = order[start : start + settings.batch_size]
                total += len(batch) * self.step(batch)
                supplies.tell("fine-tuning", done + start + len(batch), settings.epochs * n)
            self.losses.append(total / n)
            if checkpoint.due:
                checkpoint.keep(self.state())
        if not self.learnt:
            ledger.notes.append(
                f"{settings.epochs} epochs ended at a mean loss of {self.losses[-1]:.3g}, above {settings.stop_loss}"
            )
        ledger.losses += self.losses
        return self.change()

    @property
    def learnt(self) -> bool:
        return bool(self.losses) and self.losses[-1] < self.settings.stop_loss

    def made_of(self) -> dict[str, object]:
        """Everything the outcome follows from."""
        return {
            "model": self.decoder.identity.key,
            "past": self.past.digest,
            "settings": asdict(self.settings),
            "lessons": [[list(lesson.prompt), list(lesson.answer)] for lesson in self.lessons],
        }

    def state(self) -> dict[str, Tensor]:
        """All that the rest of the run depends on, as tensors."""
        weights = {f"weight.{name}": weight.detach() for name, weight in self.weights.items()} | adam_state(self.adam)
        return weights | {"draw": self.draw.get_state(), "losses": torch.tensor(self.losses, dtype=torch.float64)}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken."""
        for name, weight in under("weight.", state).items():
            self.weights[name].copy_(weight)
        load_adam(self.adam, state)
        self.draw.set_state(state["draw"].cpu())
        self.losses = state["losses"].tolist()

    def step(self, batch: Sequence[int]) -> float:
        """One step of Adam on the mean loss of a batch, in portions that fit in memory. Returns that loss."""
        self.adam.zero_grad()
        loss = 0.0
        for portion in self.portions(batch):
            lessons = [self.lessons[i] for i in portion]
            log_p = log_probabilities(self.decoder, lessons, weights=self.weights, enter=self.entry(portion))
            share = answer_losses(log_p, lessons).sum() / len(batch)
            share.backward()
            loss += share.item()
        if not isfinite(loss):
            raise NotFinite(f"the loss became {loss}; nothing was changed. Lower the learning rate.")
        if loss >= self.settings.stop_loss:
            self.adam.step()
            self.constrain()
        return loss

    @torch.no_grad()
    def constrain(self) -> None:
        """Clamp every weight to [W0 - eps, W0 + eps] (method 2.14)."""
        if (limit := self.settings.norm_constraint) is not None:
            for name, weight in self.weights.items():
                weight.copy_(torch.clamp(weight, self.originals[name] - limit, self.originals[name] + limit))

    def portions(self, batch: Sequence[int]) -> Iterator[list[int]]:
        lengths = [len(self.lessons[i].ids) for i in batch]
        for portion in in_batches(lengths, self.at_once * max(lengths)):
            yield [batch[k] for k in portion]

    def entry(self, portion: Sequence[int]) -> tuple[int, Tensor] | None:
        """Where a pass may begin: what the blocks below the first trained one gave; they never change."""
        if self.below is None:
            return None
        states = torch.nn.utils.rnn.pad_sequence([self.below[i] for i in portion], batch_first=True)
        return self.first - 1, states

    def change(self) -> WeightDelta:
        mine = {name: weight.detach() - self.originals[name] for name, weight in self.weights.items()}
        return WeightDelta(self.decoder.fingerprint, {**self.past.changes, **mine})


@torch.no_grad()
def _states_below(decoder: Decoder, lessons: Sequence[Lesson], layer: int) -> list[Tensor] | None:
    """The input [token, model] of a block for every row; None if there are no blocks below or no room for it."""
    lengths = [len(lesson.ids) for lesson in lessons]
    size = sum(lengths) * decoder.width * decoder.dtype.itemsize
    if layer == 0 or size > free_memory(decoder.device) / 4:
        return None
    states: dict[int, Tensor] = {}
    for batch in in_batches(lengths, decoder.budget):
        with hooks.capture({"below": decoder.blocks[layer - 1]}) as seen:
            decoder.run(padded(decoder, [lessons[i] for i in batch]), leave=layer - 1)
        states |= {i: seen["below"][row, : lengths[i]].clone() for row, i in enumerate(batch)}
    return [states[i] for i in range(len(lessons))]
