"""Revision: what a new edit takes back of an earlier one, because facts are dropped or given another object."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from errata.editors.base import Edit
from errata.editors.schedule import Schedule
from errata.errors import UnusableFacts, WrongEdit
from errata.fact import Fact, check_facts

SHOWN = 80
"""Characters of a setting that a message shows."""
UNNAMED = {"share": 1.0}
"""Settings that manifests did not always name, and what they were."""


@dataclass(frozen=True)
class Run:
    """Facts that were edited by one call, and in which portions."""

    facts: tuple[Fact, ...]
    schedule: Schedule

    def to_json(self) -> dict[str, Any]:
        """Without the facts themselves: a manifest lists those of all runs."""
        return {"facts": len(self.facts), **asdict(self.schedule)}


@dataclass(frozen=True)
class Revision:
    """`runs`: those of the earlier edit without the facts that are `dropped` or `replaced`, (earlier, new)."""

    runs: tuple[Run, ...]
    dropped: tuple[Fact, ...] = ()
    replaced: tuple[tuple[Fact, Fact], ...] = ()

    @classmethod
    def of(cls, past: Edit, facts: Sequence[Fact], drop: Sequence[Fact | int]) -> Revision | None:
        """What the new facts and `drop` (facts, or their numbers from 0) take back of an edit; None if nothing.

        Raises UnusableFacts for what the edit does not hold, or if nothing would be left; WrongEdit if it does not
        say how it was made.
        """
        dropped = [_in(past, one) for one in drop]
        earlier = {fact.asked: fact for fact in past.facts if fact not in dropped}
        both = ((earlier[fact.asked], fact) for fact in facts if fact.asked in earlier)
        replaced = [(old, new) for old, new in both if not new.agrees(old)]
        gone = {*dropped, *(old for old, _ in replaced)}
        if not gone:
            return None
        if not facts and gone >= set(past.facts):
            raise UnusableFacts(["every fact of the earlier edit would be dropped; take the edit off instead"])
        left = [Run(tuple(f for f in run.facts if f not in gone), run.schedule) for run in runs_of(past)]
        return cls(tuple(run for run in left if run.facts), tuple(dropped), tuple(replaced))

    @property
    def notes(self) -> list[str]:
        """What is taken back, in words."""
        left = sum(len(run.facts) for run in self.runs)
        again = f"the {left} other facts of the earlier edit were solved for again"
        changed = [
            f"{old.text!r} -> {old.target_new!r} is replaced by {new.target_new!r}" for old, new in self.replaced
        ]
        dropped = [f"{fact.text!r} -> {fact.target_new!r} is dropped" for fact in self.dropped]
        return [f"{what}; {again}" for what in changed + dropped]

    def to_json(self) -> list[dict[str, Any]]:
        """Each fact that was taken back, and the object that stands in its place, if any."""
        pairs = [*((fact, None) for fact in self.dropped), *((old, new.target_new) for old, new in self.replaced)]
        return [{"fact": asdict(fact), "now": now} for fact, now in pairs]


def _in(past: Edit, one: Fact | int) -> Fact:
    """The fact of an edit that is meant. Raises UnusableFacts."""
    facts = past.facts
    if isinstance(one, int):
        if not 0 <= one < len(facts):
            raise UnusableFacts([f"there is no fact {one} to drop; the earlier edit holds facts 0 to {len(facts) - 1}"])
        return facts[one]
    held = next((fact for fact in facts if fact.asked == one.asked), None)
    if held is None or not held.agrees(one):
        says = "does not hold it" if held is None else f"says {held.target_new!r}"
        raise UnusableFacts([f"cannot drop {one.text!r} -> {one.target_new!r}: the earlier edit {says}"])
    return held


def runs_of(edit: Edit) -> list[Run]:
    """The calls that made an edit, in order. Raises WrongEdit if it does not say."""
    facts, runs = edit.facts, edit.manifest.get("runs", [])
    if sum(run["facts"] for run in runs) != len(facts):
        raise WrongEdit(
            "the earlier edit does not say in which runs its facts were edited, so none can be replaced or dropped. "
            "Nothing was changed. Edit all facts anew."
        )
    made, start = [], 0
    for run in runs:
        settings = {name: value for name, value in run.items() if name != "facts"}
        made.append(Run(tuple(facts[start : start + run["facts"]]), Schedule(**settings)))
        start += run["facts"]
    return made


def check_same_settings(made_with: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises WrongEdit unless an earlier edit's settings are those of the editor that is to make it again."""
    for name, value in json.loads(json.dumps(now)).items():
        if (was := json.loads(json.dumps(made_with.get(name, UNNAMED.get(name))))) != value:
            raise WrongEdit(
                "facts are replaced or dropped by making the earlier edit again without them, with the settings it was "
                f"made with; {name} was {str(was)[:SHOWN]}, now {str(value)[:SHOWN]}. Nothing was changed. Use the "
                "method, window and recipe of the earlier edit, or edit all facts anew."
            )


def check_new(facts: Sequence[Fact], drop: Sequence[Fact | int], past: Edit | None) -> None:
    """Raises UnusableFacts for facts that cannot be edited together, or where there is nothing to do."""
    if drop and past is None:
        raise UnusableFacts(["facts can only be dropped from an earlier edit; give it as `past`"])
    if facts or not drop:
        check_facts(facts)
