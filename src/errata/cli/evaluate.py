"""errata evaluate: score a model, edited or not, on a file of cases."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from errata.cli.console import Device, Dtype, Model, Trust, fleet, open_decoder, out, progress, show
from errata.editors.saved import load_edit
from errata.evaluate import evaluate as score
from errata.evaluate import probes, retokenised
from errata.evaluate.ability import general_ability
from errata.evaluate.benchmarks import named_cases
from errata.record.run import Run, versions
from errata.record.tables import score_table, skill_table


def evaluate(
    model: Model,
    cases: Annotated[str, typer.Argument(help="A file of cases in any known layout, or a hub name[:config[:split]].")],
    edit: Annotated[
        Path | None, typer.Option(help="Folder of a saved edit to score beside the unedited model.")
    ] = None,
    layout: Annotated[str | None, typer.Option(help="Layout of the file; default: seen from its fields.")] = None,
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
    asked = named_cases(cases, layout=layout, limit=limit, references=references)
    wanted = probes(*families.split(",")) if families else probes()
    decoder = open_decoder(model, dtype, device, trust_remote_code)
    saved = load_edit(edit) if edit else None
    if saved:
        saved.put_on(decoder)
        saved.take_off(decoder)
    with progress() as tell:
        found = {"unedited": score(decoder, asked, wanted, tell, fleet())}
        if saved:
            saved.put_on(decoder)
            found[saved.manifest.get("method", "edited")] = score(decoder, asked, wanted, tell, fleet())
    skills = general_ability(decoder, ability, limit=ability_limit) if ability else []
    settings: dict[str, Any] = {
        "model": decoder.name,
        "fingerprint": decoder.fingerprint,
        "dtype": str(decoder.dtype).removeprefix("torch."),
        "dataset": cases,
        "records": [case.id for case in asked],
        "retokenised": retokenised(decoder, asked),
    }
    if saved:
        settings |= {"edit": str(edit), "facts": len(saved.facts)}
    run = Run(f"{Path(cases).name} on {decoder.name}", " ".join(["errata", *sys.argv[1:]]), settings, versions())
    run.scores = {name: scores.to_json() for name, scores in found.items()}
    run.answers = [{"prompt": case.fact.text, "to say": case.fact.target_new} for case in asked]
    run.ability = [skill.to_json() for skill in skills]
    show(score_table(run.scores), f"{len(asked)} cases, {decoder.name}")
    protocols = sorted({s["protocol"] for scores in run.scores.values() for s in scores})
    out.print(f"protocols: {', '.join(protocols)}", highlight=False)
    for name, why in found["unedited"].missing.items():
        out.print(f"no {name}: {why}", style="dim", highlight=False)
    if differing := settings["retokenised"]:
        out.print(
            f"{len(differing)} cases have other tokens where prompt and answer are one text, as published code has "
            f"them, such as {', '.join(differing[:5])}",
            style="dim",
            highlight=False,
        )
    if run.ability:
        show(skill_table(run.ability), "General ability")
    if output is not None and fleet().leads:
        run.write_record(output)
        out.print(f"all scores, case by case: {output}")
