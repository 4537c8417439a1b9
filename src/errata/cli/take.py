"""errata take: another point of the path that an edit was taken from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import fleet, progress, say
from errata.cli.ending import INCOMPLETE
from errata.cli.options import CorpusName, Device, Dtype, Layout, Plugin, Trust


def take(
    edit: Annotated[Path, typer.Argument(help="Folder of an edit that was taken from a path.")],
    number: Annotated[int | None, typer.Argument(help="Number of the point. Without it, the path is shown.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to save the new edit in.")] = None,
    base: Annotated[
        str | None, typer.Option(help="The unedited model. Default: as it was named when the edit was made.")
    ] = None,
    require: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the facts that must hold for exit code 0; it is 3 otherwise.")
    ] = 0.0,
    guarded: Annotated[
        bool, typer.Option("--guard/--no-guard", help="Undo an edit that changes too much of what else the model says.")
    ] = True,
    corpus: CorpusName = None,
    plugin: Plugin = None,
    dtype: Dtype = None,
    device: Device = None,
    layout: Layout = None,
    trust_remote_code: Trust = False,
) -> None:
    """Take a gentler or stronger point of an edit's path, solved for again with the anchors saved in the edit."""
    from errata.cli.work.edit import cases_of_facts, check_places, judged, save, show_outcome, show_path
    from errata.cli.work.opening import corpus_of, open_decoder, table_of
    from errata.editor import take as taken
    from errata.editors.guard import USUAL
    from errata.editors.saved import load_edit
    from errata.errors import WrongEdit
    from errata.record.path import path_of

    saved = load_edit(edit)
    path = path_of(saved.manifest)
    if path is None:
        raise WrongEdit(f"{edit} was made at given settings, so there is no path with other points to take")
    if number is None:
        show_path(path)
        return
    path.numbered(number)
    check_places(output, None)
    model = base or str(saved.manifest["model"])
    decoder = open_decoder(model, dtype, device, trust_remote_code, layout)
    options = {"methods": table_of(plugin), "corpus": corpus_of(model, corpus), "guard": USUAL if guarded else None}
    with progress() as tell:
        outcome = taken(decoder, saved, number, **options, progress=tell, fleet=fleet())  # type: ignore[arg-type]
    ledgers = {str(saved.manifest["method"]): outcome.ledger.to_json()}
    if fleet().leads:
        save(outcome, ledgers, output, None)
    told = judged(outcome, cases_of_facts(outcome.facts), output)
    show_outcome(outcome, ledgers, told, len(outcome.facts))
    say(f"point {number} is taken")
    if told is None or told.share < require:
        raise typer.Exit(INCOMPLETE)
