"""errata undo: what a checkpoint was before it was edited."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import fleet
from errata.cli.options import AsJson


def undo(
    checkpoint: Annotated[
        Path, typer.Argument(help="A checkpoint that `errata apply` or `errata export --to checkpoint` wrote.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write the original model to.")],
    as_json: AsJson = False,
) -> None:
    """Write the model that an edited checkpoint was made from, bit for bit. No model is loaded."""
    from errata.cli.work.export import show_written
    from errata.export.original import write_original
    from errata.files import check_folder, refuse_to_replace

    if not fleet().leads:
        return
    refuse_to_replace(output)
    check_folder(output)
    show_written(write_original(checkpoint, output), output, as_json)
