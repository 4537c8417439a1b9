"""Anchors at hand: looked up in the store and in an earlier edit, else optimised, and kept."""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import blake2b
from time import perf_counter

import torch
from jaxtyping import Float
from torch import Tensor

from errata.decoder.decoder import Decoder
from errata.decoder.frontier import Frontier
from errata.decoder.reach import Reach
from errata.decoder.site import FactSite, Site
from errata.editors.base import Ledger
from errata.editors.supplies import Supplies
from errata.fact import Fact
from errata.store import canonical
from errata.targets import AnchorSettings, Search, optimise_anchors

Kept = dict[str, dict[str, Tensor]]
"""Hash of what an anchor was made of, the fact among it -> its `state` and the `parts` of its loss."""

FLUSH_SECONDS = 2.0
UNMET = 0.7
"""NLL above which a target is less likely than not: its anchor does not satisfy the fact."""


class Anchors:
    """The anchors of one run, and those of the edit it goes on from."""

    def __init__(
        self,
        settings: AnchorSettings,
        search: Search,
        supplies: Supplies,
        ledger: Ledger,
        reach: Mapping[int, Reach] | None = None,
    ) -> None:
        """`reach`: layer -> how its output reaches the stream, for a search in the stream."""
        self.settings, self.supplies, self.ledger = settings, supplies, ledger
        self._search, self.reach = search, reach or {}
        self.kept: Kept = {}
        self._saved = from_tensors(supplies.anchors)

    def at(self, site: Site, layer: int, in_pieces: bool) -> Float[Tensor, "fact model"]:
        """Anchors of all facts at a layer on the model as it is now.

        Where a norm stands behind the layer's down-projection, what is sought and stored is an output of that in front
        of the norm, and the anchor is the state of the stream that it leads to (method 1.9).

        `in_pieces`: those optimised are stored as they come, else all at once when they are complete. Their last bits
        depend on which facts they are optimised beside, so only complete ones let a run in batches that was killed go
        on to the very same weights.
        """
        fleet, search = self.supplies.fleet, self._search_at(layer)
        made_of = self._made_of(site, layer, search)
        shelf, seal = self.supplies.store.shelf("anchors", made_of), canonical(made_of)
        names, stems = stem_names(site), site.stems
        keys = [blake2b(f"{seal}\0{name}".encode(), digest_size=16).hexdigest() for name in names]
        stored = shelf.get(names)
        saved = ChainMap(self.kept, self._saved)
        stored |= {name: saved[key] for name, key in zip(names, keys, strict=True) if key in saved}
        had = [at for at, stem in enumerate(stems) if all(names[i] in stored for i in stem)]
        owner, missing = fleet.owners(had, len(stems))
        mine = sorted(i for stem, rank in zip(stems, owner, strict=True) if rank == fleet.rank for i in stem)
        unknown = {i for at in missing for i in stems[at]}
        fresh: dict[str, dict[str, Tensor]] = {}
        flushed = perf_counter()
        with self.ledger.timed("anchors"):
            own = [i for i in mine if i in unknown]
            optimised = optimise_anchors(self.supplies.decoder, site, layer, self.settings, own, search=search)
            try:
                for done, (i, anchor) in enumerate(optimised, 1):
                    parts = torch.tensor([anchor.loss, anchor.nll, anchor.kl, float(anchor.evaluations)])
                    fresh[names[i]] = stored[names[i]] = {"state": anchor.state, "parts": parts}
                    if in_pieces and perf_counter() - flushed > FLUSH_SECONDS:
                        shelf.put(fresh)
                        fresh, flushed = {}, perf_counter()
                    known = len(site) - len(unknown) + min(done * fleet.size, len(unknown))
                    self.supplies.tell(f"anchors at layer {layer}", known, len(site))
            finally:
                if fresh and (in_pieces or len(fresh) == len(own)):
                    shelf.put(fresh)
            every = fleet.rows(mine, stacked(self.supplies.decoder, [stored[names[i]] for i in mine]))
        for key, state, parts in zip(keys, every["state"].cpu(), every["parts"], strict=True):
            self.kept[key] = {"state": state, "parts": parts}
        self.ledger.anchor_nll.setdefault(layer, []).extend(every["parts"][:, 1].tolist())
        means = dict(zip(("loss", "nll", "kl", "evaluations"), every["parts"].mean(0).tolist(), strict=True))
        self.ledger.anchors[layer] = means | {"stored": len(site) - len(unknown)}
        self._note_unmet(site, layer, every["parts"][:, 1].tolist())
        return every["state"] if search is self._search else self._lifted(site, layer, every["state"])

    def _note_unmet(self, site: Site, layer: int, losses: Sequence[float]) -> None:
        """Say which facts of one stem their joint anchor does not satisfy."""
        for stem in site.stems:
            unmet = [site.facts[i] for i in stem if losses[i] > UNMET]
            if unmet and len(stem) > 1:
                listed = ", ".join(f"{fact.text!r} -> {fact.target_new!r}" for fact in unmet)
                self.ledger.notes.append(
                    f"layer {layer}: no joint anchor was found for the {len(stem)} facts on one key; unlikely to hold: "
                    f"{listed}. Word them so that the subject does not come first, or edit fewer of them."
                )

    def _search_at(self, layer: int) -> Search:
        """In front of a norm there is only the output to move; its length is lost, so it needs no room."""
        behind_norm = layer in self.reach and self.reach[layer].norm is not None
        return replace(self._search, space="mlp", alone=True) if behind_norm else self._search

    def _lifted(self, site: Site, layer: int, wanted: Float[Tensor, "fact model"]) -> Float[Tensor, "fact model"]:
        """The states of the stream that outputs of a layer lead to."""
        fleet, decoder = self.supplies.fleet, self.supplies.decoder
        mine = fleet.part(len(site))
        bare = Frontier(decoder, site.part(mine).bare)
        now = {space: bare.states([layer], space=space)[layer] for space in ("mlp", "block")}
        every = fleet.rows(mine, now)
        return self.reach[layer].lifted(wanted, every["mlp"], every["block"])

    def _made_of(self, site: Site, layer: int, search: Search) -> dict[str, object]:
        settings = {"layer": layer, "space": search.space, "settings": asdict(self.settings), **search.departures}
        return state_of(self.supplies.decoder) | settings | {"contexts": site.contexts.groups}


def state_of(decoder: Decoder) -> dict[str, object]:
    """What model this is, as it is now."""
    change = decoder.change
    return {"model": decoder.identity.key, "change": change.digest if change else None}


def names_of(site: Site) -> list[str]:
    """The name of each fact in the store."""
    return [place_name(fact, place) for fact, place in zip(site.facts, site, strict=True)]


def stem_names(site: Site) -> list[str]:
    """The names under which the facts' anchors are kept: of a fact that shares its stem, a hash of all that do."""
    names = names_of(site)
    for stem in site.stems:
        if len(stem) > 1:
            together = sorted(names[i] for i in stem)
            for i in stem:
                names[i] = blake2b("\0".join([names[i], *together]).encode(), digest_size=16).hexdigest()
    return names


def place_name(fact: Fact, place: FactSite) -> str:
    """A hash of a fact's text and of all tokens it is read as: in every context, as essence, and its target."""
    prompts = [[prompt.ids, prompt.decisive] for prompt in (*place.prompts, place.essence)]
    tokens = json.dumps([fact.prompt, fact.subject, fact.target_new, prompts, place.target])
    return blake2b(tokens.encode(), digest_size=16).hexdigest()


def stacked(decoder: Decoder, anchors: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """States and parts of the loss of many anchors; of none, empty."""
    states = [anchor["state"] for anchor in anchors] or [torch.empty(0, decoder.width)]
    parts = [anchor["parts"] for anchor in anchors] or [torch.empty(0, 4)]
    join = torch.stack if anchors else torch.cat
    return {"state": join(states).to(decoder.device, decoder.precision), "parts": join(parts)}


def to_tensors(kept: Kept) -> dict[str, Tensor]:
    """Anchors as three tensors: names [anchor, 16] as bytes, states [anchor, model], parts [anchor, 4]."""
    if not kept:
        return {}
    names = torch.tensor([list(bytes.fromhex(name)) for name in kept], dtype=torch.uint8)
    states, parts = (torch.stack([anchor[part] for anchor in kept.values()]) for part in ("state", "parts"))
    return {"names": names, "states": states, "parts": parts}


def from_tensors(tensors: Mapping[str, Tensor]) -> Kept:
    """The inverse of `to_tensors`."""
    if not tensors:
        return {}
    names = [bytes(name).hex() for name in tensors["names"].tolist()]
    both = zip(tensors["states"], tensors["parts"], strict=True)
    return {name: {"state": state, "parts": parts} for name, (state, parts) in zip(names, both, strict=True)}
