"""Methods and recipes as tables."""

from __future__ import annotations

from collections.abc import Mapping

from errata.cli.console import warn
from errata.errors import BadPlugin
from errata.method import Method, Pair, in_short
from errata.plugins import installed, installed_method
from errata.recipe import known_recipes
from errata.record.tables import Table


def recipe_table() -> Table:
    """The recipes shipped with errata."""
    rows = [[r.name, ", ".join(map(str, r.window)), ", ".join(r.models)] for r in known_recipes().values()]
    return Table.plain(["recipe", "window", "models"], rows, 3)


def installed_methods() -> dict[str, Method]:
    """The methods that installed packages bring; of one that cannot be loaded, a warning."""
    rows = {}
    for name in installed():
        try:
            rows[name] = installed_method(name)
        except BadPlugin as error:
            warn(str(error))
    return rows


def method_table(methods: Mapping[str, Method]) -> Table:
    """The methods, their axes and their papers."""
    rows = [[name, *axes(row), row.paper.label] for name, row in methods.items()]
    return Table.plain(["method", "targets", "solver", "paper"], rows, 4)


def paper_lines(methods: Mapping[str, Method]) -> list[tuple[str, object]]:
    """The address of each paper, under the label that the table has for it."""
    papers = {row.paper.label: row.paper.link for row in methods.values()}
    return [(label, link) for label, link in papers.items() if link]


def need_lines(methods: Mapping[str, Method]) -> list[tuple[str, object]]:
    """What whoever runs a method must give besides a model and facts."""
    trained = [name for name, row in methods.items() if "practice" in row.needs]
    return [
        ("--corpus", "text to gather key statistics from: every method with a solver"),
        ("--practice", f"cases to train on first: {', '.join(trained)}"),
    ]


def axes(row: Method) -> tuple[str, str]:
    """The two axes of locate-then-edit; of another kind of editor, its name."""
    return (in_short(row.construction), in_short(row.solver)) if isinstance(row, Pair) else (row.title, "-")
