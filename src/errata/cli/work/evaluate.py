"""The parts of errata evaluate: scoring, the record, and showing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from errata.cli.console import fleet, say, show
from errata.decoder.decoder import Decoder
from errata.editors.base import Edit
from errata.editors.supplies import Progress
from errata.evaluate import Case, Probe, Scores, retokenised
from errata.evaluate import evaluate as score
from errata.record.run import Run, versions
from errata.record.tables import score_table, skill_table


def scored(
    decoder: Decoder, cases: Sequence[Case], probes: Sequence[Probe], edit: Edit | None, progress: Progress
) -> dict[str, Scores]:
    """Scores of the unedited model, and of the edited one, which the decoder is left as."""
    if edit:
        edit.put_on(decoder)  # before the long work: it may be for another model
        edit.take_off(decoder)
    scores = {"unedited": score(decoder, cases, probes, progress, fleet())}
    if edit:
        edit.put_on(decoder)
        scores[edit.manifest.get("method", "edited")] = score(decoder, cases, probes, progress, fleet())
    return scores


def run_of(decoder: Decoder, dataset: str, cases: Sequence[Case], scores: Mapping[str, Scores], command: str) -> Run:
    """The record of an evaluation."""
    settings = {
        "model": decoder.name,
        "identity": decoder.identity.key,
        "dtype": str(decoder.dtype).removeprefix("torch."),
        "dataset": dataset,
        "records": [case.id for case in cases],
        "retokenised": retokenised(decoder, cases),
    }
    run = Run(f"{Path(dataset).name} on {decoder.name}", command, settings, versions())
    run.scores = {name: one.to_json() for name, one in scores.items()}
    run.answers = [{"prompt": case.fact.text, "to say": case.fact.target_new} for case in cases]
    return run


def show_scores(run: Run, missing: Mapping[str, str]) -> None:
    """Print the scores, under which protocols they are, and what could not be scored."""
    show(score_table(run.scores), f"{len(run.answers)} cases, {run.settings['model']}")
    protocols = sorted({s["protocol"] for scores in run.scores.values() for s in scores})
    say(f"protocols: {', '.join(protocols)}")
    for name, why in missing.items():
        say(f"no {name}: {why}", "dim")
    if differing := run.settings["retokenised"]:
        say(
            f"In {len(differing)} cases, prompt and answer tokenised as one text, as in published code, would give "
            f"other tokens, such as in {', '.join(differing[:5])}",
            "dim",
        )
    if run.ability:
        show(skill_table(run.ability), "General ability")
