"""errata statistics: gather, export or import the second moments of keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import fleet, out, progress, show
from errata.cli.options import CorpusName, Device, Dtype, Model, RecipeName, Trust, Window


def statistics(
    model: Model,
    corpus: CorpusName = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens to use; 0: all. Default: 10 per key dimension.")] = None,
    window: Window = None,
    recipe: RecipeName = None,
    export: Annotated[Path | None, typer.Option(help="Also write layer-N.safetensors files to this folder.")] = None,
    dtype: Dtype = None,
    device: Device = None,
    trust_remote_code: Trust = False,
) -> None:
    """Gather key statistics of the window's layers in one pass, and keep them in the store."""
    from dataclasses import replace

    from errata.cli.work.opening import corpus_of, open_decoder, recipe_of
    from errata.editor import Editor
    from errata.record.tables import Table

    decoder = open_decoder(model, dtype, device, trust_remote_code)
    chosen = recipe_of(decoder, recipe, window)
    if tokens is not None:
        chosen = replace(chosen, statistics=replace(chosen.statistics, tokens=tokens))
    with progress() as tell:
        editor = Editor(
            decoder, "every-layer", recipe=chosen, corpus=corpus_of(model, corpus), progress=tell, fleet=fleet()
        )
        found = editor.statistics()
    if not fleet().leads:
        return
    rows = [[str(layer), f"{s.count:,}", str(s.inner), f"{s.convergence:.3f}"] for layer, s in found.items()]
    show(Table.plain(["layer", "tokens", "inner", "convergence"], rows, 0))
    out.print("convergence: estimated relative difference between the moments of two halves of the sample")
    if export is not None:
        for layer, value in found.items():
            value.save(export / f"layer-{layer}.safetensors")
        out.print(f"written to {export}")
