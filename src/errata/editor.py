"""Editor: the face. A model, a method, and what the method needs, ready to edit."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedModel

from errata.decoder.contexts import generate_contexts
from errata.decoder.corpus import Corpus, gather
from errata.decoder.decoder import Decoder
from errata.decoder.site import Contexts
from errata.editors.base import Edit, Ledger, Outcome, Progress
from errata.editors.guard import Guard
from errata.editors.lesson import Practice
from errata.editors.locate_then_edit import check_statistics
from errata.editors.saved import load_edit
from errata.editors.schedule import Schedule
from errata.editors.wise import own_sentences
from errata.errors import StatisticsError, UnusableFacts
from errata.evaluate import Case, Scores, probes
from errata.evaluate import evaluate as score
from errata.fact import Fact
from errata.fleet import SOLO, Fleet
from errata.methods import check_names
from errata.methods import method as row_of
from errata.recipe import Recipe, recipe_for
from errata.record.run import versions
from errata.statistics import KeyStatistics
from errata.store import Store

HELD_OUT = 20
"""Texts that a guard without any of its own watches."""


class Editor:
    """Edits a decoder by one method. Statistics, contexts and anchors come from the store where it has them."""

    def __init__(
        self,
        decoder: Decoder,
        method: str = "memit+fe",
        *,
        recipe: str | Path | Recipe | None = None,
        corpus: Corpus | str | Path | Iterable[str] | None = None,
        statistics: Mapping[int, KeyStatistics] | None = None,
        contexts: Contexts | None = None,
        practice: Sequence[Case] = (),
        guard: Guard | None = None,
        store: Store | None = None,
        progress: Progress | None = None,
        fleet: Fleet = SOLO,
    ) -> None:
        """`corpus`: where key statistics are gathered if neither given nor stored: texts, a file, or a dataset
        name. `contexts` None: sampled from the unedited model with the recipe's seed. `practice`: cases from which
        a method that has to learn how to edit does so; none of them may be evaluated. `guard`: limits at
        which an edit in batches stops; without texts of its own it is given some. `store` None: the default.
        `fleet`: the processes that share the work; every one of them calls the same things in the same order.

        Raises UnknownMethod, UnknownName, BadRecipe, WindowOutside.
        """
        self.decoder, self.method = decoder, method
        self.recipe = recipe_for(decoder, recipe)
        self.store = store or Store.default()
        self.progress = progress
        self.fleet = fleet
        row = row_of(method)
        check_names(self.recipe)
        self._batch = row.batch
        self.pipeline = row.pipeline(self.recipe, decoder.depth)
        self._given = statistics
        self._contexts = contexts
        self._practice = practice
        self._guard = guard
        self.corpus = _corpus(self.recipe.statistics.corpus if corpus is None else corpus)
        decoder.check_window(self.pipeline.edited)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | PreTrainedModel,
        method: str = "memit+fe",
        *,
        tokenizer: Any = None,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> Editor:
        """From a checkpoint folder or hub name, or from a model already in memory with its tokenizer."""
        if isinstance(model, PreTrainedModel):
            return cls(Decoder(model, tokenizer), method, **options)
        decoder = Decoder.from_pretrained(model, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        return cls(decoder, method, **options)

    @cached_property
    def contexts(self) -> Contexts:
        """The context prefixes, always of the unedited model."""
        if self._contexts is not None:
            return self._contexts

        def groups() -> Any:
            with self.decoder.unedited():
                return generate_contexts(self.decoder, self.recipe.context_seed).groups

        return Contexts(tuple(tuple(group) for group in self.fleet.tell(groups)))

    @cached_property
    def practice(self) -> list[Practice]:
        """The cases to learn editing from. Raises UnusableFacts if there are none."""
        if not self._practice:
            raise UnusableFacts(
                [f"{self.method} learns how to edit from cases that are not evaluated; give some: --practice FILE"]
            )
        return [_practice(case) for case in self._practice]

    @cached_property
    def guard(self) -> Guard | None:
        """The guard, with texts to watch: its own, the corpus's first, or what the unedited model itself says."""
        if self._guard is None or self._guard.texts:
            return self._guard
        if self.corpus is not None:
            texts = list(islice(self.corpus.texts(), HELD_OUT))
        else:
            with self.decoder.unedited():
                texts = own_sentences(self.decoder, HELD_OUT, self.recipe.context_seed)
        return replace(self._guard, texts=texts)

    def statistics(self) -> dict[int, KeyStatistics]:
        """Key statistics of the layers to be edited: as given, from the store, or gathered and stored.

        In a fleet the leading rank has them, since it solves; the others have none.

        Raises StatisticsError if they are neither given nor stored and there is no corpus.
        """
        layers = sorted(set(self.pipeline.edited))
        if self._given is not None and not self.fleet.leads:
            return {}
        if self._given is not None:
            check_statistics(self.decoder, self._given, layers)
            return {layer: self._given[layer] for layer in layers}
        found = {layer: self.stored_statistics(layer) for layer in layers if self.fleet.leads}
        missing = self.fleet.tell(lambda: [layer for layer, value in found.items() if value is None])
        if missing:
            if self.corpus is None:
                raise StatisticsError(
                    f"{self.decoder.name}: no key statistics for layers {missing} in the store, and no corpus to "
                    "gather them from. Give a text file or a dataset name: --corpus FILE or "
                    "--corpus wikimedia/wikipedia:20231101.en"
                )
            wanted = self.recipe.statistics

            def tell(done: int, total: int) -> None:
                if self.progress:
                    self.progress("statistics", done, total)

            with self.decoder.unedited():
                sample = (wanted.tokens, wanted.max_length)
                fresh = gather(self.decoder, self.corpus, missing, *sample, tell, self.fleet)
            for layer, value in fresh.items():
                found[layer] = value
                self.store.put("statistics", self._origin(layer), value.to_tensors())
        return {layer: value for layer, value in found.items() if value is not None}

    def stored_statistics(self, layer: int) -> KeyStatistics | None:
        """The statistics of a layer that the store holds for this model, corpus and sample; None if it has none."""
        tensors = self.store.get("statistics", self._origin(layer))
        return None if tensors is None else KeyStatistics.from_tensors(tensors)

    @torch.inference_mode(False)  # anchors and training need gradients, whatever mode the caller is in
    def edit(
        self,
        facts: Sequence[Fact],
        *,
        batch: int | None = None,
        targets: Literal["current", "original"] = "current",
        remember: bool = True,
        past: Edit | None = None,
    ) -> Outcome:
        """Make the model believe the facts. The model is edited when this returns.

        All at once, or `batch` at a time (see Schedule), or as the method's row says. `past`: an edit to go on
        from; the outcome's edit then holds both. Raises UnusableFacts, AlreadyEdited, StatisticsError, SolveError;
        the model is then as before.
        """
        self.decoder.identify()
        if past is None:
            self.decoder.check_unedited()
        else:
            past = past.fitted_to(self.decoder)
        schedule = Schedule(self._batch if batch is None else batch, targets, remember)
        shared = self.pipeline.shared or self.fleet.size == 1
        run = self.pipeline.run if shared else self._led
        outcome = run(self.decoder, facts, self, schedule, past)
        known = [*(past.facts if past else []), *outcome.facts]
        return replace(outcome, edit=replace(outcome.edit, manifest=self._manifest(known, schedule)))  # type: ignore[type-var]

    def evaluate(self, cases: Sequence[Case], *families: str) -> Scores:
        """Scores of the model as it is now, edited or not, by families of probes (all without any named)."""
        return score(self.decoder, cases, probes(*families), self.progress, self.fleet)

    def restore(self) -> None:
        """Take any edit off, bit for bit."""
        self.decoder.restore()

    def _led(
        self, decoder: Decoder, facts: Sequence[Fact], supplies: Editor, schedule: Schedule, past: Edit | None
    ) -> Outcome:
        """`pipeline.run` on the leading rank alone; the others put the edit on that it made."""
        fleet, led = self.fleet, self.fleet.leads
        if "contexts" in self.pipeline.needs:
            _ = self.contexts
        if "statistics" in self.pipeline.needs:
            self.statistics()
        outcomes: list[Outcome] = []

        def work() -> dict[str, torch.Tensor]:
            self.fleet = SOLO
            try:
                outcomes.append(self.pipeline.run(decoder, facts, supplies, schedule, past))
            finally:
                self.fleet = fleet
            with tempfile.TemporaryDirectory() as folder:
                made = Path(folder) / "edit"
                outcomes[0].edit.save(made)
                return {file.name: torch.from_numpy(np.fromfile(file, dtype=np.uint8)) for file in made.iterdir()}

        files = fleet.lead(work)
        edited = fleet.tell(lambda: len(outcomes[0].facts))
        if led:
            return outcomes[0]
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content.numpy().tobytes())
            edit = load_edit(folder)
            edit.put_on(decoder)
            return Outcome(edit, Ledger(), decoder, tuple(facts[:edited]))

    def _origin(self, layer: int) -> dict[str, object]:
        wanted = self.recipe.statistics
        return {
            "model": self.decoder.identity.key,
            "layer": layer,
            "corpus": self.corpus.name if self.corpus else "unknown",
            "tokens": wanted.tokens,
            "max_length": wanted.max_length,
        }

    def _manifest(self, facts: Sequence[Fact], schedule: Schedule) -> dict[str, Any]:
        made: dict[str, Any] = {
            "model": self.decoder.name,
            "identity": self.decoder.described().to_json(),
            "dtype": str(self.decoder.dtype).removeprefix("torch."),
            "method": self.method,
            **self.pipeline.describe(),
            "schedule": asdict(schedule),
            "recipe": self.recipe.to_json(),
        }
        if "contexts" in self.pipeline.needs:
            made["contexts"] = self.contexts.groups
        if "statistics" in self.pipeline.needs:
            layers = sorted(set(self.pipeline.edited))
            made["statistics"] = self._origin(layers[0]) | {"layer": layers}
        if "practice" in self.pipeline.needs:
            made["practice"] = [case.id for case in self._practice]
        return made | {"versions": versions(), "facts": [asdict(fact) for fact in facts]}


def _corpus(source: Corpus | str | Path | Iterable[str] | None) -> Corpus | None:
    if source is None or isinstance(source, Corpus):
        return source
    return Corpus.named(source) if isinstance(source, str | Path) else Corpus.of(source)


def _practice(case: Case) -> Practice:
    answers = case.neighbourhood_answers or (case.target_true,) * len(case.neighbourhood)
    near = tuple((prompt, answer) for prompt, answer in zip(case.neighbourhood, answers, strict=True) if answer)
    return Practice(case.fact, case.paraphrases, near)
