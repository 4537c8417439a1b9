"""errata methods: the table of methods, or of recipes."""

from __future__ import annotations

from typing import Annotated

import typer

from errata.cli.console import out, show


def methods(
    recipes: Annotated[bool, typer.Option("--recipes", help="List the models there are recipes for instead.")] = False,
) -> None:
    """List the methods: their name, their two axes, what they need, and who published them."""
    from errata.cli.work.methods import method_table, recipe_table

    if recipes:
        show(recipe_table())
        return
    show(method_table())
    out.print("needs: a corpus to gather key statistics from (--corpus), or cases to learn from (--practice)")
    out.print(
        "any other pair: blue:emmet is the targets of one with the solver of the other; blue:prune:emmet restrains it"
    )
