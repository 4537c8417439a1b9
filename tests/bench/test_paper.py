"""The paper's tables: grids that can be read and run, figures that are complete, a comparison beside ours."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

from errata.bench import Grid, read_grid
from errata.errors import UnknownName
from errata.methods import METHODS
from errata.paper import paper_curves, paper_table, paper_tables
from errata.recipe import known_recipes, read_recipe
from errata.record.tables import SCORE_COLUMNS
from errata.report.bench_tables import rendered
from errata.report.comparison import comparison, comparison_values
from errata.report.summary import over_seeds
from tests.bench.records import cell
from tests.bench.test_cli import room, run

__all__ = ["room"]

FOLDER = Path(__file__).parents[2] / "benchmarks" / "paper"
GRIDS = sorted(FOLDER.glob("*.yaml"))
RECIPES = sorted((FOLDER / "recipes").glob("*.yaml"))
LLAMA = paper_table("table3_llama3_mcf")


def test_there_is_a_grid_for_each_published_table() -> None:
    assert {path.stem for path in GRIDS} - {"pocket"} == set(paper_tables())
    assert len(paper_tables()) == 8


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_a_grid_reads_and_knows_every_name_in_it(path: Path) -> None:
    grid = read_grid(path, {})
    assert set(grid.methods) <= set(METHODS)
    grid.check()
    assert grid.paper
    table = paper_table(grid.paper)
    compared = {row.name for method in grid.methods if (row := table.row_of(method))}
    if path.stem != "pocket":
        assert grid.paper == path.stem
        assert compared == {row.name for row in table.rows}
        assert grid.models == (table.model,)
        assert (grid.edits, Path(grid.datasets[0]).name) == ((table.edits,), table.dataset)
        assert (FOLDER.parents[1] / str(grid.recipe)).is_file()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_of_the_paper_gives_every_method_its_settings(path: Path) -> None:
    recipe = read_recipe(path.read_text(), path.name)
    for method in METHODS.values():
        method.pipeline(recipe, 48)
    shipped = known_recipes()[path.stem]
    assert (recipe.window, recipe.anchor) == (shipped.window, shipped.anchor)
    assert recipe.solvers["least_squares"] == {"weight": 15000, "ridge": 0}
    assert recipe.solvers["null_space"] == {"threshold": 0.02, "ridge": 10}


@pytest.mark.parametrize("name", paper_tables())
def test_every_row_of_a_table_has_every_column_in_range(name: str) -> None:
    table = paper_table(name)
    titles = {column for column, _, _ in SCORE_COLUMNS}
    assert len(table.columns) == 8
    assert set(table.columns) <= titles
    for row in table.rows:
        assert set(row.methods) <= set(METHODS)
        assert set(row.values) == set(table.columns)
        assert all(0 <= value <= (100 if table.per_cent(column) else 20) for column, value in row.values.items())
        assert row.values["efficacy_accuracy"] <= row.values["efficacy_success"]
    assert table.notes
    assert "2605.00358" in table.source


def test_figures_that_the_text_of_the_paper_relies_on() -> None:
    assert list(LLAMA.rows[-1].values.values()) == [99.9, 99.8, 93.0, 61.0, 0.34, 82.7, 78.8, 77.8]
    wise = paper_table("table7_gptj_zsre").row_of("wise-merge")
    assert wise is not None
    assert wise.values["specificity_kl"] == 10.87
    for half in ("mcf", "zsre"):
        hosts, alone = paper_table(f"table4_llama3_{half}"), paper_table(f"table3_llama3_{half}")
        for method in ("prune", "rect", "alphaedit"):
            assert hosts.row_of(method).values == alone.row_of(method).values  # type: ignore[union-attr]


def test_the_papers_numbers_by_layer() -> None:
    left = paper_curves("residuals")
    assert left.window == "paper, Llama-3-8B, window 4-8"
    assert left.row("onelayer") == ["-", "-", "-", "-", "0.55"]
    assert left.methods["memit+fe"] == (0.37, 0.15, 0.08, 0.05, 0.03)
    assert paper_curves("cosines").methods == {"memit": (0.34, 0.41, 0.54, 0.72, 1.0)}
    for study in ("cosines", "residuals"):
        curves = paper_curves(study)
        assert set(curves.methods) <= set(METHODS)
        assert {len(values) for values in curves.methods.values()} == {len(curves.layers)}


def test_an_unknown_table_is_told_before_anything_runs() -> None:
    with pytest.raises(UnknownName, match="table3_llama3_mcf"):
        Grid(models="m", datasets="d", methods="memit", paper="table3_llama_mcf").check()


def test_ours_the_papers_and_the_difference_in_the_papers_units() -> None:
    ours = [cell("memit", 0.42, 0.47), cell("memit+fe", 0.34, 0.70), cell("unedited", 0, 0), cell("x", 1, 1)]
    rows = over_seeds(ours)
    ((title, grid),) = comparison(rows, LLAMA).items()
    assert title == "tiny, data, 100 edits, beside the paper's table 3: Llama-3-8B-Instruct, MCF, 2000 edits"
    assert list(grid.columns) == ["", "", "Gen. acc.", "D_KL"]
    assert [list(line) for line in grid.rows] == [
        ["memit", "ours", "47.0", "0.42"],
        ["", "paper", "48.0", "0.41"],
        ["", "difference", "-1.0", "+0.01"],
        ["memit+fe", "ours", "70.0", "0.34"],
        ["", "paper", "61.0", "0.34"],
        ["", "difference", "+9.0", "+0.00"],
        ["", "pairs in order", "1/1", "1/1"],
    ]
    assert list(grid.best[2]) == [False, False, True, True]
    assert list(grid.best[5]) == [False, False, False, True]
    first = comparison_values(rows, LLAMA)[0]
    assert (first["score"], first["paper"], first["table"]) == ("generalisation_accuracy", 48.0, LLAMA.key)
    assert first["difference"] == pytest.approx(-1.0)


def test_an_order_that_is_turned_round_is_counted() -> None:
    rows = over_seeds([cell("memit", 0.2, 0.9), cell("memit+fe", 0.3, 0.8), cell("onelayer", 0.1, 0.1)])
    (grid,) = comparison(rows, LLAMA).values()
    assert list(grid.rows[-1]) == ["", "pairs in order", "2/3", "2/3"]


def test_rows_that_the_paper_does_not_have_are_not_compared() -> None:
    assert comparison(over_seeds([cell("emmet", 0.1, 0.5), cell("unedited", 0, 0)]), LLAMA) == {}
    assert "arXiv 2605.00358" not in rendered(over_seeds([cell("emmet", 0.1, 0.5)]), "md", paper=LLAMA)


@pytest.mark.parametrize("form", ["md", "tex", "html"])
def test_every_form_has_the_comparison_and_its_footnotes(form: str) -> None:
    text = rendered(over_seeds([cell("rect", 0.1, 0.5)]), form, paper=LLAMA)
    assert "pairs in order" in text
    assert "largest entries by absolute value" in text
    assert "chat template" not in text


def test_a_tiny_model_is_printed_beside_the_paper(room: Path) -> None:
    done = run(room, "--methods", "memit", "--sweep", "solvers.least_squares.weight=1", "--paper", LLAMA.key)
    assert done.exit_code == 0
    assert "pairs in order" in done.stdout
    assert "arXiv 2605.00358 v2, table 3" in done.stdout
    values = list(csv.DictReader((room / "out" / "paper.csv").read_text().splitlines()))
    assert {row["method"] for row in values} == {"memit"}
    assert len(values) == 3 * 8
    with pytest.raises(UnknownName, match="Did you mean"):
        run(room, "--paper", "table3_llama3_msf")


def test_a_grid_file_names_its_table(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(yaml.safe_dump({"models": "m", "datasets": "d", "methods": "memit", "paper": LLAMA.key}))
    assert read_grid(path, {}).paper == LLAMA.key
