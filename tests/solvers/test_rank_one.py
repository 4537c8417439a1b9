from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from errata.errors import SingularSystem, SolveError
from errata.solvers import EqualityConstrained, RankOne
from tests.solvers.systems import moment, normal, relative, system

C = moment()


def one_after_another(solver: RankOne, facts: int = 4, bare: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """The change of one solve, and that of ROME's own loop with an explicit inverse (method 2.1)."""
    given = system(facts)
    given = replace(given, bare_keys=given.keys + 0.3 * normal(facts, 12, seed=40))
    meeting = given.bare_keys if bare else given.keys
    assert meeting is not None
    total = torch.zeros(4, 12, dtype=torch.float64)
    inverse = torch.linalg.inv(C + solver.ridge * torch.eye(12).double()) if solver.adjusted else torch.eye(12).double()
    for key, met, residual in zip(given.keys, meeting, given.residuals, strict=True):
        u = inverse @ key / (inverse @ key).norm()
        total += torch.outer((residual - total @ met) / (met @ u), u)
    return solver.solve(given, solver.prepare(C)).change, total


@pytest.mark.parametrize("adjusted", [True, False])
@pytest.mark.parametrize("divisor", ["averaged", "bare"])
@pytest.mark.parametrize("facts", [1, 4])
def test_it_is_romes_loop_over_the_facts(adjusted: bool, divisor: str, facts: int) -> None:
    found, expected = one_after_another(RankOne(adjusted, divisor, ridge=0.1), facts, bare=divisor == "bare")  # type: ignore[arg-type]
    assert relative(found, expected) < 1e-11


def test_one_fact_is_the_exact_constraint() -> None:
    """Method 7.3."""
    given = system(1)
    exact = EqualityConstrained(gamma=0.0)
    change = RankOne().solve(given, RankOne().prepare(C)).change
    assert relative(change, exact.solve(given, exact.prepare(C)).change) < 1e-11
    assert torch.linalg.matrix_rank(change) == 1


def test_the_last_fact_is_met_exactly_and_the_first_is_not() -> None:
    given = system(3)
    left = given.residuals - given.keys @ RankOne().solve(given, RankOne().prepare(C)).change.T
    assert float(left[-1].norm()) < 1e-11
    assert float(left[0].norm()) > 1e-3


def test_the_mismatch_of_the_original_misses_the_averaged_key_and_meets_the_bare_one() -> None:
    given = replace(system(1), bare_keys=normal(1, 12, seed=40))
    solver = RankOne(divisor="bare")
    change = solver.solve(given, solver.prepare(C)).change
    assert given.bare_keys is not None
    assert relative(given.bare_keys @ change.T, given.residuals) < 1e-11
    assert relative(given.keys @ change.T, given.residuals) > 1e-3


def test_the_size_of_the_statistics_does_not_matter() -> None:
    solver, given = RankOne(), system(3)
    assert (
        relative(solver.solve(given, solver.prepare(7 * C)).change, solver.solve(given, solver.prepare(C)).change)
        < 1e-11
    )


def test_a_divisor_without_bare_keys_is_refused() -> None:
    solver = RankOne(divisor="bare")
    with pytest.raises(SolveError, match=r"layer 5: .* needs the keys of the bare prompts"):
        solver.solve(system(), solver.prepare(C))


def test_a_key_that_does_not_meet_its_direction_is_refused_by_layer_and_fact() -> None:
    given = system(2)
    solver = RankOne(adjusted=False, divisor="bare")
    bare = torch.stack([given.keys[0], torch.linalg.svd(given.keys).Vh[-1]])
    with pytest.raises(SingularSystem, match=r"layer 5: the keys of facts \[1\] do not meet"):
        solver.solve(replace(given, bare_keys=bare), solver.prepare(C))


def test_singular_statistics_are_refused_before_any_fact_is_seen() -> None:
    with pytest.raises(SingularSystem, match=r"layer 4: .* rank 3 of 12 .*rank_one\.ridge \(now 0\)"):
        RankOne().prepare(moment(tokens=3), layer=4)


def test_an_unknown_divisor_is_refused() -> None:
    with pytest.raises(SolveError, match=r"rank_one\.divisor = 'mean', expected averaged or bare"):
        RankOne(divisor="mean")  # type: ignore[arg-type]
