"""errata demo: edit facts into the built-in model, show all effects, and undo the edits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.console import command_line, fleet, progress
from errata.cli.options import Window


def demo(
    methods: Annotated[
        str, typer.Option(help="Methods to compare, separated by commas; `errata methods` lists all.")
    ] = "memit,memit+fe",
    facts: Annotated[int, typer.Option(min=1, help="Number of facts to edit.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed that chooses the facts and their new objects.")] = 0,
    window: Window = None,
    weight: Annotated[
        float | None,
        typer.Option(
            help="Preservation weight (lambda) in place of the recipe's. A larger one disturbs less and edits less."
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the edits and the record of the run.")
    ] = Path("runs/demo"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute statistics and anchors anew instead of using stored ones.")
    ] = False,
) -> None:
    """Edit facts into the built-in model by several methods, compare the results, and undo every edit."""
    from errata.cli.work.demo import Demo, announce, show_demo
    from errata.cli.work.opening import open_decoder, recipe_of
    from errata.editors.folder import check_replaceable
    from errata.files import check_folder
    from errata.methods import method as row_of
    from errata.pocket.cases import cases as pocket_cases
    from errata.store import Store

    names = methods.split(",")
    for name in names:
        row_of(name)
    if fleet().leads:
        check_folder(output)
        for name in names:
            check_replaceable(output / "edits" / name)
    decoder = open_decoder("pocket")
    recipe = recipe_of(decoder, None, window)
    if weight is not None:
        recipe = recipe.with_solver("least_squares", weight=weight)
    cases = pocket_cases(facts, seed)
    announce(decoder, recipe, facts)
    with progress() as tell:
        demonstration = Demo(decoder, recipe, cases, Store.nowhere() if fresh else Store.default(), tell)
        run = demonstration.run(names, output / "edits", seed, command_line())
    if fleet().leads:
        run.write(output)
        show_demo(run, facts, output)
