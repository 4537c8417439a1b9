"""errata show: what a saved edit holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import fleet, lines, say, show
from errata.cli.options import AsJson


def show_edit(
    edit: Annotated[Path, typer.Argument(help="Folder of a saved edit, or of a checkpoint that errata wrote.")],
    as_json: AsJson = False,
) -> None:
    """Show a saved edit: its facts, method, base, layers and size. No model is loaded."""
    from errata.cli.work.show import SHOWN, described, edit_in, fact_table, in_words, matrix_table, print_json

    if not fleet().leads:
        return
    description = described(edit_in(edit))
    if as_json:
        print_json(description)
        return
    lines(in_words(description))
    if description["facts"]:
        show(fact_table(description))
    if len(description["facts"]) > SHOWN:
        say(f"... and {len(description['facts']) - SHOWN} more facts; --json lists all")
    if description["matrices"]:
        show(matrix_table(description))
