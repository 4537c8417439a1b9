"""Batches: a schedule's sweeps one after another, taken up where they were left, and watched by a guard."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields

import torch
from torch import Tensor

from errata.decoder.site import Site
from errata.delta import WeightDelta
from errata.editors.anchors import from_tensors, names_of, state_of, to_tensors
from errata.editors.base import Ledger
from errata.editors.guard import Watch
from errata.editors.schedule import Checkpoint, Schedule, under
from errata.editors.sweep import Sweep
from errata.targets import Targets

LISTED = 3
"""Facts that a note names."""


class Batches:
    """All batches of a schedule. Those that the store has done already are taken from it.

    `made_of`: what the run follows from besides the model as it is, the facts, the schedule and the guard.
    """

    def __init__(
        self, sweep: Sweep, site: Site, schedule: Schedule, layers: Sequence[int], made_of: Mapping[str, object]
    ) -> None:
        self.sweep, self.site, self.schedule, self.layers = sweep, site, schedule, layers
        self.supplies, self.decoder = sweep.supplies, sweep.supplies.decoder
        self.guard = self.supplies.guard
        self.made_of = {
            **state_of(self.decoder),
            **made_of,
            "contexts": site.contexts.groups,
            "facts": names_of(site),
            "kept": WeightDelta("", {str(layer): keys for layer, keys in sweep.solver.keys.items()}).digest,
            "guard": None if self.guard is None else asdict(self.guard),
            **asdict(schedule),
        }

    def run(self) -> int:
        """Returns the number of facts edited: all, unless the guard stopped the run. Raises Collapsed."""
        sweep, site, fleet = self.sweep, self.site, self.supplies.fleet
        batches = self.schedule.portions(len(site))
        original = self._original_targets() if self.schedule.targets == "original" else None
        several = len(batches) > 1
        checkpoint = Checkpoint(self.supplies.store, "sweeps", self.made_of) if several and fleet.leads else None
        watch = Watch(self.guard, self.decoder) if self.guard and fleet.leads else None
        first = self._resumed(checkpoint) if several else 0
        if not first:
            self._note_sinks()
            self._note_spans()
            self._note_stems(batches)
        edited = len(site)
        for number, batch in enumerate(batches[first:], first):
            part, before = site.part(batch), sweep.mark()
            in_pieces = not several
            targets = sweep.targets_of(part, in_pieces) if original is None else _rows(original, batch)
            sweep.over(part, targets, number, in_pieces)
            if self.guard and (limit := self._limit_crossed(watch, number)):
                sweep.go_back(before)
                edited = batch.start
                if watch:
                    watch.stop(limit, edited, len(batches), sweep.ledger.notes)
                break
            if checkpoint:
                ledger = torch.tensor(list(json.dumps(sweep.ledger.to_json()).encode()), dtype=torch.uint8)
                checkpoint.keep(self._state() | {"batches": torch.tensor(number + 1), "ledger": ledger})
            self.supplies.tell("batches", number + 1, len(batches))
        self._finish()
        return edited

    def _original_targets(self) -> Targets:
        """Targets of all facts on the unedited model, whatever edit the run goes on from."""
        self.decoder.restore()
        targets = self.sweep.targets_of(self.site)
        self.decoder.set_change(self.sweep.total)
        return targets

    def _limit_crossed(self, watch: Watch | None, batch: int) -> str | None:
        """The limit of the guard that the model crosses, if any, as the leading rank sees it."""
        names = {self.decoder.parameter_name(layer): layer for layer in self.layers}
        changes = {names[name]: change for name, change in self.sweep.total.changes.items() if name in names}
        health = self.sweep.ledger.health
        limit = self.supplies.fleet.tell(lambda: watch.look(batch, changes, health) if watch else None)
        return None if limit is None else str(limit)

    def _state(self) -> dict[str, Tensor]:
        """What the sweeps have come to, by name."""
        sweep = self.sweep
        tensors = {f"change/{name}": change for name, change in sweep.total.changes.items()}
        tensors |= {f"keys/{layer}": keys for layer, keys in sweep.solver.keys.items()}
        tensors |= {f"targets/{layer}": targets for layer, targets in sweep.targets.items()}
        return tensors | {f"anchors/{name}": value for name, value in to_tensors(sweep.anchors.kept).items()}

    def _resumed(self, checkpoint: Checkpoint | None) -> int:
        """Take up what the store holds of this very run; returns the number of batches that are done."""
        state = self.supplies.fleet.lead(lambda: (checkpoint and checkpoint.state()) or {})
        if not state:
            return 0
        changes = {name: change.to(self.decoder.device) for name, change in under("change/", state).items()}
        keys, targets = (
            {int(layer): rows for layer, rows in under(f"{what}/", state).items()} for what in ("keys", "targets")
        )
        total = WeightDelta(self.decoder.fingerprint, changes)
        self.sweep.go_back((total, keys, targets, from_tensors(under("anchors/", state))))
        done, ledger = int(state["batches"]), self.sweep.ledger
        earlier = Ledger.from_json(json.loads(bytes(state["ledger"].tolist())))
        for field in fields(Ledger):
            setattr(ledger, field.name, getattr(earlier, field.name))
        ledger.notes.append(f"the first {done} batches were done by an earlier run and taken from the store")
        return done

    def _note_sinks(self) -> None:
        site = self.site
        if site.at_start:
            self.sweep.ledger.notes.append(
                f"{len(site.at_start)} of {len(site)} facts have their decisive token at position 0, where "
                f"{self.decoder.name} has no BOS in front: an attention sink, whose state is an outlier. Edits of "
                "these may misbehave."
            )

    def _note_spans(self) -> None:
        if facts := [self.site.facts[i] for i in self.site.spanning]:
            listed = ", ".join(repr(fact.text) for fact in facts[:LISTED]) + ", ..." * (len(facts) > LISTED)
            self.sweep.ledger.notes.append(
                f"in {len(facts)} of {len(self.site)} facts the token with the subject's last character also holds "
                f"what follows the subject, and was taken for its last: {listed}"
            )

    def _note_stems(self, batches: Sequence[range]) -> None:
        """Of facts on one key those in different batches overwrite each other: no joint anchor is sought."""
        batch_of = {i: number for number, batch in enumerate(batches) for i in batch}
        apart = [stem for stem in self.site.stems if len({batch_of[i] for i in stem}) > 1]
        if apart:
            texts = [" and ".join(repr(self.site.facts[i].text) for i in stem) for stem in apart[:LISTED]]
            self.sweep.ledger.notes.append(
                f"facts on one key are edited in different batches, so that the later ones overwrite the earlier: "
                f"{'; '.join(texts)}{'; ...' * (len(apart) > LISTED)}. Edit them in one batch."
            )

    def _finish(self) -> None:
        """What the solver makes of the whole change in the end; most leave it as it is."""
        decoder, sweep = self.decoder, self.sweep
        if worst := max((row.rounding for row in sweep.ledger.rows), default=0.0):
            sweep.ledger.notes.append(
                f"rounding the edited weights to {str(decoder.dtype).removeprefix('torch.')} moves the outputs at the "
                f"facts' keys by up to {worst:.1%} of what the update moves them; the saved edit keeps it unrounded"
            )
        names = {decoder.parameter_name(layer): layer for layer in self.layers}

        def altered() -> dict[str, Tensor]:
            totals = {name: change for name, change in sweep.total.changes.items() if name in names}
            finish, original = sweep.solver.solver.finish, decoder.original
            ends = {name: finish(change, original(names[name]).to(change)) for name, change in totals.items()}
            return {name: end for name, end in ends.items() if end is not totals[name]}

        if changes := self.supplies.fleet.lead(altered):
            sweep.total = WeightDelta(decoder.fingerprint, {**sweep.total.changes, **changes})
            decoder.set_change(sweep.total)


def _rows(targets: Targets, facts: Sequence[int]) -> Targets:
    return {layer: states[list(facts)] for layer, states in targets.items()}
