"""errata statistics: gather and export the second moments of keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from errata.cli.console import fleet, progress, say, show
from errata.cli.options import CorpusName, Device, Dtype, Layout, Model, RecipeName, Trust, Window


def statistics(
    model: Model,
    corpus: CorpusName = None,
    tokens: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Number of tokens to read; 0 reads the whole corpus. Default: the recipe's, "
            "or a few for each dimension of a key.",
        ),
    ] = None,
    window: Window = None,
    recipe: RecipeName = None,
    export: Annotated[
        Path | None, typer.Option(help="Folder to write the statistics to as well, as layer-N.safetensors.")
    ] = None,
    dtype: Dtype = None,
    device: Device = None,
    layout: Layout = None,
    trust_remote_code: Trust = False,
) -> None:
    """Gather the key statistics of the layers to be edited, in one pass over a corpus, and store them.

    Without a corpus, text that the model writes itself is taken, or statistics that the store holds already.
    """
    from dataclasses import replace

    from errata.cli.work.opening import corpus_of, open_decoder, recipe_of
    from errata.editors.supplies import Supplies
    from errata.files import check_folder
    from errata.record.tables import Table
    from errata.store import Store

    if export is not None and fleet().leads:
        check_folder(export)
    decoder = open_decoder(model, dtype, device, trust_remote_code, layout)
    chosen = recipe_of(decoder, recipe, window)
    if tokens is not None:
        chosen = replace(chosen, statistics=replace(chosen.statistics, tokens=tokens))
    with progress() as tell:
        given: Any = {"store": Store.default(), "progress": tell, "fleet": fleet()}
        supplies = Supplies(decoder, chosen, corpus=corpus_of(model, corpus), **given)
        gathered = supplies.statistics(chosen.window)
    if note := supplies.source(sorted(set(chosen.window))).note:
        say(note)
    if not fleet().leads:
        return
    rows = [[str(layer), f"{s.count:,}", str(s.inner), f"{s.convergence:.3f}"] for layer, s in gathered.items()]
    show(Table.plain(["layer", "tokens", "inner", "convergence"], rows, 0))
    say("convergence: estimated relative difference between the moments of two halves of the sample")
    if export is not None:
        for layer, value in gathered.items():
            value.save(export / f"layer-{layer}.safetensors")
        say(f"written to {export}")
