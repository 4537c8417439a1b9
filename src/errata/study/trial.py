"""Trial: facts, and the supplies of the model they would be edited into. What every study starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from errata.decoder.decoder import Decoder
from errata.decoder.site import Contexts, Site
from errata.delta import WeightDelta
from errata.editors.base import Ledger, WeightEdit
from errata.editors.locate_then_edit import LocateThenEdit
from errata.editors.supplies import Supplies
from errata.errors import UnknownName
from errata.fact import Fact
from errata.method import Method, Pair
from errata.methods import METHODS
from errata.methods import method as row_of
from errata.statistics import KeyStatistics
from errata.targets import Step, TargetConstruction, Targets


@dataclass(frozen=True)
class Tried:
    """An edit that was made and taken off again."""

    construction: TargetConstruction
    targets: Targets
    """As the sweep used them: an anchor optimised anew has replaced the earlier one."""
    delta: WeightDelta
    ledger: Ledger
    steps: Sequence[Step]


@dataclass(frozen=True)
class Trial:
    """The facts and the model they are edited into. Every study leaves the model as it found it: unedited."""

    facts: tuple[Fact, ...]
    supplies: Supplies
    table: Mapping[str, Method] | None = None
    """Where names of methods are looked up, in place of METHODS."""

    @property
    def decoder(self) -> Decoder:
        return self.supplies.decoder

    @property
    def window(self) -> tuple[int, ...]:
        return self.supplies.recipe.window

    @property
    def contexts(self) -> Contexts:
        """The context prefixes: as given, or sampled from the unedited model with the recipe's seed."""
        return self.supplies.contexts

    @cached_property
    def site(self) -> Site:
        """The facts as tokens."""
        return self.decoder.tokens.site(self.facts, self.contexts)

    @property
    def statistics(self) -> dict[int, KeyStatistics]:
        """Key statistics of every layer of the window."""
        return self.supplies.statistics(self.window)

    def tell(self, stage: str, done: int, total: int) -> None:
        """Report how far a stage is."""
        self.supplies.tell(stage, done, total)

    def under(self, contexts: Contexts) -> Trial:
        """The same with other context prefixes."""
        return replace(self, supplies=self.supplies.in_contexts(contexts))

    def pipeline(self, method: str | Method) -> LocateThenEdit:
        """A method's construction and solver, set as the recipe says. Raises UnknownName if it has none."""
        recipe, depth = self.supplies.recipe, self.decoder.depth
        table = self.table or METHODS
        pipeline = row_of(method, table).pipeline(recipe, depth)
        if not isinstance(pipeline, LocateThenEdit):
            known = [name for name, row in table.items() if isinstance(row, Pair)]
            raise UnknownName("locate-then-edit method", str(method), known)
        return pipeline

    def edit(self, method: str | Method | LocateThenEdit) -> Tried:
        """Edit all facts at once, note what came of it, and take the edit off again."""
        pipeline = method if isinstance(method, LocateThenEdit) else self.pipeline(method)
        outcome = pipeline.edit(self.facts, self.supplies)
        outcome.restore()
        assert isinstance(outcome.edit, WeightEdit)
        return Tried(pipeline.construction, outcome.targets, outcome.edit.delta, outcome.ledger, pipeline.steps)

    def targets(self, construction: TargetConstruction, method: str = "memit") -> Targets:
        """What a construction would have the layers reach, on the unedited model. Nothing is edited."""
        return replace(self.pipeline(method), construction=construction).targets(self.facts, self.supplies)

    def parts(self, tried: Tried) -> list[WeightDelta]:
        """The change as it stood before the first step, after it, after the second, ..."""
        names = [self.decoder.parameter_name(step.edit) for step in tried.steps]
        changes = tried.delta.changes
        return [
            WeightDelta(self.decoder.fingerprint, {name: changes[name] for name in names[:done]})
            for done in range(len(names) + 1)
        ]
