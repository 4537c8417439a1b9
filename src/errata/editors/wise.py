"""WISE: facts are learnt one after another in a side memory beside one down-projection (method 2.15)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, inf, isfinite

import torch
from jaxtyping import Float
from torch import Tensor

from errata.decoder import hooks
from errata.decoder.contexts import generate_contexts
from errata.decoder.decoder import Decoder
from errata.decoder.memory import Peak, descent_peak
from errata.decoder.rows import pad
from errata.decoder.site import Contexts
from errata.editors.base import Edit, Ledger, Outcome, Pipeline
from errata.editors.guard import Watch
from errata.editors.lesson import Lesson, answer_losses, log_probabilities
from errata.editors.schedule import AT_ONCE, Checkpoint, Schedule
from errata.editors.side_memory import Side, SideMemory, activation_of, beside, distances
from errata.editors.supplies import Supplies
from errata.errors import NotFinite, WrongEdit
from errata.fact import Fact, check_facts

STARTS = ("I", "You", "Because", "Yes", "Q: ")
LENGTHS = (5, 10)
SENTENCES = 50
"""At most so many sentences are generated for locality; facts share them in turn."""
NEW, OLD = 0.4, 0.6
"""Weights of the new memories together, and of what they are merged into (method 2.15)."""
CHECKPOINT_SECONDS = 60.0


def margin_loss(
    inside: Float[Tensor, " row"], outside: Float[Tensor, " sentence"], margins: tuple[float, float, float]
) -> Tensor:
    """mean_+(out - in + gamma) + mean_+(out - alpha) + mean_+(beta - in), (alpha, beta, gamma) (method 2.15)."""
    alpha, beta, gamma = margins
    return _hinge(outside[:, None] - inside + gamma) + _hinge(outside - alpha) + _hinge(beta - inside)


def _hinge(values: Tensor) -> Tensor:
    """The mean of the positive values; 0 if there are none."""
    return values.clamp_min(0).sum() / (values > 0).sum().clamp_min(1)


def ties(changes: Sequence[Tensor], weights: Sequence[float], density: float) -> Tensor:
    """TIES merge: trim each change to its largest entries, elect a sign per entry, average those that agree.

    The elected sign is that of the weighted sum of what is left (+ for zero); sum w c / sum w over agreeing entries.
    """
    kept = [trimmed(change, density) for change in changes]
    weighted = list(zip(weights, kept, strict=True))
    total = sum((weight * change for weight, change in weighted), torch.zeros_like(kept[0]))
    elected = torch.where(total >= 0, 1.0, -1.0).to(total.dtype)
    merged, share = torch.zeros_like(total), torch.zeros_like(total)
    for weight, change in weighted:
        agrees = change.sign() == elected
        merged += weight * change * agrees
        share += weight * agrees
    return torch.where(share > 0, merged / share, 0.0)


def trimmed(change: Tensor, density: float) -> Tensor:
    """The `density` share of entries that are largest in magnitude; zeros elsewhere."""
    kept = change.abs().flatten().topk(int(density * change.numel())).indices
    mask = torch.zeros(change.numel(), dtype=torch.bool, device=change.device)
    mask[kept] = True
    return torch.where(mask.view_as(change), change, 0.0)


@dataclass(frozen=True)
class Wise(Pipeline):
    """One fact after another is learnt by a side weight, which must stay near the original elsewhere (method 2.15).

    margins: (alpha, beta, gamma) of the distance, in the units of the layer's output.
    act_ratio: a side is used from this share of the least distance among its facts on.
    mask_ratio: the share of entries that a shard of `save_every` facts may change.
    merge_every: so many facts are merged by TIES with `density`; retrieve=True keeps merged memories side by side,
    False merges each into the one before. Memories not merged yet are always kept side by side, so none is lost.
    Not as in the published code: no chat template, which evaluation would not use; padding is not averaged over.
    """

    layer: int
    learning_rate: float = 1.0
    iterations: int = 70
    margins: tuple[float, float, float] = (5.0, 20.0, 10.0)
    act_ratio: float = 0.88
    mask_ratio: float = 0.2
    save_every: int = 500
    merge_every: int = 1000
    density: float = 0.53
    weight_decay: float = 1e-5
    norm_constraint: float = 1.0
    retrieve: bool = True
    stop_loss: float = 0.02
    stop_change: float = 1e-4
    seed: int = 0

    @property
    def edited(self) -> list[int]:
        return [self.layer]

    def memory(self, decoder: Decoder, facts: int, free: int | None = None) -> dict[str, Peak]:
        """The memories; weight, side weight, mask and gradients; and the passes of one fact under its contexts."""
        size = decoder.inner(self.layer) * decoder.width * decoder.precision.itemsize
        memories = ceil(facts / self.save_every)
        passes = descent_peak(decoder, self.layer, len(STARTS) * len(LENGTHS) + 1, free=free)
        return {"training": Peak((memories + 5) * size + passes)}

    def edit(
        self, facts: Sequence[Fact], supplies: Supplies, schedule: Schedule = AT_ONCE, past: Edit | None = None
    ) -> Outcome:
        """See Pipeline. Facts are learnt one after another whatever the schedule says.

        Contexts that were given are used; if none were, WISE's own are made. The routing of sentences must not change:
        texts of the model itself, used in turn, for other facts' prompts are to be routed to the memory. `past`: a
        memory of this layer; its sides stay as they are, beside those of the new facts.

        Raises UnusableFacts, WindowOutside, AlreadyEdited, WrongEdit, Collapsed, or NotFinite if training diverges.
        """
        if past is not None and not isinstance(past, SideMemory):
            raise WrongEdit(
                f"WISE goes on from side memories only; the earlier edit is a {type(past).__name__}. "
                "Nothing was changed. Edit all facts in one run, or start from the unedited model."
            )
        decoder = supplies.decoder
        check_facts([*(past.facts if past else []), *facts])
        decoder.check_window([self.layer])
        decoder.check_graftable()
        carried = decoder.grafted if past is not None and past.is_on(decoder) else None
        if past is not None and past.layer != self.layer:
            raise WrongEdit(f"the earlier memory stands at block {past.layer}, this one at {self.layer}; choose one.")
        ledger = Ledger()
        with decoder.editing(carried):
            decoder.restore()
            with ledger.timed("contexts"):
                contexts = supplies.given_contexts or wise_contexts(decoder)
                sentences = own_sentences(decoder, len(facts), self.seed)
            with ledger.timed("training"):
                learner = _Learner(self, decoder)
                texts = [sentences[i % len(sentences)] for i in range(len(facts))]
                made_of = self.made_of(decoder, facts, contexts, texts)
                checkpoint = Checkpoint(supplies.store, "side-memory", made_of, CHECKPOINT_SECONDS)
                if state := checkpoint.state(decoder.device):
                    learner.load(state)
                    ledger.notes.append(f"the first {len(learner.losses)} facts were learnt by an earlier run")
                for i in range(len(learner.losses), len(facts)):
                    learner.learn(facts[i], contexts, texts[i])
                    if checkpoint.due:
                        checkpoint.keep(learner.state())
                    supplies.tell("facts", i + 1, len(facts))
            sides = (*(past.sides if past else ()), *learner.sides())
            memory = SideMemory(decoder.fingerprint, self.layer, learner.activation, sides)
            watch = Watch(guard, decoder) if (guard := supplies.guard) else None
            memory.put_on(decoder)
            if watch and (limit := watch.look(0, {}, ledger.health)):
                watch.stop(limit, 0, 1, ledger.notes)
        ledger.losses = learner.losses
        if above := sum(loss > self.stop_loss for loss in learner.losses):
            ledger.notes.append(f"{above} of {len(facts)} facts ended at a loss above {self.stop_loss}")
        return Outcome(memory, ledger, decoder, tuple(facts))

    def made_of(
        self, decoder: Decoder, facts: Sequence[Fact], contexts: Contexts, sentences: Sequence[str]
    ) -> dict[str, object]:
        """Everything the memory follows from."""
        return {
            "model": decoder.identity.key,
            "settings": asdict(self),
            "facts": [asdict(fact) for fact in facts],
            "contexts": contexts.groups,
            "sentences": list(sentences),
        }


@dataclass
class _Memory:
    """A finished side weight and the least in-scope distance among its facts."""

    change: Tensor
    least: float


class _Learner:
    """The side weight in training, and the memories finished so far."""

    def __init__(self, settings: Wise, decoder: Decoder) -> None:
        self.settings, self.decoder = settings, decoder
        self.activation = activation_of(decoder)
        self.module = decoder.down_projection(settings.layer)
        self.weight = decoder.weight(settings.layer).to(decoder.precision)
        self.draw = torch.Generator().manual_seed(settings.seed)
        self.merged: list[_Memory] = []
        self.finished: list[_Memory] = []
        self.losses: list[float] = []
        self.start_shard()

    def start_shard(self) -> None:
        """A fresh side weight, equal to the original, and a fresh mask."""
        self.change = torch.zeros_like(self.weight)
        chance = torch.rand(self.weight.shape, generator=self.draw)
        self.mask = (chance < self.settings.mask_ratio).to(self.weight.device)
        self.least = inf

    def learn(self, fact: Fact, contexts: Contexts, sentence: str) -> None:
        """Descend on one fact until it is learnt, and note how far its prompts are then; close a full shard."""
        settings = self.settings
        texts = [template.replace("{}", fact.text, 1) for template in contexts.templates]
        lessons = [Lesson.of(self.decoder, text, fact.target_new, form=fact.form) for text in texts]
        rows = _Rows(self.decoder, settings.layer, lessons, sentence)
        before = inf
        for _ in range(settings.iterations):
            change = self.change.detach().requires_grad_()
            loss = self.loss(rows, change)
            if abs(loss.item() - before) <= settings.stop_change and loss.item() <= settings.stop_loss:
                break
            if not isfinite(before := loss.item()):
                raise NotFinite(f"{fact.text!r}: the loss became {before}; nothing was changed. Lower learning_rate.")
            (gradient,) = torch.autograd.grad(loss, change)
            self.descend(gradient)
        self.losses.append(before)
        self.least = min(self.least, rows.distances(self.change, self.activation)[0].mean().item())
        if len(self.losses) % settings.save_every == 0:
            self.close_shard()

    def loss(self, rows: _Rows, change: Tensor) -> Tensor:
        """Cross entropy of the answers under the side weight, mean over rows, and the margin loss of distances."""

        def give(inputs: Tensor, output: Tensor) -> Tensor:
            return beside(inputs, output, change).to(output.dtype)

        with hooks.stand_in(self.module, give):
            log_p = log_probabilities(self.decoder, rows.lessons, enter=rows.entry)
        inside, outside = rows.distances(change, self.activation)
        return answer_losses(log_p, rows.lessons).mean() + margin_loss(inside, outside, self.settings.margins)

    def descend(self, gradient: Tensor) -> None:
        """A step of SGD on W' = W + change: the mask holds the gradient, not the decay; then the clamp to W."""
        settings = self.settings
        step = gradient * self.mask + settings.weight_decay * (self.weight + self.change)
        limit = settings.norm_constraint
        self.change = (self.change - settings.learning_rate * step).clamp(-limit, limit)

    def close_shard(self) -> None:
        """Keep the side weight, begin another, and merge those not merged yet if it is time."""
        self.finished.append(_Memory(self.change, self.least))
        self.start_shard()
        if len(self.losses) % self.settings.merge_every == 0:
            self.merge()

    def merge(self) -> None:
        new, old = self.finished, [] if self.settings.retrieve else self.merged
        weights = [(NEW if old else 1.0) / len(new)] * len(new) + [OLD] * len(old)
        memories = [*new, *old]
        change = ties([memory.change for memory in memories], weights, self.settings.density)
        made = _Memory(change, min(memory.least for memory in memories))
        self.merged = [*self.merged, made] if self.settings.retrieve else [made]
        self.finished = []

    def state(self) -> dict[str, Tensor]:
        """All that the rest of the run depends on, as tensors."""
        memories = [*self.merged, *self.finished]
        found = {f"memory.{i}": memory.change for i, memory in enumerate(memories)}
        leasts = [self.least, *(memory.least for memory in memories)]
        return found | {
            "change": self.change,
            "mask": self.mask,
            "draw": self.draw.get_state(),
            "merged": torch.tensor(len(self.merged)),
            "leasts": torch.tensor(leasts, dtype=torch.float64),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken."""
        self.least, *leasts = state["leasts"].tolist()
        memories = [_Memory(state[f"memory.{i}"], least) for i, least in enumerate(leasts)]
        merged = int(state["merged"])
        self.merged, self.finished = memories[:merged], memories[merged:]
        self.change, self.mask = state["change"], state["mask"]
        self.draw.set_state(state["draw"].cpu())
        self.losses = state["losses"].tolist()

    def sides(self) -> tuple[Side, ...]:
        """All memories with thresholds: each its own, or without retrieval the same for all (method 2.15)."""
        memories = [*self.merged, *self.finished]
        if self.least < inf:
            memories.append(_Memory(self.change, self.least))
        least = min(memory.least for memory in memories)
        ratio = self.settings.act_ratio
        return tuple(Side(m.change, ratio * (m.least if self.settings.retrieve else least)) for m in memories)


class _Rows:
    """The rows of one fact and its locality sentence, as they arrive at the side weight's block: these never change."""

    def __init__(self, decoder: Decoder, layer: int, lessons: Sequence[Lesson], sentence: str) -> None:
        self.lessons = lessons
        outside = decoder.token_ids(sentence)
        ids = pad([*(lesson.ids for lesson in lessons), outside], decoder.device)
        lengths = torch.tensor([*(len(lesson.prompt) for lesson in lessons), len(outside)], device=decoder.device)
        self.prompt = torch.arange(ids.shape[1], device=decoder.device) < lengths[:, None]
        module = decoder.down_projection(layer)
        below = {"below": decoder.blocks[layer - 1]} if layer else {}
        with (
            torch.no_grad(),
            hooks.capture({"in": module}, inputs=True) as read,
            hooks.capture({"out": module} | below) as gave,
        ):
            decoder.run(ids, leave=layer)
        self.inputs, self.outputs = read["in"], gave["out"]
        longest = max(len(lesson.ids) for lesson in lessons)
        self.entry = (layer - 1, gave["below"][:-1, :longest]) if layer else None

    def distances(self, change: Tensor, activation: str) -> tuple[Float[Tensor, " row"], Float[Tensor, " one"]]:
        """Of the fact's prompts, and of the sentence."""
        found = distances(self.inputs, self.outputs, change, self.prompt, activation)
        return found[:-1], found[-1:]


def wise_contexts(decoder: Decoder) -> Contexts:
    """The bare prompt, and behind each of five starts what the model says next, 5 and 10 tokens of it, greedily."""
    starts = [start for start in STARTS for _ in LENGTHS]
    lengths = [length for _ in STARTS for length in LENGTHS]
    said = decoder.generate([decoder.token_ids(start) for start in starts], max(LENGTHS))
    texts = [start + decoder.decode(new[:length]) for start, new, length in zip(starts, said, lengths, strict=True)]
    return Contexts((("{}",), tuple(f"{text.replace('{', ' ').replace('}', ' ')} {{}}" for text in texts)))


def own_sentences(decoder: Decoder, n: int, seed: int) -> list[str]:
    """Text sampled from the model, up to 50 pieces."""
    made: list[str] = []
    for k in range(ceil(min(n, SENTENCES) / 5)):
        made += [template.removesuffix(" {}") for template in generate_contexts(decoder, seed + k).groups[1]]
    return made
