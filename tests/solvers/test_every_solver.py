"""What holds for each solver; a new one is tested by being listed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from errata.method import Pair, configured
from errata.methods import METHODS
from errata.solvers import (
    LeastSquares,
    LinearSystem,
    NullSpace,
    RankOne,
    Restrained,
    Solver,
    Sparsified,
    Wrapper,
)
from errata.store import Store
from tests.solvers.systems import moment, relative
from tests.solvers.systems import normal as gaussian
from tests.solvers.systems import system as plain_system

C, PAST = moment(), moment(seed=9)
SETTINGS = {
    "least_squares": {"weight": 2.0, "ridge": 0.1},
    "equality_constrained": {"weight": 2.0},
    "null_space": {"threshold": 0.5},
}
"""For these moments; a solver that needs none runs as it is."""

ROWS = [row.solver for row in METHODS.values() if isinstance(row, Pair)]
SOLVERS: list[Solver] = list(dict.fromkeys(configured(solver, SETTINGS) for solver in ROWS))
LINEAR = [solver for solver in SOLVERS if not isinstance(solver, Wrapper)]
SOLVERS += [Restrained(NullSpace(0.5)), Sparsified(Restrained(LeastSquares(0.1)))]


def system(facts: int = 5) -> LinearSystem:
    """With keys of bare prompts, for those that ask for them."""
    plain = plain_system(facts)
    return replace(plain, bare_keys=plain.keys)


def every(solvers: list[Solver]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("solver", solvers, ids=repr)


@every(SOLVERS)
def test_the_change_is_a_float64_matrix_of_the_weights_shape_and_the_solve_is_accurate(solver: Solver) -> None:
    given = system()
    low = replace(given, keys=given.keys.float(), residuals=given.residuals.bfloat16(), weight=given.weight.bfloat16())
    solution = solver.solve(low, solver.prepare(C.float(), PAST.float()))
    assert solution.change.shape == given.weight.shape
    assert solution.change.dtype == torch.float64
    assert solution.residual < 1e-12


@every(SOLVERS)
def test_no_residual_is_no_change(solver: Solver) -> None:
    nothing = replace(system(), residuals=torch.zeros(5, 4))
    assert not solver.solve(nothing, solver.prepare(C)).change.any()


@every(LINEAR)
def test_the_change_is_linear_in_the_residuals(solver: Solver) -> None:
    given, other, prepared = system(), gaussian(5, 4, seed=50), solver.prepare(C, PAST)
    one, two, both = (
        solver.solve(replace(given, residuals=residuals), prepared).change
        for residuals in (given.residuals, other, 2 * given.residuals - other)
    )
    assert relative(2 * one - two, both) < 1e-11


@every([solver for solver in SOLVERS if not isinstance(solver, RankOne)])
def test_the_order_of_the_facts_does_not_matter(solver: Solver) -> None:
    given, prepared = system(), solver.prepare(C)
    turned = replace(given, keys=given.keys.flip(0), residuals=given.residuals.flip(0))
    assert relative(solver.solve(turned, prepared).change, solver.solve(given, prepared).change) < 1e-11


@every(SOLVERS)
def test_what_was_prepared_serves_from_the_store_and_is_not_altered_by_use(solver: Solver, tmp_path) -> None:
    prepared = solver.prepare(C, PAST)
    Store(tmp_path).put("prepared", {"solver": repr(solver)}, prepared)
    stored = Store(tmp_path).get("prepared", {"solver": repr(solver)})
    assert stored is not None
    for facts in (5, 40):
        first = solver.solve(system(facts), prepared).change
        assert torch.equal(solver.solve(system(facts), stored).change, first)
        assert torch.equal(solver.solve(system(facts), prepared).change, first)


@every(SOLVERS)
def test_nothing_given_is_altered(solver: Solver) -> None:
    given = system()
    parts = (C, PAST, given.keys, given.residuals, given.weight)
    kept = [part.clone() for part in parts]
    total = solver.solve(given, solver.prepare(C, PAST)).change
    before = total.clone()
    solver.finish(total, given.weight)
    assert all(map(torch.equal, kept, parts))
    assert torch.equal(total, before)


@every(SOLVERS)
def test_what_is_known_without_a_past_gives_the_same_with_one(solver: Solver) -> None:
    known = solver.prepare(C)
    given = system()
    for past in (None, PAST):
        afresh = solver.solve(given, solver.prepare(C, past)).change
        assert torch.equal(solver.solve(given, solver.prepare(C, past, known=known)).change, afresh)
