"""Trial: facts, the model they would be edited into, and the settings. What every study starts from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from errata.decoder.corpus import Corpus
from errata.decoder.decoder import Decoder
from errata.decoder.site import Contexts, Site
from errata.delta import WeightDelta
from errata.editor import Editor
from errata.editors.base import Ledger, Progress, WeightEdit
from errata.editors.locate_then_edit import LocateThenEdit
from errata.errors import UnknownName
from errata.fact import Fact
from errata.methods import METHODS
from errata.recipe import Recipe
from errata.statistics import KeyStatistics
from errata.store import Store
from errata.study.watched import Watched
from errata.targets import TargetConstruction, Targets


@dataclass(frozen=True)
class Tried:
    """An edit that was made and taken off again."""

    construction: TargetConstruction
    targets: Targets
    """As the sweep used them: an anchor optimised anew has replaced the earlier one."""
    delta: WeightDelta
    ledger: Ledger


@dataclass(frozen=True)
class Trial:
    """The facts and the model they are edited into. Every study leaves the model as it found it: unedited."""

    decoder: Decoder
    facts: tuple[Fact, ...]
    recipe: Recipe
    corpus: Corpus | str | Path | Iterable[str] | None = None
    given_contexts: Contexts | None = None
    store: Store = field(default_factory=Store.nowhere)
    progress: Progress | None = None

    @property
    def window(self) -> tuple[int, ...]:
        return self.recipe.window

    @cached_property
    def contexts(self) -> Contexts:
        """The context prefixes: as given, or sampled from the unedited model with the recipe's seed."""
        return self.editor("every-layer").contexts

    @cached_property
    def site(self) -> Site:
        """The facts as tokens."""
        return self.decoder.tokens.site(self.facts, self.contexts)

    @cached_property
    def statistics(self) -> dict[int, KeyStatistics]:
        """Key statistics of every layer of the window."""
        return self.editor("every-layer").statistics()

    def tell(self, stage: str, done: int, total: int) -> None:
        """Report how far a stage is."""
        if self.progress:
            self.progress(stage, done, total)

    def under(self, contexts: Contexts) -> Trial:
        """The same with other context prefixes."""
        return replace(self, given_contexts=contexts)

    def editor(self, method: str) -> Editor:
        """An editor by this method, with all that is at hand."""
        return Editor(
            self.decoder,
            method,
            recipe=self.recipe,
            corpus=self.corpus,
            contexts=self.given_contexts,
            store=self.store,
            progress=self.tell,
        )

    def pipeline(self, method: str) -> LocateThenEdit:
        """A method's construction and solver, set as the recipe says. Raises UnknownName if it has none."""
        found = self.editor(method).pipeline
        if not isinstance(found, LocateThenEdit):
            known = [name for name in METHODS if isinstance(self.editor(name).pipeline, LocateThenEdit)]
            raise UnknownName("locate-then-edit method", method, known)
        return found

    def edit(self, method: str | LocateThenEdit) -> Tried:
        """Edit all facts at once, note what came of it, and take the edit off again."""
        pipeline = self.pipeline(method) if isinstance(method, str) else method
        tried = self._run(pipeline, Watched(pipeline.construction, search=pipeline.construction.search))
        parts = self.parts(tried)
        for i, step in enumerate(tried.construction.steps(self.window)):
            if step.anew:  # found in the store: the edit itself sought it on this very model
                watched = Watched(
                    pipeline.construction, edits=False, only=(step.read,), search=pipeline.construction.search
                )
                tried.targets.update(self._run(pipeline, watched, parts[i]).targets)
        return tried

    def targets(self, construction: TargetConstruction, method: str = "memit") -> Targets:
        """What a construction would have the layers reach, on the unedited model. Nothing is edited."""
        return self._run(self.pipeline(method), Watched(construction, edits=False, search=construction.search)).targets

    def _run(self, pipeline: LocateThenEdit, watched: Watched, before: WeightDelta | None = None) -> Tried:
        """`before`: a change to go on from."""
        run, statistics = replace(pipeline, construction=watched), self.statistics if watched.edits else {}
        past = None if before is None else WeightEdit(before)
        outcome = run.edit(self.decoder, self.facts, self.contexts, statistics, self.store, self.tell, past=past)
        outcome.restore()
        assert isinstance(outcome.edit, WeightEdit)
        return Tried(watched.construction, watched.seen, outcome.edit.delta, outcome.ledger)

    def parts(self, tried: Tried) -> list[WeightDelta]:
        """The change as it stood before the first step, after it, after the second, ..."""
        steps = tried.construction.steps(self.window)
        names = [self.decoder.parameter_name(step.edit) for step in steps]
        changes = tried.delta.changes
        return [
            WeightDelta(self.decoder.fingerprint, {name: changes[name] for name in names[:done]})
            for done in range(len(names) + 1)
        ]
