"""The parts of errata edit: reading the facts, the editor, showing and saving what came of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from errata.bench.settings import Value, check_paths, parse_value, with_settings
from errata.cli.console import fleet, say, show, warn
from errata.cli.work.opening import practice_of
from errata.dataset import Case, OnConflict, named_cases
from errata.decoder.corpus import Corpus
from errata.decoder.decoder import Decoder
from errata.editor import Editor
from errata.editors.base import Edit, Outcome
from errata.editors.folder import VERDICT, amend, check_replaceable
from errata.editors.guard import Guard
from errata.editors.revision import Revision, check_new
from errata.editors.supplies import Progress
from errata.errors import BadRecipe, ErrataError, StoreError, UnusableFacts
from errata.fact import Fact, Problem, check_facts
from errata.files import check_folder, refuse_to_replace, write_text
from errata.method import Method
from errata.methods import method as row_of
from errata.recipe import Recipe
from errata.record.path import EditPath, Goal
from errata.record.tables import health_table, residual_table, seconds_table
from errata.record.verdict import Verdict


def cases_of(
    name: str, format: str | None, limit: int | None, on_conflict: OnConflict, unusable: bool = False
) -> Sequence[Case]:
    """The cases of a file or a hub dataset, whose facts can be edited, or might if `unusable`. Raises FactError."""
    cases = named_cases(name, format, limit, on_conflict=on_conflict, note=warn)
    if not unusable:
        check_facts([case.fact for case in cases])
    return cases


def usable_of(editor: Editor, cases: Sequence[Case]) -> tuple[Sequence[Case], list[Problem]]:
    """The cases whose facts can be edited, and why the others cannot, which is told. Raises UnusableFacts for none."""
    _, problems = editor.usable([case.fact for case in cases])
    left_out = {problem.fact for problem in problems}
    for problem in problems:
        warn(f"left out: {problem}")
    if cases and len(left_out) == len(cases):
        raise UnusableFacts(problems)
    return [case for i, case in enumerate(cases) if i not in left_out], problems


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


def settings_of(
    recipe: Recipe, given: Sequence[str], method: str, table: Mapping[str, Method], past: Edit | None
) -> Recipe:
    """The recipe with settings given as `solvers.least_squares.weight=3000`, and those that an earlier edit, which is
    gone on from, was made with and the recipe does not give. Raises BadRecipe, UnknownName.
    """
    if inherited := inherited_from(past, recipe) if past else {}:
        recipe = with_settings(recipe, inherited)
        words = " ".join(f"{name}={value}" for name, value in inherited.items())
        say(f"settings of the earlier edit are used: {words}")
    pairs = [pair.partition("=") for pair in given]
    if bad := [f"{name}{sign}{value}" for name, sign, value in pairs if not (name and sign and value)]:
        raise BadRecipe(f"--set {bad[0]}: expected SETTING=VALUE, such as share=0.5")
    values = {name.strip(): parse_value(value.strip()) for name, _, value in pairs}
    check_paths(values, [row_of(method, table)])
    return with_settings(recipe, values)


def inherited_from(past: Edit, recipe: Recipe) -> dict[str, Value]:
    """Settings of solvers, and the share, that an earlier edit's recipe had and this one leaves open."""
    made: Any = past.manifest.get("recipe")
    solvers = made.get("solvers") if isinstance(made, Mapping) else None
    if not isinstance(solvers, Mapping):
        return {}
    inherited = {
        f"solvers.{solver}.{name}": value
        for solver, values in solvers.items()
        if isinstance(values, Mapping)
        for name, value in values.items()
        if name not in recipe.solvers.get(solver, {})
    }
    share = made.get("share", 1.0)
    return inherited | ({"share": share} if share != recipe.share else {})


def judged(outcome: Outcome, cases: Sequence[Case], output: Path | None) -> Verdict | None:
    """Whether the edit is good, written beside it; None if the edited model no longer gives finite numbers."""
    try:
        told = outcome.verdict(cases, wanted=len(cases))
    except ErrataError as error:
        warn(f"the edited model could not be asked: {error}")
        return None
    if output is not None and fleet().leads:
        write_text(output / VERDICT, json.dumps(told.to_json(), indent=1, ensure_ascii=False))
        amend(output, verdict=str(told))
    return told


def show_outcome(outcome: Outcome, ledgers: dict[str, Any], told: Verdict | None, wanted: int) -> None:
    """Print notes, the path, every fact (missed ones first), what the ledger says, and the verdict in one line."""
    for note in outcome.ledger.notes:
        say(note, "yellow")
    if outcome.path is not None:
        show_path(outcome.path)
    if told is not None:
        show(told.table())
        for line in [*told.slip(), *told.advice()]:
            say(line)
    for table in (residual_table(ledgers), health_table(ledgers), seconds_table(ledgers)):
        if table.rows:
            show(table)
    if told is not None:
        sources = [f"neighbours: {told.neighbours_from}"] if told.neighbours else []
        sources += [f"held-out text: {told.held_out}"] if told.perplexity else []
        say("; ".join(sources), "dim")
        say(str(told), "bold")
    if len(outcome.facts) < wanted:
        say(f"{wanted - len(outcome.facts)} facts were not edited: the guard stopped before them", "yellow")


def note_settings(editor: Editor, aim: float | None, budget: float | None, batch: int | None, past: Edit | None) -> str:
    """Where the settings of the solver come from, in a sentence."""
    if aim is not None or budget is not None:
        return f"solved for from gentle to strong, and chosen so that {Goal(aim, budget)}"
    reason = editor.obstacle(batch, past)
    return f"the recipe's, without a choice from a path{f' ({reason})' if reason else ''}"


def show_path(path: EditPath) -> None:
    """Print the points of a path as a table and drawn, and which one is taken."""
    show(path.table(), "The path, from gentle to strong")
    say(path.chart())
    say(f"{path}; scored on the facts and on {path.neighbours} neighbours that errata wrote")
    say("errata take EDIT NUMBER takes another point of a saved edit, without new anchors")


def save(outcome: Outcome, ledgers: dict[str, Any], output: Path | None, checkpoint: Path | None) -> None:
    """Write the edit with its ledger, and the edited model, where asked for."""
    if output is not None:
        outcome.edit.save(output, ledgers)
        say(f"edit saved to {output}")
    if checkpoint is not None:
        outcome.decoder.save(checkpoint)
        say(f"edited checkpoint written to {checkpoint}")
    if output is None and checkpoint is None:
        say("nothing was saved: give -o FOLDER to keep the edit, or --checkpoint FOLDER for a whole model")
