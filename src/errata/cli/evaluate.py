"""errata evaluate: score a model, edited or not, on a file of cases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import command_line, fleet, progress, say, warn
from errata.cli.options import (
    Conflict,
    Device,
    Dtype,
    EndTurn,
    Format,
    InChat,
    Layout,
    Limit,
    Model,
    OnConflict,
    System,
    Trust,
)


def evaluate(
    model: Model,
    cases: Annotated[
        str, typer.Argument(help="The cases to score: a benchmark's file, or a hub dataset as NAME[:CONFIG[:SPLIT]].")
    ],
    edit: Annotated[
        Path | None,
        typer.Option(help="Folder of a saved edit. The edited model is then scored as well as the unedited one."),
    ] = None,
    chat: InChat = False,
    system: System = None,
    end_turn: EndTurn = False,
    format: Format = None,
    on_conflict: OnConflict = Conflict.refuse,
    limit: Limit = None,
    families: Annotated[
        str | None,
        typer.Option(
            "--probes",
            help="Families of probes, separated by commas, such as belief,specificity,text. Default: all but text.",
        ),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(help="Reference texts for the consistency score: CounterFact's attribute_snippets.json."),
    ] = None,
    ability: Annotated[
        list[str] | None,
        typer.Option(
            help="A general-ability task to run: a name of lm-eval's, pocket_facts, or a task's YAML file. Repeatable. "
            "A YAML file can run any code, so it needs --trust-remote-code."
        ),
    ] = None,
    ability_limit: Annotated[
        int | None, typer.Option(min=1, help="Use only the first N records of each of these tasks.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File for all scores, case by case, as JSON; `errata report` reads it."),
    ] = None,
    dtype: Dtype = None,
    device: Device = None,
    layout: Layout = None,
    trust_remote_code: Trust = False,
) -> None:
    """Score a model on cases, unedited and (with --edit) edited: efficacy, generalisation, specificity and more."""
    from errata.cli.work.evaluate import run_of, scored, show_scores
    from errata.cli.work.opening import in_form, open_decoder
    from errata.dataset import named_cases
    from errata.editors.saved import load_edit
    from errata.evaluate import probes
    from errata.evaluate.ability import check_trusted, general_ability
    from errata.files import check_file

    if output is not None and fleet().leads:
        check_file(output)
    check_trusted(ability or (), trust_remote_code)
    read = named_cases(cases, format, limit, references, on_conflict=on_conflict.value, note=warn)
    asked = in_form(read, chat, system, end_turn)
    wanted = probes(*families.split(",")) if families else probes()
    saved = load_edit(edit) if edit else None
    decoder = open_decoder(model, dtype, device, trust_remote_code, layout)
    with progress() as tell:
        scores = scored(decoder, asked, wanted, saved, tell)
    run = run_of(decoder, cases, asked, scores, command_line())
    if saved:
        run.settings.update({"edit": str(edit), "facts": len(saved.facts)})
    if ability:
        run.ability = [
            skill.to_json()
            for skill in general_ability(decoder, ability, limit=ability_limit, trust_remote_code=trust_remote_code)
        ]
    if output is not None and fleet().leads:
        run.write_record(output)
    show_scores(run, scores["unedited"].missing)
    if output is not None and fleet().leads:
        say(f"all scores, case by case: {output}")
