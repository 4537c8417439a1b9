"""The parts of errata edit: reading the facts, the editor, showing and saving what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from errata.cli.console import fleet, out, show, warn
from errata.cli.work.opening import practice_of
from errata.dataset import OnConflict, named_cases
from errata.decoder.corpus import Corpus
from errata.decoder.decoder import Decoder
from errata.editor import Editor
from errata.editors.base import Outcome
from errata.editors.guard import Guard
from errata.editors.supplies import Progress
from errata.fact import Fact, check_facts
from errata.files import write_text
from errata.method import Method
from errata.methods import method as row_of
from errata.recipe import Recipe
from errata.record.tables import answer_table, health_table, residual_table, seconds_table


def facts_of(name: str, format: str | None, limit: int | None, on_conflict: OnConflict) -> list[Fact]:
    """The facts of a file or a hub dataset. Raises FactError."""
    facts = [case.fact for case in named_cases(name, format, limit, on_conflict=on_conflict, note=warn)]
    check_facts(facts)
    return facts


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


def show_outcome(outcome: Outcome, ledgers: dict[str, Any]) -> None:
    """Print notes, answers before and after, and what the ledger says."""
    for note in outcome.ledger.notes:
        out.print(f"[yellow]{note}[/yellow]")
    answers = [
        {"prompt": fact.text, "wanted": fact.target_new, "before": before, "after": after}
        for fact, before, after in outcome.answers(outcome.facts[:10])
    ]
    show(answer_table(answers))
    for grid in (residual_table(ledgers), health_table(ledgers), seconds_table(ledgers)):
        if grid.rows:
            show(grid)


def save(outcome: Outcome, ledgers: dict[str, Any], output: Path | None, checkpoint: Path | None) -> None:
    """Write the edit with its ledger, and the edited model, where asked for."""
    if output is not None:
        outcome.edit.save(output)
        write_text(output / "ledger.json", json.dumps(ledgers, indent=1))
        out.print(f"edit saved to {output}")
    if checkpoint is not None:
        outcome.decoder.save(checkpoint)
        out.print(f"edited checkpoint written to {checkpoint}")
    if output is None and checkpoint is None:
        out.print("nothing was saved: give -o FOLDER to keep the edit, or --checkpoint FOLDER for a whole model")
