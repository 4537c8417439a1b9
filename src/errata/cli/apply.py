"""errata apply: put edits on a model and write it as a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import fleet
from errata.cli.options import AsJson, Device, Dtype, Layout, Model, Trust


def apply(
    model: Model,
    edits: Annotated[list[Path], typer.Argument(help="Folders of one or more saved edits of this model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write the edited model to.")],
    as_json: AsJson = False,
    dtype: Dtype = None,
    device: Device = None,
    layout: Layout = None,
    trust_remote_code: Trust = False,
) -> None:
    """Put edits on a model and write it as a checkpoint, which `errata undo` turns back bit for bit."""
    from errata.cli.work.export import show_written
    from errata.cli.work.opening import open_decoder
    from errata.editors.base import combine
    from errata.editors.saved import load_edit
    from errata.export.base import change_of_weights
    from errata.export.checkpoint import Checkpoint

    form = Checkpoint()
    form.check(model, output)
    first, *others = (change_of_weights(load_edit(edit), "checkpoint") for edit in edits)
    edit = combine(first, *others) if others else first
    decoder = open_decoder(model, dtype, device, trust_remote_code, layout)
    if fleet().leads:
        show_written(form.write(edit, decoder, output), output, as_json)
