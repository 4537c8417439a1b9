"""errata edit: make a model believe the facts of a file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import fleet, lines, progress
from errata.cli.options import CorpusName, Device, Dtype, Layout, Method, Model, Practice, RecipeName, Trust, Window


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
    layout: Layout = None,
    limit: Annotated[int | None, typer.Option(help="Use the first N facts.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: Trust = False,
) -> None:
    """Edit facts into a model; show before and after; save the edit as a value that can be taken off again."""
    from errata.cli.work.edit import editor_for, facts_of, save, show_outcome
    from errata.cli.work.opening import corpus_of, open_decoder, recipe_of
    from errata.cli.work.plan import findings, plan
    from errata.editors.base import check_replaceable
    from errata.editors.guard import Guard
    from errata.editors.saved import load_edit

    wanted = facts_of(facts, layout, limit)
    if output is not None:
        check_replaceable(output)
    decoder = open_decoder(model, dtype, device, trust_remote_code)
    decoder.check_finite()
    chosen = recipe_of(decoder, recipe, window)
    guard = Guard() if guarded and batch else None
    with progress() as tell:
        editor = editor_for(decoder, method, chosen, corpus_of(model, corpus), (model, practice), guard, tell)
        if dry_run:
            lines([*findings(decoder, chosen), *plan(editor, wanted)])
            return
        earlier = load_edit(past) if past else None
        outcome = editor.edit(wanted, batch=batch, targets=targets.value, past=earlier)
    ledgers = {method: outcome.ledger.to_json()}
    show_outcome(outcome, ledgers)
    if fleet().leads:
        save(outcome, ledgers, output, checkpoint)
