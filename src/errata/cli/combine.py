"""errata combine: several edits of one model as one edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import fleet, lines, say
from errata.cli.options import AsJson


def combine(
    edits: Annotated[list[Path], typer.Argument(help="Folders of two or more saved edits of one model.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to save the combined edit in.")],
    as_json: AsJson = False,
) -> None:
    """Put several edits of one model together into one. A fact that two of them hold is refused."""
    from errata.cli.work.show import described, in_words, print_json
    from errata.editors.base import combine as combined
    from errata.editors.folder import check_replaceable
    from errata.editors.saved import load_edit
    from errata.files import check_folder

    if len(edits) < 2:
        raise typer.BadParameter("give two or more edits", param_hint="EDITS")
    if not fleet().leads:
        return
    check_replaceable(output)
    check_folder(output)
    first, *others = map(load_edit, edits)
    combined(first, *others).save(output)
    if as_json:
        print_json(described(output))
        return
    lines(in_words(described(output)))
    say(f"edit saved to {output}")
