from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from errata.errors import SingularSystem, SolveError
from errata.solvers import EqualityConstrained, LeastSquares, LinearSystem, Solution, Solver
from tests.solvers.systems import moment, relative, system

C = moment()


def solved(solver: Solver, given: LinearSystem, past: torch.Tensor | None = None) -> Solution:
    return solver.solve(given, solver.prepare(C, past))


@pytest.mark.parametrize("facts", [1, 5, 12, 40])
def test_the_change_is_that_of_the_dense_formula(facts: int) -> None:
    given, past = system(facts), moment(seed=9)
    inverse = torch.linalg.inv(3.0 * C + past + 0.2 * torch.eye(12, dtype=torch.float64))
    gram = given.keys @ inverse @ given.keys.T + 0.1 * torch.eye(facts, dtype=torch.float64)
    solution = solved(EqualityConstrained(3.0, gamma=0.1, ridge=0.2), given, past)
    assert relative(solution.change, given.residuals.T @ torch.linalg.inv(gram) @ given.keys @ inverse) < 1e-11
    assert solution.residual < 1e-12


@pytest.mark.parametrize("facts", [1, 5, 12, 40])
@pytest.mark.parametrize("gamma", [0.1, 1.0, 7.0])
def test_with_gamma_it_is_least_squares_at_another_weight(facts: int, gamma: float) -> None:
    """Method 7.2."""
    given = system(facts)
    found = solved(EqualityConstrained(15000.0, gamma), given)
    assert relative(found.change, solved(LeastSquares(gamma * 15000.0), given).change) < 1e-12


@pytest.mark.parametrize("facts", [1, 5, 12])
def test_without_gamma_every_fact_is_met_exactly(facts: int) -> None:
    """Method 7.3."""
    given = system(facts)
    solution = solved(EqualityConstrained(3.0, gamma=0.0), given)
    assert relative(given.keys @ solution.change.T, given.residuals) < 1e-10
    assert solution.residual < 1e-10


def test_no_other_change_that_meets_the_facts_disturbs_less() -> None:
    given = system()
    change = solved(EqualityConstrained(3.0, gamma=0.0), given).change
    beside = torch.linalg.svd(given.keys).Vh[5:]  # directions no key has
    for seed in range(5):
        other = change + 0.1 * system(seed=seed, inner=7).weight @ beside
        assert relative(given.keys @ other.T, given.residuals) < 1e-10
        assert (other @ C @ other.T).trace() > (change @ C @ change.T).trace()


def test_the_exact_change_does_not_depend_on_the_weight() -> None:
    low, high = (solved(EqualityConstrained(weight, gamma=0.0), system()).change for weight in (1.0, 15000.0))
    assert relative(low, high) < 1e-11


@pytest.mark.parametrize("facts", [2, 40])
def test_facts_with_the_same_key_cannot_be_met_exactly(facts: int) -> None:
    given = system(facts)
    given.keys[1] = given.keys[0]
    with pytest.raises(SingularSystem, match=rf"layer 5: .* has rank \d+ of {facts} .*\.gamma \(now 0\)"):
        solved(EqualityConstrained(gamma=0.0), given)
    assert solved(EqualityConstrained(gamma=0.1), given).residual < 1e-12


def test_singular_statistics_are_refused_before_any_fact_is_seen() -> None:
    with pytest.raises(SingularSystem, match=r"layer 4: .* rank 3 of 12 .*equality_constrained\.ridge \(now 0\)"):
        EqualityConstrained().prepare(moment(tokens=3), layer=4)


def test_no_residual_is_no_change() -> None:
    given = replace(system(), residuals=torch.zeros(5, 4))
    assert not solved(EqualityConstrained(), given).change.any()


def test_settings_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(SolveError, match=r"found equality_constrained\.gamma = -0\.1, expected a number >= 0"):
        EqualityConstrained(gamma=-0.1)
