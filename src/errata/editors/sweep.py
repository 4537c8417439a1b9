"""Sweeps: batch after batch, targets are found and solved for layer by layer. What locate-then-edit does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from hashlib import blake2b
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from errata.decoder.decoder import Decoder
from errata.decoder.frontier import Frontier
from errata.decoder.memory import place_for
from errata.decoder.site import Contexts, FactSite, Site
from errata.delta import WeightDelta
from errata.editors.base import Ledger, LedgerRow, Progress
from errata.editors.guard import Guard, Watch
from errata.editors.schedule import Checkpoint, Schedule, under
from errata.fact import Fact
from errata.fleet import Fleet
from errata.solvers import LinearSystem, Prepared, Solution
from errata.statistics import KeyStatistics
from errata.store import Store
from errata.targets import Targets, UpdateNorm, optimise_anchors

if TYPE_CHECKING:
    from errata.editors.locate_then_edit import LocateThenEdit

Kept = dict[int, Float[Tensor, "fact inner"]]
"""Layer -> the keys of all facts edited so far; K^T K is the B of method 1.8."""

FLUSH_SECONDS = 2.0
ARRIVED = 1e-4
"""A state within this share of its target's norm has reached it: what is left is rounding."""


class Sweeps:
    """The sweeps of one run, and what they have come to: the total change, keys kept, the ledger."""

    def __init__(
        self,
        method: LocateThenEdit,
        decoder: Decoder,
        statistics: Mapping[int, KeyStatistics],
        store: Store,
        progress: Progress | None,
        site: Site,
        schedule: Schedule,
        fleet: Fleet,
    ) -> None:
        self.method, self.decoder, self.statistics, self.store = method, decoder, statistics, store
        self.tell: Progress = progress or (lambda stage, done, total: None)
        self.site, self.schedule, self.fleet = site, schedule, fleet
        self.batches = schedule.portions(len(site))
        self.total = WeightDelta(decoder.fingerprint)
        self.kept: Kept = {}
        self.known: dict[int, Prepared] = {}
        self.ledger = Ledger()

    def over(self, guard: Guard | None) -> int:
        """All batches of the schedule; those that the store has done already are taken from it.

        Returns the number of facts edited: all, unless the guard stopped the run.
        """
        site, schedule, batches = self.site, self.schedule, self.batches
        many, leads = len(batches) > 1, self.fleet.leads
        ahead = self.original_targets() if schedule.targets == "original" else None
        done = Checkpoint(self.store, "sweeps", self.made_of() | asdict(schedule)) if many and leads else None
        first = self.resume(done) if many else 0
        if not first:
            self.ledger.notes += _notes(self.decoder, site)
        watch = Watch(guard, self.decoder) if guard and leads else None
        edited = len(site)
        for number, batch in enumerate(batches[first:], first):
            part, before = site.part(batch), (self.total, dict(self.kept))
            targets = self.targets(part) if ahead is None else {layer: t[list(batch)] for layer, t in ahead.items()}
            self.sweep(part, targets, number)
            if guard and (limit := self.look(watch, number)):
                (self.total, self.kept), edited = before, batch.start
                if watch:
                    watch.stop(limit, edited, self.ledger.notes)
                self.decoder.put_on(self.total)
                break
            if done:
                done.keep(self.state_after(number + 1))
            self.tell("batches", number + 1, len(batches))
        self.finish()
        return edited

    def look(self, watch: Watch | None, batch: int) -> str | None:
        """The limit of the guard that the model crosses, if any, as the leading rank sees it."""
        told = self.fleet.tell(lambda: watch.look(batch, self.changes, self.ledger.health) if watch else None)
        return None if told is None else str(told)

    @property
    def changes(self) -> dict[int, Tensor]:
        """Layer -> its whole change so far."""
        names = {self.decoder.parameter_name(layer): layer for layer in self.method.edited}
        return {names[name]: change for name, change in self.total.changes.items() if name in names}

    def state_after(self, batches: int) -> dict[str, Tensor]:
        tensors = {f"change/{name}": change for name, change in self.total.changes.items()}
        tensors |= {f"keys/{layer}": keys for layer, keys in self.kept.items()}
        ledger = json.dumps(self.ledger.to_json()).encode()
        return tensors | {"batches": torch.tensor(batches), "ledger": torch.tensor(list(ledger), dtype=torch.uint8)}

    def resume(self, done: Checkpoint | None) -> int:
        """Take up what the store holds of this very run; returns the number of batches that are done."""
        state = self.fleet.lead(lambda: (done and done.state()) or {})
        if not state:
            return 0
        self.total = WeightDelta(self.decoder.fingerprint, under("change/", state))
        self.kept = {int(layer): keys for layer, keys in under("keys/", state).items()}
        self.decoder.put_on(self.total)
        number = int(state["batches"])
        self.ledger = Ledger.from_json(json.loads(bytes(state["ledger"].tolist())))
        self.ledger.notes.append(f"the first {number} batches were done by an earlier run and taken from the store")
        return number

    def original_targets(self) -> Targets:
        """Targets of all facts on the unedited model, whatever edit the run goes on from."""
        self.decoder.restore()
        found = self.targets(self.site)
        self.decoder.put_on(self.total)
        return found

    def targets(self, site: Site) -> Targets:
        """What the construction makes of anchors on the model as it is now."""
        construction, seconds = self.method.construction, self.ledger.seconds
        started, anchors = perf_counter(), seconds.get("anchors", 0.0)
        window, mine = self.method.window, self.fleet.part(len(site))
        anchors_of = {layer: self.anchors(site, layer) for layer in construction.anchored(window)}
        own = {layer: anchors[mine] for layer, anchors in anchors_of.items()}
        found = construction.construct(self.decoder, site.part(mine), window, own, self.update_norm(site, mine))
        found = self.fleet.rows(mine, found)
        spent = perf_counter() - started - (seconds.get("anchors", 0.0) - anchors)
        seconds["replay"] = seconds.get("replay", 0.0) + spent
        return found

    def sweep(self, site: Site, targets: Targets, batch: int) -> None:
        """For each row of the tableau: keys and residuals as the model is now, a solve, a change of one matrix."""
        decoder, ledger, mine = self.decoder, self.ledger, self.fleet.part(len(site))
        own = site.part(mine)
        prompts = Frontier(decoder, [prompt.stem for place in own for prompt in place.prompts])
        bare = Frontier(decoder, own.bare)
        space = self.method.construction.search.space

        def states(layers: Sequence[int]) -> Targets:
            return self.fleet.rows(mine, bare.states(layers, space=space))

        way = _Way(targets, states(sorted(targets)))
        steps = self.method.construction.steps(self.method.window)
        for i, step in enumerate(steps):
            started, layer = perf_counter(), step.edit
            if step.anew:
                targets[step.read] = self.anchors(site, step.read)
                way.begin(step.read, states([step.read])[step.read])
            with ledger.timed("keys"):
                every = prompts.keys([layer], settle=True)[layer]
                found = {"mean": averaged(every, site.contexts), "bare": bare_of(every, site.contexts)}
                keys, bare_keys = self.fleet.rows(mine, found).values()
                residuals = step.share * (targets[step.read] - way.states[step.read])
            with ledger.timed("solve"):
                weight = decoder.weight(layer).to(decoder.device, decoder.precision)
                solution = self.solved(LinearSystem(keys, residuals, weight, layer, bare_keys))
                change = solution.change.to(decoder.device, decoder.precision)
                self.total += WeightDelta(decoder.fingerprint, {decoder.parameter_name(layer): change})
                decoder.put_on(self.total)
                self.keep(layer, keys)
            with ledger.timed("keys"):
                bare.settle(layer - 1)
                way.go_on(states([other for other in targets if other >= layer]))
            norms = float(torch.linalg.matrix_norm(change)), float(torch.linalg.matrix_norm(weight))
            left, spent = way.remaining(), perf_counter() - started
            solved, lost = (solution.residual, solution.rank), self.rounding(layer, keys, change)
            del solution
            row = LedgerRow(batch, layer, step.read, step.share, left, *norms, *solved, spent, lost)
            ledger.rows.append(row)
            self.tell("layers", i + 1, len(steps))

    def solved(self, system: LinearSystem) -> Solution:
        """Of the leading rank, on every rank: so weights agree to the last bit whatever hardware ranks run on, and
        statistics and factors, which may be larger than the model, are held once."""

        def solve() -> dict[str, Tensor]:
            prepared = self.prepared(system.layer, len(system.keys))
            found = self.method.solver.solve(system, prepared)
            told = torch.tensor([found.residual, -1 if found.rank is None else found.rank], dtype=torch.float64)
            return {"change": found.change.to(self.decoder.precision), "told": told}

        found = self.fleet.lead(solve)
        residual, rank = found["told"].tolist()
        return Solution(found["change"], residual, None if rank < 0 else int(rank))

    def update_norm(self, site: Site, mine: Sequence[int]) -> UpdateNorm:
        """|dW| / |W| that residuals would bring at a layer of the model as it is; keys and factor are made once.

        It is asked for with the residuals of this rank's facts, and answers for all of them.
        """
        prompts = [prompt.stem for place in site for prompt in place.prompts]
        solver = self.method.solver

        @cache
        def known(layer: int) -> tuple[Tensor, Tensor, Tensor, Prepared]:
            every = self.decoder.keys(prompts, [layer])[layer]
            weight = self.decoder.weight(layer).to(self.decoder.device, self.decoder.precision)
            prepared = self.prepared(layer, len(site))
            return averaged(every, site.contexts), bare_of(every, site.contexts), weight, prepared

        def norm(layer: int, residuals: Tensor) -> float:
            keys, bare_keys, weight, prepared = known(layer)
            change = solver.solve(LinearSystem(keys, residuals, weight, layer, bare_keys), prepared).change
            return float(torch.linalg.matrix_norm(change)) / float(torch.linalg.matrix_norm(weight))

        def together(layer: int, residuals: Tensor) -> float:
            every = self.fleet.rows(mine, {layer: residuals})[layer]
            return float(self.fleet.tell(lambda: norm(layer, every)))

        return together

    def rounding(self, layer: int, keys: Float[Tensor, "fact inner"], change: Float[Tensor, "model inner"]) -> float:
        """|E k| / |dW k| over the facts' keys, with E what rounding the edited weights to the model's dtype did."""
        decoder = self.decoder
        if decoder.dtype == decoder.precision:
            return 0.0
        before, now = (
            w.to(decoder.device, decoder.precision) for w in (decoder.original(layer), decoder.weight(layer))
        )
        error = now - (before + self.total.changes[decoder.parameter_name(layer)].to(now))
        return float(torch.linalg.matrix_norm(keys @ error.T) / torch.linalg.matrix_norm(keys @ change.T))

    def prepared(self, layer: int, facts: int) -> Prepared:
        """What the solver makes of a layer's statistics: beside its weight if there is room, else in main memory.

        In batches, what does not depend on earlier facts is made once: a null space costs more than all the rest.
        """
        weight = self.decoder.weight(layer)
        needed = self.method.solve_peak(weight.shape[1], weight.shape[0], facts)
        moment = self.statistics[layer].moment.to(place_for(needed, weight.device))
        solver, past = self.method.solver, self.past(layer)
        used_again = solver.uses_known or not self.schedule.remember
        if len(self.batches) == 1 or not used_again:
            return solver.prepare(moment, past, layer=layer)
        if layer not in self.known:
            self.known[layer] = {n: t.cpu() for n, t in solver.prepare(moment, layer=layer).items()}
        known = {name: tensor.to(moment.device) for name, tensor in self.known[layer].items()}
        return solver.prepare(moment, past, layer=layer, known=known)

    def past(self, layer: int) -> Float[Tensor, "inner inner"] | None:
        """B: the sum of k k^T over facts edited before this batch."""
        if not self.schedule.remember or layer not in self.kept:
            return None
        keys = self.kept[layer].double()
        return keys.T @ keys

    def keep(self, layer: int, keys: Float[Tensor, "fact inner"]) -> None:
        fresh = keys.to("cpu", self.decoder.precision)
        self.kept[layer] = torch.cat([self.kept[layer], fresh]) if layer in self.kept else fresh

    def finish(self) -> None:
        """What the solver makes of the whole change in the end; most leave it as it is."""
        decoder, layers = self.decoder, self.method.edited
        if worst := max((row.rounding for row in self.ledger.rows), default=0.0):
            self.ledger.notes.append(
                f"rounding the edited weights to {str(decoder.dtype).removeprefix('torch.')} moves the outputs at the "
                f"facts' keys by up to {worst:.1%} of what the update moves them; the saved edit keeps it unrounded"
            )
        names = {decoder.parameter_name(layer): layer for layer in layers}

        def altered() -> dict[str, Tensor]:
            totals = {name: change for name, change in self.total.changes.items() if name in names}
            finish, original = self.method.solver.finish, decoder.original
            ends = {name: finish(change, original(names[name]).to(change)) for name, change in totals.items()}
            return {name: end for name, end in ends.items() if end is not totals[name]}

        if changes := self.fleet.lead(altered):
            self.total = WeightDelta(decoder.fingerprint, {**self.total.changes, **changes})
            decoder.put_on(self.total)

    def made_of(self) -> dict[str, object]:
        """Everything this run's outcome follows from."""
        moments = {str(layer): statistics.moment for layer, statistics in self.statistics.items()}
        return {
            **self.state(),
            "method": repr(self.method),
            "contexts": self.site.contexts.groups,
            "facts": [place_name(fact, place) for fact, place in zip(self.site.facts, self.site, strict=True)],
            "statistics": WeightDelta("", moments).digest,
            "kept": WeightDelta("", {str(layer): keys for layer, keys in self.kept.items()}).digest,
        }

    def state(self) -> dict[str, object]:
        """What model this is, as it is now."""
        change = self.decoder.change
        return {"model": self.decoder.identity.key, "change": change.digest if change else None}

    def anchors(self, site: Site, layer: int) -> Float[Tensor, "fact model"]:
        """Anchors of all facts at a layer on the model as it is now: from the store, or optimised and stored.

        As they are found; but a batch's all at once when they are complete. Their last bits depend on which facts
        they are optimised beside, so only thus does a run that was killed go on to the very same weights.
        """
        in_pieces = len(site) == len(self.site)
        search = self.method.construction.search
        settings = {"layer": layer, "space": search.space, "settings": asdict(self.method.anchor), **search.departures}
        shelf = self.store.shelf("anchors", self.state() | settings | {"contexts": site.contexts.groups})
        names = [place_name(fact, place) for fact, place in zip(site.facts, site, strict=True)]
        stored = shelf.get(names)
        had = [i for i, name in enumerate(names) if name in stored]
        owner, missing = self.fleet.owners(had, len(site))
        mine = [i for i, rank in enumerate(owner) if rank == self.fleet.rank]
        fresh: dict[str, dict[str, Tensor]] = {}
        flushed = perf_counter()
        with self.ledger.timed("anchors"):
            own = [i for i in mine if names[i] not in stored]
            try:
                found = optimise_anchors(self.decoder, site, layer, self.method.anchor, own, search=search)
                for done, (i, anchor) in enumerate(found, 1):
                    parts = [anchor.loss, anchor.nll, anchor.kl, float(anchor.evaluations)]
                    value = {"state": anchor.state, "parts": torch.tensor(parts)}
                    fresh[names[i]] = stored[names[i]] = value
                    if in_pieces and perf_counter() - flushed > FLUSH_SECONDS:
                        shelf.put(fresh)
                        fresh, flushed = {}, perf_counter()
                    known = len(site) - len(missing) + min(done * self.fleet.size, len(missing))
                    self.tell(f"anchors at layer {layer}", known, len(site))
            finally:
                if fresh and (in_pieces or len(fresh) == len(own)):
                    shelf.put(fresh)
            every = self.fleet.rows(mine, self.stacked([stored[names[i]] for i in mine]))
        means = every["parts"].mean(0).tolist()
        self.ledger.anchors[layer] = dict(zip(("loss", "nll", "kl", "evaluations"), means, strict=True))
        self.ledger.anchors[layer]["stored"] = len(site) - len(missing)
        return every["state"]

    def stacked(self, anchors: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """States and parts of the loss of many anchors; of none, empty."""
        states = [anchor["state"] for anchor in anchors] or [torch.empty(0, self.decoder.width)]
        parts = [anchor["parts"] for anchor in anchors] or [torch.empty(0, 4)]
        join = torch.stack if anchors else torch.cat
        return {"state": join(states).to(self.decoder.device, self.decoder.precision), "parts": join(parts)}


def averaged(keys: Float[Tensor, "prompt inner"], contexts: Contexts) -> Float[Tensor, "fact inner"]:
    """Keys of all prompts, context by context within each fact, to one key per fact: a two-level mean (method 1.4)."""
    weights = torch.tensor(contexts.weights, dtype=keys.dtype, device=keys.device)
    by_fact = keys.unflatten(0, (len(keys) // len(weights), len(weights)))
    return torch.einsum("c,fci->fi", weights, by_fact)


def bare_of(keys: Float[Tensor, "prompt inner"], contexts: Contexts) -> Float[Tensor, "fact inner"]:
    """Of all prompts' keys those of the bare prompts, which come first in each fact."""
    return keys[:: len(contexts.templates)]


class _Way:
    """How far each layer still is from its target, relative to how far it was when the target was set."""

    def __init__(self, targets: Targets, states: dict[int, Tensor]) -> None:
        self.targets, self.states = targets, states
        self.first = {layer: self._distance(layer) for layer in targets}

    def begin(self, layer: int, state: Tensor) -> None:
        self.states[layer] = state
        self.first[layer] = self._distance(layer)

    def go_on(self, states: dict[int, Tensor]) -> None:
        self.states.update(states)

    def remaining(self) -> dict[int, float]:
        """Layer -> mean of the ratio over facts that had a way to go; an anchor that stopped at once had none."""
        return {layer: self._ratio(layer) for layer in sorted(self.first)}

    def _ratio(self, layer: int) -> float:
        first = self.first[layer]
        had_a_way = first > ARRIVED * torch.linalg.vector_norm(self.targets[layer], dim=-1)
        ratios = (self._distance(layer) / first)[had_a_way]
        return float(ratios.mean()) if len(ratios) else 0.0

    def _distance(self, layer: int) -> Tensor:
        return torch.linalg.vector_norm(self.targets[layer] - self.states[layer], dim=-1)


def _notes(decoder: Decoder, site: Site) -> list[str]:
    if not site.at_start:
        return []
    return [
        f"{len(site.at_start)} of {len(site)} facts have their decisive token at position 0, where {decoder.name} "
        "has no BOS in front: an attention sink, whose state is an outlier. Edits of these may misbehave."
    ]


def place_name(fact: Fact, place: FactSite) -> str:
    """A hash of a fact's text and of all tokens it is read as: in every context, as essence, and its target."""
    prompts = [[prompt.ids, prompt.decisive] for prompt in (*place.prompts, place.essence)]
    tokens = json.dumps([fact.prompt, fact.subject, fact.target_new, prompts, place.target])
    return blake2b(tokens.encode(), digest_size=16).hexdigest()
