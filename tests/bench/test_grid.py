"""Grids: how they are written, which cells they have, which settings mean something to a method."""

from __future__ import annotations

from pathlib import Path

import pytest

from errata.bench import Grid, read_grid
from errata.bench.grid import BadGrid
from errata.bench.settings import check_paths, parse_values, with_settings
from errata.errors import UnknownName
from errata.methods import method
from errata.recipe import BadRecipe, parse_window
from tests.editing import RECIPE

WEIGHT, THRESHOLD = "solvers.least_squares.weight", "solvers.null_space.threshold"


def test_a_setting_is_swept_only_for_methods_that_have_it() -> None:
    grid = Grid(models="m", datasets="d", methods="memit,alphaedit", sweep={WEIGHT: (1, 2, 3), THRESHOLD: (0.1, 0.2)})
    cells = list(grid.cells("m", "d"))
    assert [c.method for c in cells] == ["memit"] * 3 + ["alphaedit"] * 2
    assert len(grid) == 5


def test_a_wrapped_solver_has_both_solvers_settings() -> None:
    check_paths([WEIGHT, "solvers.sparsified.keep"], [method("rect")])
    with pytest.raises(UnknownName, match="Did you mean"):
        check_paths(["solvers.sparsified.kept"], [method("rect")])


def test_values_are_read_from_text() -> None:
    assert parse_values(WEIGHT, "100,3e2,0.5") == (100, 300.0, 0.5)
    assert parse_values("window", "3-7|1,3,5") == ("3-7", "1,3,5")
    assert parse_values("anchor.squared_decay", "true,false") == (True, False)
    assert (parse_window("3-5"), parse_window("1,4"), parse_window("2")) == ((3, 4, 5), (1, 4), (2,))


def test_a_recipe_takes_settings_by_path() -> None:
    changed = with_settings(RECIPE, {"anchor.steps": 9, WEIGHT: 5, "window": "1-2", "context_seed": 4})
    assert (changed.anchor.steps, changed.window, changed.context_seed) == (9, (1, 2), 4)
    assert changed.solvers["least_squares"] == {"weight": 5.0, "ridge": 0.01}
    assert changed.anchor.learning_rate == RECIPE.anchor.learning_rate
    with pytest.raises(BadRecipe, match=r"anchor\.steps"):
        with_settings(RECIPE, {"anchor.steps": 1.5})


def test_a_grid_is_read_from_a_file_and_flags_take_precedence(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(
        "model: pocket\nmethods: memit, blue\nedits: [100, 500]\nseeds: 3\n"
        "sweep:\n  solvers.least_squares.weight: [1e3, 3e3]\n  window: [3-7, 1-5, [1, 3]]\n"
    )
    grid = read_grid(path, {"edits": [7], "seeds": None})
    assert (grid.models, grid.datasets, grid.methods) == (("pocket",), ("pocket",), ("memit", "blue"))
    assert (grid.edits, grid.seeds) == ((7,), (3,))
    assert grid.sweep == {WEIGHT: (1000.0, 3000.0), "window": ("3-7", "1-5", "1,3")}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("models: m\ndatasets: d\nmethod: memit\nedit: 3", "Did you mean 'edits'"),
        ("models: m\ndatasets: d\nmethods: memit\nedits: [0]", "edits"),
        ("models: m\nmethods: memit", "datasets"),
        ("models: m\ndatasets: d", "methods"),
        ("- memit", "expected keys and values"),
        ("a: [", "could not be read"),
    ],
)
def test_a_bad_grid_says_what_is_wrong(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(BadGrid, match=told):
        read_grid(path, {})
