"""Supplies: what an edit draws on besides the facts, for one model: contexts, statistics, practice, a guard."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from errata.decoder.contexts import generate_contexts, generate_texts
from errata.decoder.corpus import Corpus, gather
from errata.decoder.decoder import Decoder
from errata.decoder.neighbours import written_neighbours
from errata.decoder.self_written import write_texts
from errata.decoder.site import Contexts
from errata.editors.guard import Guard
from errata.editors.lesson import Practice
from errata.editors.source import OWN_PER_DIMENSION, Source, stored_sources
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
        self.earlier: Mapping[str, Any] | None = None
        """What the statistics of the edit that is gone on from were made of."""
        self._sampled: dict[tuple[str, int], Contexts] = {}
        self._gathered: dict[str, dict[int, KeyStatistics]] = {}
        self._sources: dict[str, Source] = {}

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
        """Key statistics of layers: as given, from the store, or gathered and stored; see `source`.

        In a fleet the leading rank has them, since it solves; the others have none. Raises StatisticsError.
        """
        layers = sorted(set(layers))
        if self.given_statistics is not None:
            statistics = self.given_statistics if self.fleet.leads else {}
        else:
            shrinkage = self.shrinkage(layers)
            made_of = repr((self.origin(layers), shrinkage))
            if made_of not in self._gathered:
                made = self._stored_or_gathered(layers)
                self._gathered.clear()  # a set may be larger than the model: only the last is kept
                self._gathered[made_of] = {layer: one.shrunk(shrinkage) for layer, one in made.items()}
            statistics = self._gathered[made_of]
        if self.fleet.leads:
            check_statistics(self.decoder, statistics, layers)
        return {layer: statistics[layer] for layer in layers if layer in statistics}

    def stored_statistics(self, layers: Sequence[int]) -> dict[int, KeyStatistics]:
        """Those of these layers' statistics that the store holds, of this model and `source`."""
        source = self.source(layers)
        held = {n: self.store.get("statistics", source.made_of(self.decoder.identity.key, n)) for n in layers}
        return {n: KeyStatistics.from_tensors(tensors) for n, tensors in held.items() if tensors is not None}

    def shrinkage(self, layers: Sequence[int]) -> float:
        """What share of their moments is replaced by the diagonal: the recipe's, or the source's if that is more."""
        return max(self.recipe.statistics.shrinkage, self.source(layers).least_shrinkage)

    def origin(self, layers: Sequence[int]) -> dict[str, object]:
        """What the statistics of layers are made of."""
        return self.source(layers).made_of(self.decoder.identity.key, layers)

    def source(self, layers: Sequence[int]) -> Source:
        """The text that the statistics of these layers come from: the corpus that is named; without one that of the
        earlier edit, or the largest sample in the store, if that is large enough; else what the model writes."""
        asked = repr(
            (self.decoder.identity.key, layers, self.recipe.statistics, self.corpus and self.corpus.name, self.earlier)
        )
        if asked not in self._sources:
            self._sources[asked] = Source(**self.fleet.tell(lambda: asdict(self._source(layers))))
        return self._sources[asked]

    def _source(self, layers: Sequence[int]) -> Source:
        wanted = self.recipe.statistics
        usual = wanted.per_dimension * max(self.decoder.inner(layer) for layer in layers)
        tokens = usual if wanted.tokens is None else wanted.tokens
        if self.given_statistics is not None or self.corpus is not None:
            name, reason = (self.corpus.name, "named") if self.corpus else ("unknown", "given")
            return Source(name, tokens, wanted.max_length, reason)  # type: ignore[arg-type]
        few = min(wanted.per_dimension, OWN_PER_DIMENSION) * max(self.decoder.inner(layer) for layer in layers)
        own = Source.self_written(self.recipe.context_seed, wanted.tokens or few, wanted.max_length)
        stored = stored_sources(self.store, self.decoder.identity.key, layers)
        lost = None
        if self.earlier is not None and self.earlier.keys() >= {"corpus", "tokens", "max_length"}:
            earlier = Source.of(self.earlier, "earlier")
            if earlier.seed is not None or any(earlier.same_text(source) for source in stored):
                return earlier
            lost = str(earlier)
        chosen = next((source for source, size in stored.items() if size >= own.tokens), own)
        return replace(chosen, instead_of=lost)

    def _stored_or_gathered(self, layers: Sequence[int]) -> dict[int, KeyStatistics]:
        statistics = self.stored_statistics(layers) if self.fleet.leads else {}
        missing = self.fleet.tell(lambda: [layer for layer in layers if layer not in statistics])
        if not missing:
            return statistics
        source = self.source(layers)
        corpus = self._corpus_of(source)
        sample = source.tokens, source.max_length
        with self.decoder.unedited():
            fresh = gather(self.decoder, corpus, missing, *sample, lambda *at: self.tell("statistics", *at), self.fleet)
        for layer, value in fresh.items():
            self.store.put("statistics", source.made_of(self.decoder.identity.key, layer), value.to_tensors())
        return statistics | fresh

    def _corpus_of(self, source: Source) -> Corpus:
        """The text itself. Raises StatisticsError if it is not at hand."""
        if self.corpus is not None and self.corpus.name == source.corpus:
            return self.corpus
        seed = source.seed
        if seed is None:
            raise StatisticsError(
                f"{self.decoder.name}: the statistics of {source} are no longer in the store; give the corpus: --corpus"
            )
        made_of: dict[str, object] = {"model": self.decoder.identity.key, "corpus": source.corpus}
        texts = self._of_unedited(lambda: self._written(source.tokens, seed, made_of))
        return Corpus(source.corpus, lambda: iter(texts))

    def _written(self, tokens: int, seed: int, made_of: Mapping[str, object]) -> list[str]:
        """What the model writes, kept: other layers' statistics are gathered from the same text."""
        held = self.store.get("texts", made_of)
        if held is not None:
            return list(json.loads(bytes(held["json"].tolist())))
        texts = write_texts(self.decoder, tokens, seed, lambda *at: self.tell("text for statistics", *at))
        self.store.put("texts", made_of, {"json": torch.tensor(list(json.dumps(texts).encode()), dtype=torch.uint8)})
        return texts

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
