"""The frontier's arithmetic, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from errata.report.frontier import Curve, common_range, curves, frontiers, levels, matched
from errata.report.summary import over_seeds
from tests.bench.records import cell

RISING = Curve.of("rising", [(0.01, 0.2), (1.0, 0.8), (0.1, 0.4)])


def test_between_points_the_score_is_linear_in_the_logarithm_of_kl() -> None:
    assert RISING.at(0.1) == pytest.approx(0.4)
    assert RISING.at(math.sqrt(0.1 * 1.0)) == pytest.approx(0.6)
    assert RISING.at(math.sqrt(0.01 * 0.1)) == pytest.approx(0.3)
    assert RISING.at(0.01) == 0.2
    assert RISING.at(1.0) == 0.8


def test_a_curve_says_nothing_outside_its_points() -> None:
    assert RISING.at(0.009) is None
    assert RISING.at(1.1) is None
    assert RISING.area(0.001, 0.1) is None


def test_an_edit_that_moved_nothing_is_no_point() -> None:
    assert Curve.of("c", [(0.0, 0.1), (0.5, 0.3)]).points == ((0.5, 0.3),)
    assert Curve.of("c", []).at(0.5) is None


def test_the_area_of_a_rising_curve_is_that_under_it() -> None:
    # trapezoids over log10 KL: (0.2 + 0.4) / 2 + (0.4 + 0.8) / 2
    assert RISING.area(0.01, 1.0) == pytest.approx(0.3 + 0.6)
    assert RISING.area(0.1, 1.0) == pytest.approx(0.6)


def test_the_area_counts_the_best_score_reached_so_far() -> None:
    dip = Curve.of("dip", [(0.01, 0.6), (0.1, 0.2), (1.0, 1.0)])
    # flat at 0.6 over the first decade; in the second the curve passes 0.6 half-way: 0.6 / 2 + (0.6 + 1) / 2 / 2
    assert dip.area(0.01, 1.0) == pytest.approx(0.6 + 0.3 + 0.4)


def test_points_below_the_range_count_as_reached() -> None:
    falling = Curve.of("falling", [(0.01, 0.9), (0.1, 0.5), (1.0, 0.4)])
    assert falling.area(0.1, 1.0) == pytest.approx(0.9)


def test_the_common_range_is_what_most_curves_cover() -> None:
    other = Curve.of("other", [(0.05, 0.1), (5.0, 0.9)])
    far = Curve.of("far", [(10.0, 0.1), (20.0, 0.2)])
    single = Curve.of("single", [(0.3, 0.5)])
    assert common_range([RISING, other]) == (0.05, 1.0)
    assert common_range([RISING, other, far, single]) == (0.05, 1.0)
    assert common_range([RISING, far]) is None
    assert common_range([RISING]) is None
    assert common_range([single, far]) is None


def test_a_single_point_does_not_cut_the_common_range_in_two() -> None:
    other = Curve.of("other", [(0.01, 0.1), (1.0, 0.9)])
    assert common_range([RISING, other, Curve.of("single", [(0.3, 0.5)])]) == (0.01, 1.0)


def test_levels_divide_the_range_evenly_in_the_logarithm() -> None:
    assert levels(0.01, 1.0, 3) == pytest.approx([0.01, 0.1, 1.0])


def test_matched_scores_mark_the_best_and_leave_gaps_where_there_is_no_overlap() -> None:
    better = Curve.of("better", [(0.01, 0.3), (1.0, 0.9)])
    far = Curve.of("far", [(10.0, 1.0), (20.0, 1.0)])
    grid = matched([RISING, better, far])
    assert list(grid.columns) == ["", "D_KL 0.01", "D_KL 0.0316", "D_KL 0.1", "D_KL 0.316", "D_KL 1", "area", "mean"]
    assert list(grid.rows[0]) == ["rising", "0.200", "0.300", "0.400", "0.600", "0.800", "0.900", "0.450"]
    assert list(grid.rows[1]) == ["better", "0.300", "0.450", "0.600", "0.750", "0.900", "1.200", "0.600"]
    assert list(grid.rows[2]) == ["far", *"-------"]
    assert [row[1] for row in grid.best] == [False, True, False]


def test_methods_that_nowhere_overlap_are_said_to_be_so() -> None:
    grid = matched([RISING, Curve.of("far", [(10.0, 1.0), (20.0, 1.0)])])
    assert list(grid.columns) == ["", "no two curves overlap"]
    assert [list(row) for row in grid.rows] == [["rising", "-"], ["far", "-"]]


def test_points_are_means_over_seeds_and_levels_carry_the_seeds_range() -> None:
    cells = [
        cell(m, kl, a + 0.1 * s, s, weight=w)
        for m in ("a", "b")
        for s in (0, 1)
        for w, kl, a in [(9, 0.1, 0.2), (1, 1.0, 0.6)]
    ]
    rows = over_seeds([cell("unedited", 0.0, 0.01), *cells])
    (a, b) = curves(rows, "generalisation_accuracy")
    assert (a.name, b.name) == ("a", "b")
    assert [number for point in a.points for number in point] == pytest.approx([0.1, 0.25, 1.0, 0.65])
    tables = frontiers(rows)
    scores, points = tables.values()
    assert scores.rows[0][1] == "0.250 (.200-.300)"
    assert [row[0] for row in points.rows] == ["a, weight=9", "a, weight=1", "b, weight=9", "b, weight=1"]


def test_a_second_swept_setting_makes_further_curves() -> None:
    cells = [cell("a", 0.1 * w, 0.5, weight=w, window=x) for w in (1, 2) for x in ("1-2", "2-3")]
    assert [c.name for c in curves(over_seeds(cells), "generalisation_accuracy")] == ["a, window=1-2", "a, window=2-3"]


def test_without_a_sweep_there_are_no_frontiers() -> None:
    assert frontiers(over_seeds([cell("a", 0.1, 0.5, weight=3), cell("b", 0.2, 0.6, weight=3)])) == {}
