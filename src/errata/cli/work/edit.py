"""The parts of errata edit: reading the facts, the editor, showing and saving what came of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from errata.cli.console import fleet, progress, say, show, warn
from errata.cli.work.opening import practice_of
from errata.dataset import Case, OnConflict, named_cases
from errata.decoder.corpus import Corpus
from errata.decoder.decoder import Decoder
from errata.editor import Editor
from errata.editors.base import Edit, Outcome
from errata.editors.folder import LEDGER, check_replaceable
from errata.editors.guard import Guard
from errata.editors.revision import Revision, check_new
from errata.editors.supplies import Progress
from errata.errors import ErrataError, StoreError
from errata.evaluate import Accuracy, evaluate
from errata.fact import Fact, check_facts
from errata.files import check_folder, refuse_to_replace, write_text
from errata.method import Method
from errata.methods import method as row_of
from errata.recipe import Recipe
from errata.record.tables import answer_table, health_table, residual_table, seconds_table

SHOWN = 10
"""Answers printed."""


def cases_of(name: str, format: str | None, limit: int | None, on_conflict: OnConflict) -> Sequence[Case]:
    """The cases of a file or a hub dataset, whose facts can be edited. Raises FactError."""
    cases = named_cases(name, format, limit, on_conflict=on_conflict, note=warn)
    check_facts([case.fact for case in cases])
    return cases


def check_places(output: Path | None, checkpoint: Path | None) -> None:
    """Raises StoreError, before any work, if what is to be written could not be."""
    if output is not None:
        check_replaceable(output)
        check_folder(output)
    if checkpoint is not None:
        refuse_to_replace(checkpoint)
        check_folder(checkpoint)
    if output and checkpoint and output.resolve() == checkpoint.resolve():
        raise StoreError(f"{output} cannot be both an edit and a checkpoint; choose two folders.")


def editor_for(
    decoder: Decoder,
    named: tuple[str, Mapping[str, Method]],
    recipe: Recipe,
    corpus: Corpus | None,
    practice: tuple[str, str | None, OnConflict],
    guard: Guard | None,
    progress: Progress,
) -> Editor:
    """The editor of a method, named in a table. Practice cases are read only for one that is trained."""
    method, table = named
    cases = practice_of(*practice) if "practice" in row_of(method, table).needs else ()
    given: Any = {"recipe": recipe, "corpus": corpus, "practice": cases, "guard": guard}
    return Editor(decoder, method, methods=table, **given, progress=progress, fleet=fleet())


def cases_of_facts(facts: Sequence[Fact]) -> list[Case]:
    """Cases without further questions."""
    return [Case(fact, str(number)) for number, fact in enumerate(facts)]


def dropped_of(name: str, format: str | None, on_conflict: OnConflict) -> list[Fact | int]:
    """Facts to take out of an earlier edit: `0,3`, or a file that lists them. Raises FactError."""
    if re.fullmatch(r"\d+(\s*,\s*\d+)*", name):
        return [int(number) for number in name.split(",")]
    return [case.fact for case in cases_of(name, format, None, on_conflict)]


def notes_of(past: Edit | None, facts: Sequence[Fact], drop: Sequence[Fact | int]) -> list[tuple[str, object]]:
    """What the facts of an earlier edit would come to. Raises UnusableFacts."""
    check_new(facts, drop, past)
    revision = past and Revision.of(past, facts, drop)
    return [("earlier edit", note) for note in (revision.notes if revision else ())]


def held_facts(outcome: Outcome, cases: Sequence[Case]) -> list[Fact]:
    """The facts that the edited model says: every token of the new target is its first choice (evaluation 1.1).

    None of them if the edited model no longer gives finite numbers.
    """
    edited = set(outcome.facts)
    asked = [case for case in cases if case.fact in edited]
    with progress() as tell:
        try:
            score = evaluate(outcome.decoder, asked, (Accuracy("efficacy"),), tell, fleet())["efficacy_accuracy"]
        except ErrataError as error:
            warn(f"the edited model could not be asked: {error}")
            return []
    return [case.fact for case, share in zip(asked, score.per_case, strict=True) if share == 1]


def show_outcome(outcome: Outcome, ledgers: dict[str, Any], held: Sequence[Fact], wanted: int) -> None:
    """Print notes, answers before and after (of missed facts first), what the ledger says, and how many facts hold."""
    for note in outcome.ledger.notes:
        say(note, "yellow")
    shown = sorted(outcome.facts, key=lambda fact: fact in held)[:SHOWN]
    answers = [
        {"prompt": fact.text, "wanted": fact.target_new, "before": before, "after": after}
        for fact, before, after in outcome.answers(shown)
    ]
    show(answer_table(answers))
    for table in (residual_table(ledgers), health_table(ledgers), seconds_table(ledgers)):
        if table.rows:
            show(table)
    say(f"{len(held)} of {wanted} facts hold: asked with its own prompt, the model says the new target")
    if len(outcome.facts) < wanted:
        say(f"{wanted - len(outcome.facts)} facts were not edited: the guard stopped before them", "yellow")


def save(outcome: Outcome, ledgers: dict[str, Any], output: Path | None, checkpoint: Path | None) -> None:
    """Write the edit with its ledger, and the edited model, where asked for."""
    if output is not None:
        outcome.edit.save(output)
        write_text(output / LEDGER, json.dumps(ledgers, indent=1))
        say(f"edit saved to {output}")
    if checkpoint is not None:
        outcome.decoder.save(checkpoint)
        say(f"edited checkpoint written to {checkpoint}")
    if output is None and checkpoint is None:
        say("nothing was saved: give -o FOLDER to keep the edit, or --checkpoint FOLDER for a whole model")
