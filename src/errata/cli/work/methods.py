"""Methods and recipes as tables."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from errata.methods import METHODS, Method, Pair, Sibling
from errata.recipe import known_recipes
from errata.record.tables import Table
from errata.solvers import Solver
from errata.targets import TargetConstruction


def recipe_table() -> Table:
    """The recipes shipped with errata."""
    rows = [[r.name, ", ".join(map(str, r.window)), ", ".join(r.models)] for r in known_recipes().values()]
    return Table.plain(["recipe", "window", "models"], rows, 3)


def method_table() -> Table:
    """The methods, their axes, what they need and their papers."""
    rows = [[name, *axes(row), needed(row), row.paper] for name, row in METHODS.items()]
    return Table.plain(["method", "targets", "solver", "needs", "after (arXiv)"], rows, 5)


def needed(row: Method) -> str:
    """What a method needs besides a model and facts."""
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
