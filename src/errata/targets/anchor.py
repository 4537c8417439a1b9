"""Anchors: the only gradient descent in locate-then-edit. A state at which the model says what the fact says."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from errata.decoder.decoder import Decoder
from errata.decoder.memory import is_out_of_memory, tails_at_once
from errata.decoder.site import Contexts, FactSite, Site
from errata.decoder.tails import Row, Stack, Tails
from errata.errors import NotFinite
from errata.targets.search import USUAL, AnchorSettings, Asked, Search, shared_out


@dataclass(frozen=True)
class Anchor:
    """A state optimised at one layer for one fact, or for all facts that have their stem in common."""

    state: Float[Tensor, " model"]
    start: Float[Tensor, " model"]
    loss: float
    """At the last evaluation; the parts are `nll`, `kl` and the weight decay. Of facts with one stem their mean."""
    nll: float
    kl: float
    evaluations: float
    """Of the loss on all rows; those of `bare_steps` count as the share of the rows that they run."""


BARE_AT_ONCE = 64
"""Facts whose bare prompts are gone through before their contexts are: what an interrupted run may lose."""
ALIKE = 0.75
"""A fact waits while its tails are shorter than this share of the longest in the batch: padding is arithmetic."""


@torch.inference_mode(False)  # and so with gradients, whatever mode the caller is in
def optimise_anchors(
    decoder: Decoder,
    site: Site,
    layer: int,
    settings: AnchorSettings,
    facts: Sequence[int] | None = None,
    packed: bool | None = None,
    at_once: int | None = None,
    search: Search = USUAL,
    begin: Mapping[int, Anchor] | None = None,
) -> Iterator[tuple[int, Anchor]]:
    """Find z = h0 + delta for many facts, each with its own delta, stop and clamp; yield each as it is done.

    delta minimises NLL + kl_factor KL(now || before) + weight_decay |delta| / |h0|^2 by Adam, projected onto
    |delta| <= clamp |h0| after every update (method 1.5). NLL is the mean over contexts of the mean over target
    tokens; KL is read on "{subject} is a"; h0 is the state of the bare prompt.

    `search` may say otherwise what is moved, how rows are padded and what is minimised. In its space "mlp" z is a
    down-projection output; a second delta on the attention output is optimised beside it and dropped, unless
    `alone`. Each has its own decay; beside an attention delta the MLP delta's ball is measured by the block's
    output, as published code does (method 2.7).

    Facts with one stem have one delta, which minimises the sum of their losses, the KL counted once; it has
    the evaluations of all of them, a ball as for deltas at right angles, and stops at their mean loss (method 5.31).

    A fact that has stopped leaves the batch and the next enters. The evaluation after the last update is not
    made: no update would use it. `facts`: which of the site's (default all). `packed` None: packed tails where
    they reproduce a plain pass of this model. `at_once` None: as many facts of like length as are worth it and
    fit in memory. `begin`: anchors at which to begin, in place of h0.
    Raises NotFinite if a loss is NaN.
    """
    wanted = list(range(len(site)) if facts is None else facts)
    if settings.bare_steps and begin is None and (search.alone or not search.inside):
        yield from _bare_first(decoder, site, layer, settings, wanted, (packed, at_once), search)
        return
    if not wanted:
        return
    stems, of_fact = site.part(wanted).stems, [rows_of(site.places[i], settings, search) for i in wanted]
    rows = [[row for i in stem for row in of_fact[i]] for stem in stems]
    if packed is None:
        together = packable(decoder, layer, rows)
        for packing, some in ((True, together), (False, sorted(set(range(len(rows))) - set(together)))):
            part = sorted(wanted[i] for stem in some for i in stems[stem])
            yield from optimise_anchors(decoder, site, layer, settings, part, packing, at_once, search, begin)
        return
    tails = Tails(decoder, layer, rows, packed, inside=search.inside)
    descent = _Descent(site.part(wanted), stems, of_fact, tails, settings, search)
    for i, stem in enumerate(stems if begin else ()):
        first = begin[wanted[stem[0]]]  # type: ignore[index]
        descent.delta[i, -1] = first.state - first.start
    queue = deque(sorted(range(len(rows)), key=tails.size, reverse=True))
    most = at_once or len(rows)
    active: list[int] = []
    stack: Stack | None = None
    while queue or active:
        try:
            longest = tails.size(active[0] if active else queue[0])
            limit = min(most, at_once or tails_at_once(decoder, layer, longest))
            alike = 0 if at_once else ALIKE * longest
            entering: list[int] = []
            while queue and len(active) + len(entering) < limit and tails.size(queue[0]) >= alike:
                entering.append(queue.popleft())
            if entering:
                active += entering
                tails.prepare(entering)
                stack = None
                if begin:
                    descent.look(entering)
            stack = stack or tails.stack(active)
            finished = descent.step(active, stack)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(active) <= 1:
                raise
            most = len(active) // 2  # Facts sent back keep their delta and moments.
            queue.extendleft(reversed(active[most:]))
            active, stack = active[:most], None
            tails.prepare(active)
            continue
        for i in finished:
            tails.forget(i)
            yield from ((wanted[fact], anchor) for fact, anchor in descent.anchors(i))
        if finished:
            active, stack = [i for i in active if i not in finished], None


def _bare_first(
    decoder: Decoder,
    site: Site,
    layer: int,
    settings: AnchorSettings,
    facts: Sequence[int],
    how: tuple[bool | None, int | None],
    search: Search,
) -> Iterator[tuple[int, Anchor]]:
    """A descent on bare prompts and essence, and from where it ends one on all rows (method 1.5)."""
    places = tuple(replace(place, prompts=place.prompts[:1]) for place in site.places)
    bare = replace(site, contexts=Contexts((("{}",),)), places=places)
    short, long = replace(settings, steps=settings.bare_steps + 1, bare_steps=0), replace(settings, bare_steps=0)
    stems = site.part(facts).stems
    for first in range(0, len(stems), BARE_AT_ONCE):
        some = sorted(facts[i] for stem in stems[first : first + BARE_AT_ONCE] for i in stem)
        begun = dict(optimise_anchors(decoder, bare, layer, short, some, *how, search))
        for i, anchor in optimise_anchors(decoder, site, layer, long, some, *how, search, begun):
            few, all_ = (len(rows_of(one.places[i], settings, search)) for one in (bare, site))
            yield i, replace(anchor, evaluations=anchor.evaluations + begun[i].evaluations * few / all_)


def rows_of(place: FactSite, settings: AnchorSettings, search: Search = USUAL) -> list[Row]:
    """The rows of one fact, each with its padding."""
    rows = search.objective.rows(place, settings)
    if search.padding == "right":
        return rows
    longest = max(len(row.ids) for row in rows)
    return [replace(row, padding=longest - len(row.ids)) for row in rows]


class _Descent:
    """Adam on one delta per stem; what each stem and its facts have come to so far."""

    def __init__(
        self,
        site: Site,
        stems: Sequence[Sequence[int]],
        rows: Sequence[list[Row]],
        tails: Tails,
        settings: AnchorSettings,
        search: Search,
    ) -> None:
        """`stems`: the facts of the site that share each; `rows`: of each fact."""
        self.site, self.stems, self.tails, self.settings, self.search = site, stems, tails, settings, search
        share = {i: 1 / len(stem) for stem in stems for i in stem}
        self.asked = [Asked(place, rows[i], share[i]) for i, place in enumerate(site)]
        shape = (4, len(stems), len(tails.parts) or 1, tails.decoder.width)
        self.delta, self.mean, self.square, self.start = torch.zeros(
            shape, dtype=tails.decoder.precision, device=tails.decoder.device
        )
        self.radius = self.delta.new_zeros(*shape[1:3], 1)
        self.evaluations = [0] * len(stems)
        self.losses = [float("nan")] * len(stems)
        self.references: dict[int, Tensor] = {}
        self.parts: dict[int, tuple[float, float]] = {}

    def anchors(self, stem: int) -> Iterator[tuple[int, Anchor]]:
        """What each fact of a stem has come to."""
        start = self.start[stem, -1].clone()
        for fact in self.stems[stem]:
            nll, kl = self.parts.get(fact, (float("nan"),) * 2)
            self.references.pop(fact, None)
            state, loss = start + self.delta[stem, -1], self.losses[stem] / len(self.stems[stem])
            yield fact, Anchor(state, start, loss, nll, kl, self.evaluations[stem])

    @torch.no_grad()
    def look(self, facts: Sequence[int]) -> None:
        """Take the references of facts whose descent begins elsewhere than at the model's own states."""
        self._loss(facts, torch.zeros_like(self.delta[list(facts)]), self.tails.stack(facts))

    def step(self, active: Sequence[int], stack: Stack) -> list[int]:
        """One evaluation of all active stems, and an update of those it does not end. Returns the finished."""
        for i in active:
            if not self.evaluations[i]:
                self.start[i] = self.tails.start(i).to(self.start)
                self.radius[i] = self.settings.clamp * torch.linalg.vector_norm(self.start[i], dim=-1, keepdim=True)
                if not self.search.alone:
                    around = self.tails.around(i).to(self.start)
                    self.radius[i, -1] = self.settings.clamp * torch.linalg.vector_norm(around)
                self.radius[i] *= len(self.stems[i]) ** 0.5  # as far as deltas of one fact each, at right angles
        if self.settings.steps <= 1:
            return list(active)
        delta = self.delta[list(active)].requires_grad_()
        loss, nll, kl = self._loss(active, delta, stack)
        if not torch.isfinite(loss).all():
            bad = self.stems[active[int((~torch.isfinite(loss)).nonzero()[0])]][0]
            raise NotFinite(f"fact {bad}: its anchor's loss is not finite at layer {self.tails.layer}")
        (gradient,) = torch.autograd.grad(loss.sum(), delta)
        for i, value in zip(active, loss.tolist(), strict=True):
            self.evaluations[i] += 1
            self.losses[i] = value
        facts = [fact for i in active for fact in self.stems[i]]
        self.parts |= {fact: parts for fact, *parts in zip(facts, nll.tolist(), kl.tolist(), strict=True)}  # type: ignore[misc]
        stopped = [i for i in active if self.losses[i] / len(self.stems[i]) < self.settings.stop_loss]
        self._update([i for i in active if i not in stopped], dict(zip(active, gradient, strict=True)))
        most = self.settings.steps - 1  # for each of the facts that a delta is for
        return [i for i in active if i in stopped or self.evaluations[i] >= most * len(self.stems[i])]

    def _loss(self, active: Sequence[int], delta: Tensor, stack: Stack) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of each active stem; NLL and KL of each of their facts."""
        facts = [fact for i in active for fact in self.stems[i]]
        decoder, objective = self.tails.decoder, self.search.objective
        lens = objective.lens(decoder, self.tails.layer, self.settings)
        read, own = self.tails.logits(stack, delta, lens)
        asked = [self.asked[i] for i in facts]
        parts = [one.answers for one in asked]
        for i, mine, first in zip(facts, read.detach().split(parts), own.detach().split(parts), strict=True):
            if i not in self.references:
                part = self.site.part([i])
                self.references[i] = objective.reference(decoder, part, self.asked[i], lens, mine, first).clone()
        held = [self.references[i] for i in facts]
        main, nll, kl = objective.loss(asked, held, read, own, self.settings)
        norm = torch.linalg.vector_norm(delta, dim=-1)
        size = torch.linalg.vector_norm(self.start[list(active)], dim=-1)
        decay = self.settings.weight_decay * ((norm**2 if self.settings.squared_decay else norm) / size**2).sum(-1)
        owner = [slot for slot, i in enumerate(active) for _ in self.stems[i]]
        return shared_out(main, owner, [1.0] * len(owner), len(active)) + decay, nll, kl

    def _update(self, stems: list[int], gradients: dict[int, Tensor]) -> None:
        """Adam with its usual constants, then the projection onto the ball of radius clamp |h0|."""
        if not stems:
            return
        gradient = torch.stack([gradients[i] for i in stems])
        beta1, beta2, epsilon = 0.9, 0.999, 1e-8
        t = gradient.new_tensor([self.evaluations[i] for i in stems])[:, None, None]
        self.mean[stems] = beta1 * self.mean[stems] + (1 - beta1) * gradient
        self.square[stems] = beta2 * self.square[stems] + (1 - beta2) * gradient**2
        step = self.settings.learning_rate * self.mean[stems] / (1 - beta1**t)
        delta = self.delta[stems] - step / ((self.square[stems] / (1 - beta2**t)).sqrt() + epsilon)
        norm = torch.linalg.vector_norm(delta, dim=-1, keepdim=True)
        limit = self.radius[stems]
        self.delta[stems] = torch.where(norm > limit, delta * (limit / norm), delta)


_LIMITS = ("sliding_window", "window_size", "attention_chunk_size", "max_position_embeddings")


def _before(row: Row) -> int:
    return row.decisive


def _behind(row: Row) -> int:
    return len(row.cut) - row.decisive


def packable(decoder: Decoder, layer: int, rows: Sequence[Sequence[Row]]) -> list[int]:
    """The facts whose rows may lie side by side, in a batch of any of them.

    Local attention counts distance in the packed sequence, and some masks end with the model's positions: so the
    longest facts are left out until the longest prefixes and the longest tails together are within either. Then
    none at all, if packing does not hold on this model.
    """
    config = decoder.model.config.get_text_config(decoder=True)
    windows = [getattr(config, name, None) for name in _LIMITS]
    window = min([w for w in windows if isinstance(w, int) and w > 0], default=None)
    lengths = [[sum(length(row) for row in fact) for length in (_before, _behind)] for fact in rows]
    found, prefix, tail = list[int](), 0, 0
    for i in sorted(range(len(rows)), key=lambda i: sum(lengths[i])):
        prefix, tail = max(prefix, lengths[i][0]), max(tail, lengths[i][1])
        if window is not None and prefix + tail > window:
            break
        found.append(i)
    return sorted(found) if found and packing_holds(decoder, layer, [rows[i] for i in found]) else []


def packing_holds(decoder: Decoder, layer: int, rows: Sequence[Sequence[Row]]) -> bool:
    """Whether packed tails give what whole rows give, on this model: asked of the longest fact, with a random delta."""
    generator = torch.Generator().manual_seed(0)
    found: list[Tensor] = []
    with torch.no_grad():
        for packed in (False, True):
            tails = Tails(decoder, layer, [max(rows, key=lambda fact: sum(len(row.ids) for row in fact))], packed)
            try:
                tails.prepare([0])
                start = tails.start(0)
                if not found:
                    delta = torch.randn(1, 1, decoder.width, generator=generator, dtype=torch.float64)
                    delta = delta / delta.norm() * start.double().norm().cpu()
                found.append(tails.logits(tails.stack([0]), delta.to(decoder.device, decoder.precision))[0])
            except Exception as error:  # a hybrid's cache, or a mask of another shape: whatever its code stumbles over
                if not packed or is_out_of_memory(error):
                    raise
                return False
    plain, short = found
    spread = (plain - plain.mean(-1, keepdim=True)).norm()
    tolerance = {torch.float64: 1e-6, torch.float32: 1e-3}.get(decoder.dtype, 0.1)
    return bool((plain - short).norm() <= tolerance * spread)
