"""Showing what was written in another form."""

from __future__ import annotations

from pathlib import Path

import typer

from errata.cli.console import lines, say
from errata.cli.ending import INCOMPLETE
from errata.cli.work.show import print_json
from errata.export.base import Written


def show_written(written: Written, output: Path, as_json: bool = False) -> None:
    """Print it, as words or as JSON. Ends with INCOMPLETE if a fact that held does so no longer."""
    if as_json:
        said = dict(written.lines)
        print_json({"output": str(output), "complete": written.complete, **said, "notes": list(written.notes)})
    else:
        for note in written.notes:
            say(note, "yellow")
        lines(written.lines)
        say(f"written to {output}")
    if not written.complete:
        raise typer.Exit(INCOMPLETE)
