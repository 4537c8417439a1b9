"""Bench tables: what a row is, and its four formats."""

from __future__ import annotations

import csv
import io
import re
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from errata.record.cell import Measured
from errata.record.tables import Table, score_table
from errata.report.bench_tables import COSTS, rendered, write_tables
from errata.report.formats import tex
from errata.report.summary import DETAILS, over_seeds, sections
from tests.bench.records import cell
from tests.report.records import EVIL

RECORDS = [
    cell("a", 10.5, 0.50, 0, weight=3),
    cell("a", 10.7, 0.60, 1, weight=3),
    cell("a", 0.2, 0.40, 0, weight=9),
    cell("a_b & c", 0.3, 0.45, 0),
    cell("unedited", 0.0, 0.01),
    cell("a", 0.2, 0.40, 0, edits=500, weight=9),
]


GRIDS = (
    "tiny, data, 100 edits",
    "tiny, data, 500 edits, weight=9",
    "tiny, data, 100 edits: Gen. acc. at matched D_KL",
    "tiny, data, 100 edits: points",
    COSTS,
)


def test_rows_are_means_over_seeds_with_their_range_and_the_unedited_comes_first() -> None:
    grids = sections(over_seeds(RECORDS))
    assert list(grids) == ["tiny, data, 100 edits", "tiny, data, 500 edits, weight=9"]
    grid = grids["tiny, data, 100 edits"]
    assert list(grid.columns) == ["", "weight", "seeds", "Gen. acc.", "D_KL"]
    assert [row[0] for row in grid.rows] == ["unedited", "a", "a", "a_b & c"]
    assert list(grid.rows[1]) == ["a", "3", "2", "0.550 (.500-.600)", "10.600 (10.500-10.700)"]


def test_a_setting_that_all_rows_share_stands_in_the_title_only() -> None:
    alone = [cell("a", 0.1, 0.5, weight=3, window="1-2"), cell("b", 0.1, 0.5, window="1-2")]
    ((title, grid),) = sections(over_seeds(alone)).items()
    assert title == "tiny, data, 100 edits, window=1-2"
    assert [row[1] for row in grid.rows] == ["3", ""]


def test_a_single_seed_carries_its_interval_over_records() -> None:
    grid = sections(over_seeds(RECORDS))["tiny, data, 100 edits"]
    assert grid.rows[2][3] == "0.400 (.350-.450)"
    assert sections(over_seeds(RECORDS), "below")["tiny, data, 100 edits"].rows[2][3] == "0.400\n±.050"


def test_the_best_edited_row_is_marked_and_never_the_unedited() -> None:
    grid = sections(over_seeds(RECORDS))["tiny, data, 100 edits"]
    assert [list(row[3:]) for row in grid.best] == [[False, False], [True, False], [False, True], [False, False]]


def test_markdown_and_latex_hold_every_row() -> None:
    rows = over_seeds(RECORDS)
    assert "| **0.550 (.500-.600)** |" in rendered(rows, "md")
    text = rendered(rows, "tex")
    assert r"a\_b \& c &" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == len(GRIDS)
    assert r"\textbf{0.550 (.500-.600)}" in text
    assert tex("5% {x}_1^2") == r"5\% \{x\}\_1\textasciicircum{}2"


def test_csv_holds_the_numbers_in_full() -> None:
    first, second, *_ = csv.DictReader(io.StringIO(rendered(over_seeds(RECORDS), "csv")))
    assert (first["method"], first["solvers.least_squares.weight"]) == ("unedited", "")
    assert float(second["generalisation_accuracy"]) == pytest.approx(0.55)
    assert float(second["generalisation_accuracy_sd"]) == pytest.approx(0.0707106781)
    assert second["seeds"] == "0 1"


@pytest.mark.parametrize("form", ["md", "tex", "html"])
def test_every_form_has_scores_frontiers_and_costs(form: str) -> None:
    text = rendered(over_seeds(RECORDS), form)
    places = [text.index(tex(title) if form == "tex" else title) for title in GRIDS]
    assert places == sorted(places)
    assert "process MiB" in text


@pytest.mark.parametrize("text", ["=1+2", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_no_cell_of_a_csv_is_a_formula(text: str) -> None:
    settings = ((text, text), ("weight", -3))
    records = [replace(cell(text, -0.5, 0.5), settings=settings), replace(cell("a", 0.5, 0.5), settings=settings)]
    head, first, second = csv.reader(io.StringIO(rendered(over_seeds(records), "csv"), newline=""))
    shown = "'" + text.replace("\r", "\n")
    assert [*head, *first, *second].count(shown) == 4
    assert not [cell for cell in (*head, *first, *second) if cell == text]
    assert "-3" in first
    assert "-0.5" in first


def test_csv_holds_seconds_and_peak_memory() -> None:
    _, second, *_ = csv.DictReader(io.StringIO(rendered(over_seeds(RECORDS), "csv")))
    assert [float(second[name]) for name in ("seconds_solve", "seconds_total", "mib_process")] == [1.5, 2.0, 9.0]


def test_efficacy_by_subject_and_the_neighbours_entropy_stand_below_the_scores() -> None:
    extra = {
        "efficacy_accuracy_unique": Measured(0.9, 0.8, 1.0, True),
        "efficacy_accuracy_repeated": Measured(0.5, 0.4, 0.6, True),
        "specificity_entropy": Measured(2.0, 1.9, 2.1, None),
    }
    records = [replace(r, scores=r.scores | extra) for r in (cell("unedited", 0, 0), cell("a", 1, 0), cell("b", 2, 1))]
    records[2].scores["efficacy_accuracy_unique"] = Measured(0.7, 0.6, 0.8, True)
    records[2].scores["specificity_entropy"] = Measured(1.0, 0.9, 1.1, None)
    _, (title, grid) = sections(over_seeds(records), "mean").items()
    assert title == f"tiny, data, 100 edits: {DETAILS}"
    assert list(grid.columns) == ["", "seeds", "Acc. unique", "Acc. repeated", "Entropy"]
    assert [list(row) for row in grid.rows[1:]] == [
        ["a", "1", "0.900", "0.500", "2.000"],
        ["b", "1", "0.700", "0.500", "1.000"],
    ]
    assert [list(marks) for marks in grid.best[1:]] == [[False, False, True, False, False], [False] * 5]


def test_of_equal_scores_none_is_the_best() -> None:
    rows = {name: [{"name": "efficacy_accuracy", "value": 0.5}] for name in ("unedited", "a", "b")}
    assert not any(any(marks) for marks in score_table(rows).best)


def test_a_bar_in_a_cell_or_a_head_does_not_cut_a_markdown_table() -> None:
    lines = Table(["", "|d|/|h|"], [["a|b", "1|2"]], [[False, True]]).markdown().splitlines()
    assert lines == [r"|  | \|d\|/\|h\| |", "| --- | ---: |", r"| a\|b | **1\|2** |"]


def test_a_cell_of_a_markdown_table_is_never_markup() -> None:
    text = Table(["", "x"], [["<img src=x>[a](http://b)\n# c", "*d*"]], [[False, False]]).markdown()
    assert "<img" not in text
    assert r"\[a\](" in text
    assert "http://" not in text
    assert len(text.splitlines()) == 3


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert write_tables(RECORDS, tmp_path, ["a, 7 edits <b>"]) == []
    page = (tmp_path / "table.html").read_text()
    assert "<svg" in page
    assert "a_b &amp; c" in page
    assert "a, 7 edits &lt;b&gt;" in page
    assert not re.search(r"(src|href)=[\"'](?!#)", page)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {
        *(f"table.{form}" for form in ("md", "csv", "tex", "html")),
        *(f"frontier.{form}" for form in ("json", "svg", "png")),
        "cells.csv",
    }
    ElementTree.parse(tmp_path / "frontier.svg")
    assert len((tmp_path / "cells.csv").read_text().splitlines()) == 1 + len(RECORDS)


def test_without_matplotlib_the_figure_is_missing_and_this_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    (told,) = write_tables(RECORDS, tmp_path)
    assert "errata[figures]" in told
    assert (tmp_path / "frontier.json").exists()
    assert not (tmp_path / "frontier.svg").exists()


def test_nothing_at_all_is_a_table_too(tmp_path: Path) -> None:
    assert write_tables([], tmp_path) == []
    assert (tmp_path / "table.csv").read_text().strip() == ""


def test_nothing_in_a_bench_becomes_markup() -> None:
    records = [replace(cell(f"{EVIL}{i}", 0.5, 0.5), settings=((f"a.{EVIL}", i),)) for i in range(2)]
    text = rendered(over_seeds(records), "html", [EVIL])
    assert "&lt;script&gt;window.pwned" in text
    assert "<script>window" not in text
    assert "<img" not in text
    assert "javascript:window.pwned=3&#34;" in text
