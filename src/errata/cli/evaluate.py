"""errata evaluate: score a model, edited or not, on a file of cases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import command_line, fleet, out, progress
from errata.cli.options import Device, Dtype, Layout, Model, Trust


def evaluate(
    model: Model,
    cases: Annotated[str, typer.Argument(help="A file of cases in any known layout, or a hub name[:config[:split]].")],
    edit: Annotated[
        Path | None, typer.Option(help="Folder of a saved edit to score beside the unedited model.")
    ] = None,
    layout: Layout = None,
    limit: Annotated[int | None, typer.Option(help="Use the first N cases.")] = None,
    families: Annotated[
        str | None,
        typer.Option("--probes", help="Families of probes, such as belief,specificity,text; default: usual."),
    ] = None,
    references: Annotated[
        Path | None, typer.Option(help="Reference texts for consistency, as published for CounterFact.")
    ] = None,
    ability: Annotated[
        list[str] | None, typer.Option(help="A task of lm-eval, or pocket_facts, or a task's YAML; repeatable.")
    ] = None,
    ability_limit: Annotated[int | None, typer.Option(help="Records of each task.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write all scores as JSON, which `errata report` reads.")
    ] = None,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: Trust = False,
) -> None:
    """Efficacy, generalisation and specificity, the unedited model's own scores beside."""
    from errata.cli.work.evaluate import run_of, scored, show_scores
    from errata.cli.work.opening import open_decoder
    from errata.editors.saved import load_edit
    from errata.evaluate import probes
    from errata.evaluate.ability import general_ability
    from errata.evaluate.benchmarks import named_cases

    asked = named_cases(cases, layout=layout, limit=limit, references=references)
    wanted = probes(*families.split(",")) if families else probes()
    decoder = open_decoder(model, dtype, device, trust_remote_code)
    saved = load_edit(edit) if edit else None
    with progress() as tell:
        scores = scored(decoder, asked, wanted, saved, tell)
    run = run_of(decoder, cases, asked, scores, command_line())
    if saved:
        run.settings.update({"edit": str(edit), "facts": len(saved.facts)})
    if ability:
        run.ability = [skill.to_json() for skill in general_ability(decoder, ability, limit=ability_limit)]
    if output is not None and fleet().leads:
        run.write_record(output)
    show_scores(run, scores["unedited"].missing)
    if output is not None and fleet().leads:
        out.print(f"all scores, case by case: {output}")
