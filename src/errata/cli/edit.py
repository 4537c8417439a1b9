"""errata edit: edit the facts of a file into a model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import fleet, lines, progress, say
from errata.cli.ending import INCOMPLETE
from errata.cli.options import (
    Conflict,
    CorpusName,
    Device,
    Dtype,
    EndTurn,
    Format,
    InChat,
    Layout,
    Limit,
    Method,
    Model,
    OnConflict,
    Plugin,
    Practice,
    RecipeName,
    System,
    Trust,
    Window,
)


class Sought(StrEnum):
    """The model on which targets are sought; method 5.23."""

    current = "current"
    original = "original"


def edit(
    model: Model,
    facts: Annotated[
        str | None,
        typer.Argument(
            help="A JSON, JSON lines or CSV file with the fields prompt, subject and target_new, or a benchmark's "
            "file. Not needed with --drop."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to save the edit in, so that it can be applied again.")
    ] = None,
    method: Method = "memit+fe",
    plugin: Plugin = None,
    window: Window = None,
    recipe: RecipeName = None,
    corpus: CorpusName = None,
    practice: Practice = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Edit this many facts at a time, one batch after another. Default: all together (rome: one by one).",
        ),
    ] = None,
    targets: Annotated[
        Sought,
        typer.Option(
            help="Seek a batch's targets on the model as edited so far (current) or on the unedited one (original)."
        ),
    ] = Sought.current,
    past: Annotated[
        Path | None,
        typer.Option(
            help="Folder of an earlier edit of this model to continue from. The new edit contains both; a fact that is "
            "given another object is replaced."
        ),
    ] = None,
    drop: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|N[,N...]",
            help="Take facts out of the edit given with --past: those of a file, or by their numbers in it, from 0.",
        ),
    ] = None,
    guarded: Annotated[
        bool,
        typer.Option(
            "--guard/--no-guard",
            help="Undo an edit that changes too much of what else the model says; with --batch, its last batch alone.",
        ),
    ] = True,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Also write the whole edited model, as a folder that transformers can load.")
    ] = None,
    chat: InChat = False,
    system: System = None,
    end_turn: EndTurn = False,
    format: Format = None,
    on_conflict: OnConflict = Conflict.refuse,
    limit: Limit = None,
    skip_unusable: Annotated[
        bool,
        typer.Option(
            "--skip-unusable",
            help="Leave out facts that cannot be used, naming each with the reason, and edit the others; the exit code "
            "is then 3. Default: refuse them all.",
        ),
    ] = False,
    aim: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Solve from gentle to strong, and take the gentlest edit in which this share of the facts holds. "
            "Default where no recipe gives the solver's weight: 0.95.",
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Solve from gentle to strong, and take an edit that moves the answers about other things by at most "
            "this (nats of D_KL); alone, the one in which most facts hold.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SETTING=VALUE",
            help="Replace a number of the recipe, such as solvers.least_squares.weight=3000 or share=0.5. Repeatable.",
        ),
    ] = None,
    require: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Share of the facts that must hold afterwards for exit code 0; it is 3 otherwise. Default: the aim "
            "where the edit has one, else all.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and stop.")] = False,
    dtype: Dtype = None,
    device: Device = None,
    layout: Layout = None,
    trust_remote_code: Trust = False,
) -> None:
    """Edit facts into a model, show its answers before and after, and save the edit, which can be undone exactly."""
    from errata.cli.work.edit import (
        cases_of,
        cases_of_facts,
        check_places,
        dropped_of,
        editor_for,
        judged,
        note_settings,
        notes_of,
        save,
        settings_of,
        show_outcome,
        usable_of,
    )
    from errata.cli.work.opening import corpus_of, in_form, open_decoder, recipe_of, table_of
    from errata.cli.work.outlook import foretell
    from errata.cli.work.plan import findings, plan
    from errata.editors.guard import USUAL
    from errata.editors.saved import load_edit

    table = table_of(plugin)
    if facts is None and drop is None:
        raise typer.BadParameter("give a file of facts, or --past and --drop", param_hint="FACTS")
    read = [] if facts is None else cases_of(facts, format, limit, on_conflict.value, skip_unusable)
    cases = in_form(read, chat, system, end_turn)
    wanted = [case.fact for case in cases]
    dropped = () if drop is None else dropped_of(drop, format, on_conflict.value)
    check_places(output, checkpoint)
    earlier = load_edit(past) if past else None
    decoder = open_decoder(model, dtype, device, trust_remote_code, layout)
    decoder.check_finite()
    decoder.check_causal()
    chosen = settings_of(recipe_of(decoder, recipe, window), settings or (), method, table, earlier)
    guard = USUAL if guarded else None
    with progress() as tell:
        texts = corpus_of(model, corpus)
        editor = editor_for(decoder, (method, table), chosen, texts, (model, practice, on_conflict.value), guard, tell)
        cases, left_out = usable_of(editor, cases) if skip_unusable else (cases, [])
        wanted = [case.fact for case in cases]
        if aim is None and budget is None:
            aim = editor.usual_aim(batch, earlier)
        choice = note_settings(editor, aim, budget, batch, earlier)
        if dry_run:
            changed = notes_of(earlier, wanted, dropped)
            more = [*(("left out", problem) for problem in left_out), ("settings", choice)]
            lines([*findings(decoder, chosen), *changed, *(plan(editor, wanted) if wanted else ()), *more])
            if wanted:
                foretell(editor, wanted, output, checkpoint)
            return
        say(f"settings: {choice}")
        outcome = editor.edit(
            wanted, batch=batch, targets=targets.value, past=earlier, drop=dropped, aim=aim, budget=budget
        )
    if facts is None:
        cases, wanted = cases_of_facts(outcome.facts), list(outcome.facts)
    ledgers = {method: outcome.ledger.to_json()}
    if fleet().leads:
        save(outcome, ledgers, output, checkpoint)
    told = judged(outcome, cases, output)
    show_outcome(outcome, ledgers, told, len(wanted))
    enough = require if require is not None else aim if aim is not None else 1.0
    if left_out or len(outcome.facts) < len(wanted) or told is None or told.share < enough:
        raise typer.Exit(INCOMPLETE)
