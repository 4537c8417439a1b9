"""Supplies: what an edit draws on besides the facts, for one model: contexts, statistics, practice, a guard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from errata.decoder.contexts import generate_contexts, generate_texts
from errata.decoder.corpus import Corpus, gather
from errata.decoder.decoder import Decoder
from errata.decoder.neighbours import written_neighbours
from errata.decoder.site import Contexts
from errata.editors.guard import Guard
from errata.editors.lesson import Practice
from errata.errors import StatisticsError, UnusableFacts
from errata.fact import Fact
from errata.fleet import SOLO, Fleet
from errata.recipe import Recipe, recipe_for
from errata.statistics import KeyStatistics
from errata.store import Store

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""

NEIGHBOURS = 80
"""Prompts about other subjects that errata writes for the facts of an edit: half to choose by, half to report on."""
HELD_OUT = 20
"""Texts that a guard without any of its own watches."""


class Supplies:
    """What is at hand for edits of one model. Each part is made when it is first asked for, and then kept."""

    def __init__(
        self,
        decoder: Decoder,
        recipe: Recipe | None = None,
        *,
        corpus: Corpus | str | Path | Iterable[str] | None = None,
        statistics: Mapping[int, KeyStatistics] | None = None,
        contexts: Contexts | None = None,
        practice: Sequence[Practice] = (),
        guard: Guard | None = None,
        store: Store | None = None,
        progress: Progress | None = None,
        fleet: Fleet = SOLO,
    ) -> None:
        """`statistics`, `contexts`, `practice`: used in place of what would be gathered, sampled or asked for.
        `recipe` None: the one that lists this model. `corpus`: texts, a file, or a dataset name, where statistics are
        gathered if neither given nor stored; None: the recipe's. `store` None: nothing is kept on disk.
        """
        self.decoder, self.recipe = decoder, recipe or recipe_for(decoder, None)
        self.given_corpus = Corpus.at(corpus)
        self.store, self.progress, self.fleet = store or Store.nowhere(), progress, fleet
        self.given_contexts, self.given_statistics = contexts, statistics
        self._practice, self._guard = practice, guard
        self.anchors: Mapping[str, Tensor] = {}
        self._neighbours: dict[str, list[str]] = {}
        self._sampled: dict[tuple[str, int], Contexts] = {}
        self._gathered: dict[str, dict[int, KeyStatistics]] = {}

    def under(self, recipe: Recipe, practice: Sequence[Practice] = ()) -> Supplies:
        """The same for another recipe; contexts and statistics that both recipes ask for alike are made once."""
        other = copy(self)
        other.recipe, other._practice = recipe, practice
        other.__dict__.pop("corpus", None)  # the other recipe's may be another
        return other

    def in_contexts(self, contexts: Contexts) -> Supplies:
        """The same with these context prefixes."""
        other = copy(self)
        other.given_contexts = contexts
        return other

    def with_anchors(self, anchors: Mapping[str, Tensor]) -> Supplies:
        """The same with the anchors that an edit was saved with: they are not optimised again, store or none."""
        other = copy(self)
        other.anchors = anchors
        return other

    def unguarded(self) -> Supplies:
        """The same without a guard, for edits that are made to be looked at and taken off."""
        other = copy(self)
        other._guard = None
        return other

    def alone(self) -> Supplies:
        """The same for work that this process does by itself."""
        other = copy(self)
        other.fleet = SOLO
        return other

    def tell(self, stage: str, done: int, total: int) -> None:
        """Report how far a stage is."""
        if self.progress:
            self.progress(stage, done, total)

    @cached_property
    def corpus(self) -> Corpus | None:
        """Where statistics are gathered."""
        return self.given_corpus or Corpus.at(self.recipe.statistics.corpus)

    @property
    def contexts(self) -> Contexts:
        """Context prefixes: as given, or sampled from the unedited model with the recipe's seed."""
        if self.given_contexts is not None:
            return self.given_contexts
        seed = self.recipe.context_seed
        made_of = self.decoder.fingerprint, seed
        if made_of not in self._sampled:
            groups = self._of_unedited(lambda: generate_contexts(self.decoder, seed).groups)
            self._sampled[made_of] = Contexts(tuple(tuple(group) for group in groups))
        return self._sampled[made_of]

    @property
    def practice(self) -> Sequence[Practice]:
        """Facts to learn editing from, which are not among those evaluated. Raises UnusableFacts if there are none."""
        if not self._practice:
            raise UnusableFacts(
                ["this method learns how to edit from cases that are not evaluated; give some: --practice FILE"]
            )
        return self._practice

    @property
    def guard(self) -> Guard | None:
        """The guard with texts to watch: its own, the first of a corpus at hand, or what the unedited model writes.

        A corpus that would have to be downloaded is not read for this.
        """
        guard = self._guard
        if guard is None or guard.texts:
            return guard
        if self.corpus is not None and self.corpus.at_hand:
            texts = list(islice(self.corpus.texts(), HELD_OUT))
        else:
            texts = self._of_unedited(lambda: generate_texts(self.decoder, HELD_OUT, self.recipe.context_seed))
        self._guard = replace(guard, texts=tuple(texts))
        return self._guard

    def neighbours(self, facts: Sequence[Fact]) -> list[str]:
        """Prompts about other subjects that errata writes for these facts, the same ones for the same facts."""
        made_of = repr([asdict(fact) for fact in facts])
        if made_of not in self._neighbours:
            seed = self.recipe.context_seed
            write = partial(written_neighbours, self.decoder, facts, NEIGHBOURS, seed)
            self._neighbours[made_of] = list(self._of_unedited(write))
        return self._neighbours[made_of]

    @property
    def sampled_tokens(self) -> int | None:
        """Of how many tokens the statistics at hand are, None if none are."""
        held = self.given_statistics or next(iter(self._gathered.values()), None) or {}
        return max((one.count for one in held.values()), default=0) or None

    def statistics(self, layers: Sequence[int]) -> dict[int, KeyStatistics]:
        """Key statistics of layers: as given, from the store, or gathered and stored.

        In a fleet the leading rank has them, since it solves; the others have none. Raises StatisticsError if they
        are neither given nor stored and there is no corpus.
        """
        layers = sorted(set(layers))
        if self.given_statistics is not None:
            statistics = self.given_statistics if self.fleet.leads else {}
        else:
            made_of = repr(self.origin(layers))
            if made_of not in self._gathered:
                made = self._stored_or_gathered(layers)
                self._gathered.clear()  # a set may be larger than the model: only the last is kept
                self._gathered[made_of] = made
            statistics = self._gathered[made_of]
        if self.fleet.leads:
            check_statistics(self.decoder, statistics, layers)
        return {layer: statistics[layer] for layer in layers if layer in statistics}

    def stored_statistics(self, layer: int) -> KeyStatistics | None:
        """The statistics of a layer that the store holds for this model, corpus and sample; None if it has none."""
        tensors = self.store.get("statistics", self.origin(layer))
        return None if tensors is None else KeyStatistics.from_tensors(tensors)

    def origin(self, layer: int | Sequence[int]) -> dict[str, object]:
        """What the statistics of a layer, or of several, are made of."""
        wanted = self.recipe.statistics
        return {
            "model": self.decoder.identity.key,
            "layer": layer,
            "corpus": self.corpus.name if self.corpus else "unknown",
            "tokens": wanted.tokens,
            "max_length": wanted.max_length,
        }

    def _stored_or_gathered(self, layers: Sequence[int]) -> dict[int, KeyStatistics]:
        stored = {layer: self.stored_statistics(layer) for layer in layers if self.fleet.leads}
        statistics = {layer: value for layer, value in stored.items() if value is not None}
        missing = self.fleet.tell(lambda: [layer for layer in layers if layer not in statistics])
        if not missing:
            return statistics
        if self.corpus is None:
            raise StatisticsError(
                f"{self.decoder.name}: no key statistics for layers {missing} in the store, and no corpus to "
                "gather them from. Give a text file or a dataset name: --corpus FILE or "
                "--corpus wikimedia/wikipedia:20231101.en"
            )
        sample = self.recipe.statistics.tokens, self.recipe.statistics.max_length
        with self.decoder.unedited():
            fresh = gather(
                self.decoder, self.corpus, missing, *sample, lambda *at: self.tell("statistics", *at), self.fleet
            )
        for layer, value in fresh.items():
            self.store.put("statistics", self.origin(layer), value.to_tensors())
        return statistics | fresh

    def _of_unedited(self, make: Callable[[], Any]) -> Any:
        """JSON that the leading rank makes with the unedited model, on every rank."""

        def made() -> Any:
            with self.decoder.unedited():
                return make()

        return self.fleet.tell(made)


def check_statistics(decoder: Decoder, statistics: Mapping[int, KeyStatistics], layers: Sequence[int]) -> None:
    """Raises StatisticsError unless there are statistics of the right width for every layer."""
    missing = [layer for layer in layers if layer not in statistics]
    if missing:
        raise StatisticsError(f"no key statistics for layers {missing}; gather them with `errata statistics`")
    for layer in layers:
        statistics[layer].expect(decoder.inner(layer))
