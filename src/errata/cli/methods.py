"""errata methods: the table of methods, or of recipes."""

from __future__ import annotations

from typing import Annotated

import typer

from errata.cli.console import out, show


def methods(
    recipes: Annotated[bool, typer.Option("--recipes", help="List the models that have a recipe instead.")] = False,
) -> None:
    """List the methods: where their targets come from, their solver, what they need, and who published them."""
    from errata.cli.work.methods import method_table, recipe_table

    if recipes:
        show(recipe_table())
        return
    show(method_table())
    out.print("needs: corpus, text from which key statistics are gathered (--corpus); practice, cases to train on")
    out.print(
        "Any other pair has a name too: blue:emmet has the targets of blue and the solver of emmet,\n"
        "and in blue:prune:emmet that solver is restrained as in prune."
    )
