"""errata methods: the table of methods, or of recipes."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any

import typer

from errata.cli.console import out, show
from errata.methods import METHODS, Method, Pair, Sibling
from errata.recipe import known_recipes
from errata.record.tables import Table
from errata.solvers import Solver
from errata.targets import TargetConstruction


def methods(
    recipes: Annotated[bool, typer.Option("--recipes", help="List the models there are recipes for instead.")] = False,
) -> None:
    """List the methods: their name, their two axes, what they need, and who published them."""
    if recipes:
        rows = [[r.name, ", ".join(map(str, r.window)), ", ".join(r.models)] for r in known_recipes().values()]
        show(Table.plain(["recipe", "window", "models"], rows, 3))
        return
    shown = [[name, *axes(row), needed(row), row.paper] for name, row in METHODS.items()]
    show(Table.plain(["method", "targets", "solver", "needs", "after (arXiv)"], shown, 5))
    out.print("needs: a corpus to gather key statistics from (--corpus), or cases to learn from (--practice)")
    out.print(
        "any other pair: blue:emmet is the targets of one with the solver of the other; blue:prune:emmet restrains it"
    )


def needed(row: Method) -> str:
    """What whoever runs it must give besides a model and facts."""
    return "corpus" if "statistics" in row.needs else "practice" if "practice" in row.needs else "-"


def axes(row: Method) -> tuple[str, str]:
    """The two axes of locate-then-edit; of another kind of editor, its name."""
    if isinstance(row, Pair):
        return told(row.construction), told(row.solver)
    assert isinstance(row, Sibling)
    return row.kind.__name__, "-"


def told(part: TargetConstruction | Solver) -> str:
    """An axis member with the settings that differ from its defaults."""
    changed: list[str] = []
    for f in fields(part):  # type: ignore[arg-type]
        value: Any = getattr(part, f.name)
        if isinstance(value, Solver | TargetConstruction):
            changed.append(told(value))
        elif value != f.default:
            changed.append(f"{f.name}={value}" if isinstance(value, bool) else str(value))
    return type(part).__name__ + (f"({', '.join(changed)})" if changed else "")
