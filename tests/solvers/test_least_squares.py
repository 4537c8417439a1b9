from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from errata.errors import SingularSystem, SolveError
from errata.solvers import normal
from errata.solvers.base import LinearSystem, Solution
from errata.solvers.least_squares import LeastSquares
from tests.solvers.systems import moment, regression, relative, system
from tests.solvers.systems import normal as gaussian

C = moment()


def solved(solver: LeastSquares, given: LinearSystem, past: torch.Tensor | None = None) -> Solution:
    return solver.solve(given, solver.prepare(C, past))


@pytest.mark.parametrize("facts", [1, 5, 11, 12, 13, 40])
@pytest.mark.parametrize(("weight", "ridge"), [(15000.0, 0.0), (3.0, 0.5), (0.0, 2.0)])
def test_the_change_is_that_of_the_dense_formula(facts: int, weight: float, ridge: float) -> None:
    given, past = system(facts), moment(seed=9)
    solution = solved(LeastSquares(weight, ridge), given, past)
    expected = regression(given, weight * C + past + ridge * torch.eye(12))
    assert relative(solution.change, expected) < 1e-11
    assert solution.residual < 1e-12
    assert solution.rank is None
    assert solution.change.shape == (4, 12)
    assert solution.change.dtype == torch.float64


@pytest.mark.parametrize("facts", [1, 5, 12, 40])
def test_both_forms_agree(facts: int) -> None:
    given = system(facts)
    factor = LeastSquares(7.0).prepare(C)["factor"]
    for slack in (1.0, 0.1):
        few = normal.few_facts(given.keys, given.residuals, factor, slack)
        many = normal.many_facts(given.keys, given.residuals, factor, slack)
        assert few is not None
        assert many is not None
        assert relative(few, many) < 1e-12


def test_the_residual_told_is_about_that_of_the_whole_matrix() -> None:
    """Told on 32 random combinations of 400 rows, of a change that is a little wrong."""
    keys, residuals, wrong = gaussian(5, 12, seed=1), gaussian(5, 400, seed=2), gaussian(400, 12, seed=3)
    change = regression(LinearSystem(keys, residuals, torch.zeros(400, 12), layer=0), 2.0 * C) + 1e-3 * wrong
    left = change @ (keys.T @ keys + 2.0 * C) - residuals.T @ keys
    told = normal.relative_residual(change, keys, residuals, lambda rows: rows @ (2.0 * C))
    assert told == pytest.approx(float(left.norm() / (residuals.T @ keys).norm()), rel=0.3)


def test_the_residual_shrinks_to_the_unexplained_part() -> None:
    """Method 7.4: R - K dW^T = (I + G)^-1 R, with G = K Cp^-1 K^T."""
    given = system()
    left = given.residuals - given.keys @ solved(LeastSquares(2.0), given).change.T
    gram = given.keys @ torch.linalg.inv(2.0 * C) @ given.keys.T
    assert relative(left, torch.linalg.inv(torch.eye(5) + gram) @ given.residuals) < 1e-11
    assert left.norm() < given.residuals.norm()


def test_more_weight_moves_less_and_leaves_more() -> None:
    given = system()
    changes = [solved(LeastSquares(weight), given).change for weight in (0.1, 1.0, 10.0, 100.0)]
    disturbance = [float((change @ C @ change.T).trace()) for change in changes]
    left = [float((given.residuals - given.keys @ change.T).norm()) for change in changes]
    assert disturbance == sorted(disturbance, reverse=True)
    assert left == sorted(left)


def test_past_keys_are_the_same_as_rows_asking_for_no_change() -> None:
    given, earlier = system(), gaussian(3, 12, seed=20)
    rows = replace(
        given,
        keys=torch.cat([given.keys, earlier]),
        residuals=torch.cat([given.residuals, torch.zeros(3, 4, dtype=torch.float64)]),
    )
    solver = LeastSquares(2.0, 0.1)
    assert relative(solved(solver, rows).change, solved(solver, given, earlier.T @ earlier).change) < 1e-12


def test_no_residual_is_no_change() -> None:
    solution = solved(LeastSquares(), replace(system(), residuals=torch.zeros(5, 4)))
    assert not solution.change.any()
    assert solution.residual == 0


def test_the_change_is_float64_and_linear_in_the_residual_whatever_the_inputs() -> None:
    given = system()
    low = LinearSystem(given.keys.bfloat16(), given.residuals.float(), given.weight.half(), 5)
    high = LinearSystem(low.keys.double(), low.residuals.double(), given.weight, 5)
    solver = LeastSquares(2.0)
    prepared = solver.prepare(C.float(), None)
    assert torch.equal(solver.solve(low, prepared).change, solver.solve(high, prepared).change)
    twice = solver.solve(replace(high, residuals=2 * high.residuals), prepared)
    assert torch.equal(twice.change, 2 * solver.solve(high, prepared).change)


def test_neither_half_alters_what_it_is_given() -> None:
    given, past = system(40), moment(seed=9)
    kept = [part.clone() for part in (C, past, given.keys, given.residuals, given.weight)]
    solver = LeastSquares(2.0)
    prepared = solver.prepare(C, past)
    before = prepared["factor"].clone()
    for facts in (40, 5):
        solver.solve(system(facts), prepared)
    solver.solve(given, prepared)
    assert torch.equal(prepared["factor"], before)
    assert all(map(torch.equal, kept, (C, past, given.keys, given.residuals, given.weight)))


def test_singular_statistics_are_enough_when_the_keys_make_up_for_them() -> None:
    """Ordinary least squares: no preservation, more facts than directions."""
    given = system(40)
    solution = solved(LeastSquares(weight=0.0), given)
    assert relative(solution.change, torch.linalg.lstsq(given.keys, given.residuals).solution.T) < 1e-12
    assert solution.residual < 1e-12


@pytest.mark.parametrize("tokens", [3, 6])
def test_a_singular_system_names_layer_rank_condition_and_what_to_try(tokens: int) -> None:
    solver = LeastSquares(weight=2.0)
    prepared = solver.prepare(moment(tokens=tokens))
    with pytest.raises(SingularSystem) as caught:
        solver.solve(system(5), prepared)
    message = str(caught.value)
    assert message.startswith(f"layer 5: the system of statistics and keys has rank {tokens + 5} of 12 (condition ")
    assert message.endswith(
        "Gather more keys than there are directions (errata statistics), or raise solvers.least_squares.ridge"
        " (now 0) or .weight (now 2)."
    )


def test_a_ridge_mends_a_singular_system() -> None:
    poor, given = moment(tokens=3), system()
    solver = LeastSquares(2.0, ridge=1e-3)
    change = solver.solve(given, solver.prepare(poor)).change
    assert relative(change, regression(given, 2.0 * poor + 1e-3 * torch.eye(12))) < 1e-9


def test_keys_of_very_different_scale_are_not_taken_for_singular() -> None:
    scale = torch.logspace(-9, 9, 12, dtype=torch.float64)
    scaled = C * scale[:, None] * scale
    given = system()
    solver = LeastSquares(2.0)
    change = solver.solve(replace(given, keys=given.keys * scale), solver.prepare(scaled)).change
    assert relative(change * scale, solved(solver, given).change) < 1e-10


def test_repeated_facts_are_no_obstacle() -> None:
    given = system()
    double = replace(given, keys=given.keys.repeat(2, 1), residuals=given.residuals.repeat(2, 1))
    assert relative(solved(LeastSquares(4.0), double).change, solved(LeastSquares(2.0), given).change) < 1e-12


@pytest.mark.parametrize("settings", [{"weight": -1.0}, {"ridge": float("nan")}, {"weight": float("inf")}])
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, float]) -> None:
    (name,) = settings
    with pytest.raises(SolveError, match=rf"found least_squares.{name} = .*expected a number >= 0"):
        LeastSquares(**settings)
