"""errata evaluate: score a model, edited or not, on a file of cases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import Device, Dtype, Model, Trust, fleet, open_decoder, out, progress, show
from errata.editors.saved import load_edit
from errata.evaluate import evaluate as score
from errata.evaluate import probes
from errata.evaluate.ability import general_ability
from errata.evaluate.benchmarks import read_cases
from errata.report.tables import score_grid, skill_grid


def evaluate(
    model: Model,
    cases: Annotated[str, typer.Argument(help="A file of cases in any known layout, or a dataset name.")],
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
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write all scores as JSON.")] = None,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: Trust = False,
) -> None:
    """Efficacy, generalisation and specificity, the unedited model's own scores beside."""
    asked = read_cases(cases, layout=layout, limit=limit, references=references)
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
    records = {name: scores.to_json() for name, scores in found.items()}
    show(score_grid(records), f"{len(asked)} cases, {decoder.name}")
    protocols = sorted({s["protocol"] for scores in records.values() for s in scores})
    out.print(f"protocols: {', '.join(protocols)}", highlight=False)
    for name, why in found["unedited"].missing.items():
        out.print(f"no {name}: {why}", style="dim", highlight=False)
    if skills:
        show(skill_grid([skill.to_json() for skill in skills]), "General ability")
    if output is not None and fleet().leads:
        output.parent.mkdir(parents=True, exist_ok=True)
        everything = {"scores": records, "ability": [skill.to_json() for skill in skills]}
        output.write_text(json.dumps(everything, indent=1), encoding="utf-8")
        out.print(f"all scores, case by case: {output}")
