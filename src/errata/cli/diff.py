"""errata diff: what changed between two checkpoints, or between two edits."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from errata.cli.console import fleet, lines, progress, show
from errata.cli.ending import INCOMPLETE
from errata.cli.options import AsJson


class Verdict(StrEnum):
    """How much differs, the least first (`errata.difference`)."""

    identical = "identical"
    surgical = "surgical"
    broad = "broad"


def diff(
    first: Annotated[str, typer.Argument(help="A checkpoint folder or downloaded hub model, or a saved edit.")],
    second: Annotated[str, typer.Argument(help="Another of the same kind.")],
    require: Annotated[
        Verdict | None, typer.Option(help="End with code 3 if more than this differs: identical or surgical.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what changed from one checkpoint or edit to another: which matrices, how much, in how many ranks.

    The verdict is identical; surgical: at most a tenth of the tensors changed, each by at most a quarter of its size
    and in at most a quarter of its ranks; or broad. Tensors are read one at a time.
    """
    from errata.cli.work.diff import compared, difference_table, in_words, sides
    from errata.cli.work.show import print_json

    if not fleet().leads:
        return
    pair = sides(first, second)
    with progress() as tell:
        difference = compared(pair, tell)
    if as_json:
        print_json({"first": first, "second": second, **difference.to_json(), "files": pair.files})
    else:
        if difference.changes:
            show(difference_table(difference))
        lines(in_words(difference, pair))
    order = list(Verdict)
    if require is not None and order.index(Verdict(difference.verdict)) > order.index(require):
        raise typer.Exit(INCOMPLETE)
