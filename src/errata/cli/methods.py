"""errata methods: the table of methods, or of recipes."""

from __future__ import annotations

from typing import Annotated

import typer

from errata.cli.console import lines, say, show
from errata.cli.options import Plugin


def methods(
    plugin: Plugin = None,
    recipes: Annotated[bool, typer.Option("--recipes", help="List the models that have a recipe instead.")] = False,
) -> None:
    """List the methods: where their targets come from, their solver, what they need, and who published them."""
    from errata.cli.work.methods import installed_methods, method_table, need_lines, paper_lines, recipe_table
    from errata.cli.work.opening import table_of

    if recipes:
        show(recipe_table())
        return
    rows = {**table_of(plugin), **installed_methods()}
    show(method_table(rows))
    lines([*need_lines(rows), *paper_lines(rows)])
    say(
        "Any other pair has a name too: blue:emmet has the targets of blue and the solver\n"
        "of emmet, and in blue:prune:emmet that solver is restrained as in prune."
    )
