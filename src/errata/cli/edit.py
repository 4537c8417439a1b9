"""errata edit: make a model believe the facts of a file."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import (
    CorpusName,
    Device,
    Dtype,
    Method,
    Model,
    Practice,
    RecipeName,
    Trust,
    Window,
    corpus_of,
    fleet,
    lines,
    open_decoder,
    out,
    practice_of,
    progress,
    recipe_of,
    show,
)
from errata.cli.plan import findings, plan
from errata.editor import Editor
from errata.editors.base import check_replaceable
from errata.editors.guard import Guard
from errata.editors.saved import load_edit
from errata.evaluate.benchmarks import named_cases
from errata.fact import check_facts
from errata.methods import method as row_of
from errata.record.tables import answer_table, health_table, residual_table, seconds_table


class Sought(StrEnum):
    """Where targets are sought; method 5.23."""

    current = "current"
    original = "original"


def edit(
    model: Model,
    facts: Annotated[str, typer.Argument(help="JSON, JSON lines or CSV with prompt, subject, target_new.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to save the edit to.")] = None,
    method: Method = "memit+fe",
    window: Window = None,
    recipe: RecipeName = None,
    corpus: CorpusName = None,
    practice: Practice = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Facts edited together; default: all of them.")] = None,
    targets: Annotated[
        Sought, typer.Option(help="On which model a batch's targets are sought: as edited so far, or the original.")
    ] = Sought.current,
    past: Annotated[Path | None, typer.Option(help="Folder of an edit of this model to go on from.")] = None,
    guarded: Annotated[bool, typer.Option("--guard/--no-guard", help="Stop before a batch ruins the model.")] = True,
    checkpoint: Annotated[Path | None, typer.Option(help="Also write the edited model, as a full checkpoint.")] = None,
    layout: Annotated[str | None, typer.Option(help="Layout of the file; default: seen from its fields.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use the first N facts.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: Trust = False,
) -> None:
    """Edit facts into a model; show before and after; save the edit as a value that can be taken off again."""
    wanted = [case.fact for case in named_cases(facts, layout=layout, limit=limit)]
    check_facts(wanted)
    if output is not None:
        check_replaceable(output)
    decoder = open_decoder(model, dtype, device, trust_remote_code)
    decoder.check_finite()
    chosen = recipe_of(decoder, recipe, window)
    with progress() as tell:
        cases = practice_of(model, practice) if "practice" in row_of(method).needs else ()
        texts = corpus_of(model, corpus)
        guard = Guard() if guarded and batch else None
        given = {"recipe": chosen, "corpus": texts, "practice": cases, "guard": guard}
        editor = Editor(decoder, method, **given, progress=tell, fleet=fleet())  # type: ignore[arg-type]
        if dry_run:
            lines([*findings(decoder, chosen), *plan(editor, wanted)])
            return
        earlier = load_edit(past) if past else None
        outcome = editor.edit(wanted, batch=batch, targets=targets.value, past=earlier)
    for note in outcome.ledger.notes:
        out.print(f"[yellow]{note}[/yellow]")
    answers = [
        {"prompt": fact.text, "wanted": fact.target_new, "before": before, "after": after}
        for fact, before, after in outcome.answers(outcome.facts[:10])
    ]
    show(answer_table(answers))
    ledgers = {method: outcome.ledger.to_json()}
    for grid in (residual_table(ledgers), health_table(ledgers), seconds_table(ledgers)):
        if grid.rows:
            show(grid)
    if not fleet().leads:
        return
    if output is not None:
        outcome.edit.save(output)
        (output / "ledger.json").write_text(json.dumps(ledgers, indent=1), encoding="utf-8")
        out.print(f"edit saved to {output}")
    if checkpoint is not None:
        decoder.save(checkpoint)
        out.print(f"edited checkpoint written to {checkpoint}")
    if output is None and checkpoint is None:
        out.print("nothing was saved: give -o FOLDER to keep the edit, or --checkpoint FOLDER for a whole model")
