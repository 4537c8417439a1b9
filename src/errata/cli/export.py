"""errata export: write an edit for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import fleet
from errata.cli.options import AsJson, Device, Dtype, Layout, Trust


def export(
    edit: Annotated[Path, typer.Argument(help="Folder of a saved edit.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="What to write: gguf, an edited model for llama.cpp and Ollama; checkpoint, an edited model folder "
            "for transformers; lora, an adapter for PEFT and vLLM; gguf-lora, an adapter for llama.cpp and Ollama.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file or folder to write.")],
    base: Annotated[
        str | None,
        typer.Option(
            help="The unedited model that the edit was made for; for gguf its GGUF file. Default: as it was named when "
            "the edit was made."
        ),
    ] = None,
    type: Annotated[
        str | None,
        typer.Option(
            "--type",
            help="gguf: how to store edited matrices: same (as the file has them), q8_0, f16 and others. Default: the "
            "smallest that keeps every fact.",
        ),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option(help="lora and gguf-lora: at most this rank per matrix. Default: the exact rank of the change."),
    ] = None,
    as_json: AsJson = False,
    dtype: Dtype = None,
    device: Device = None,
    layout: Layout = None,
    trust_remote_code: Trust = False,
) -> None:
    """Write an edit in a form that other programs take, and show what that form keeps of it."""
    from errata.cli.work.export import show_written
    from errata.cli.work.opening import open_decoder
    from errata.editors.saved import load_edit
    from errata.export.base import base_of, change_of_weights
    from errata.export.forms import form_of

    form = form_of(to, {"type": type, "rank": rank})
    change = change_of_weights(load_edit(edit), to)
    model = base_of(change, base)
    form.check(model, output)
    decoder = open_decoder(model, dtype, device, trust_remote_code, layout)
    if fleet().leads:
        show_written(form.write(change, decoder, output), output, as_json)
