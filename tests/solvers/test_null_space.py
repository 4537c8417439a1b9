from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from errata.errors import EmptyNullSpace, FullNullSpace, SingularSystem, SolveError
from errata.solvers import NullSpace
from tests.solvers.systems import moment, normal, regression, relative, system

C = moment()
THRESHOLD = 0.5
EYE = torch.eye(12, dtype=torch.float64)


def projector(statistics: torch.Tensor = C, threshold: float = THRESHOLD) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(statistics)
    kept = vectors[:, values < threshold]
    return kept @ kept.T


@pytest.mark.parametrize("facts", [1, 5, 40])
@pytest.mark.parametrize("sequential", [False, True])
def test_the_change_is_that_of_the_published_formula(facts: int, sequential: bool) -> None:
    """(P (K^T K + B) + ridge * I)^-1 P K^T R, not symmetric (method 2.11)."""
    given, p = system(facts), projector()
    past = moment(seed=9) if sequential else torch.zeros(12, 12, dtype=torch.float64)
    expected = torch.linalg.solve(
        p @ (given.keys.T @ given.keys + past) + 2.0 * EYE, p @ given.keys.T @ given.residuals
    ).T
    solver = NullSpace(THRESHOLD, ridge=2.0)
    solution = solver.solve(given, solver.prepare(C, past if sequential else None))
    assert relative(solution.change, expected) < 1e-12
    assert solution.residual < 1e-13
    assert solution.rank == round(float(p.trace()))


def test_the_change_lies_in_the_null_space() -> None:
    solver = NullSpace(THRESHOLD)
    change = solver.solve(system(), solver.prepare(C)).change
    assert relative(change @ projector(), change) < 1e-14


def test_keys_outside_the_null_space_see_no_change() -> None:
    solver = NullSpace(THRESHOLD, ridge=0.1)
    change = solver.solve(system(), solver.prepare(C)).change
    preserved = normal(12, seed=30) @ (EYE - projector())
    assert float((change @ preserved).norm()) < 1e-13 * float(change.norm() * preserved.norm())


def test_without_a_ridge_to_speak_of_the_projected_keys_are_met_exactly() -> None:
    given, solver = system(3), NullSpace(THRESHOLD, ridge=1e-10)
    change = solver.solve(given, solver.prepare(C)).change
    torch.testing.assert_close(given.keys @ projector() @ change.T, given.residuals, rtol=1e-7, atol=1e-7)


def test_where_the_keys_avoid_what_is_preserved_it_is_ridge_regression() -> None:
    """Method 7.5, threshold beyond every direction the keys have."""
    p = projector(threshold=float(torch.linalg.eigvalsh(C)[-1]))  # all but the largest
    given = replace(system(), keys=system().keys @ p)
    solver = NullSpace(float(torch.linalg.eigvalsh(C)[-1]), ridge=2.0)
    solution = solver.solve(given, solver.prepare(C))
    assert solution.rank == 11
    assert relative(solution.change, regression(given, 2.0 * EYE)) < 1e-12


def test_a_known_basis_is_used_again_when_a_past_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    solver, past = NullSpace(THRESHOLD), moment(seed=9)
    known, afresh = solver.prepare(C), solver.prepare(C, past)
    monkeypatch.setattr(torch.linalg, "eigh", None)
    again = solver.prepare(C, past, known=known)
    assert all(torch.equal(again[name], afresh[name]) for name in ("basis", "past"))
    assert torch.equal(
        solver.solve(system(), solver.prepare(C, None, known=again)).change, solver.solve(system(), known).change
    )


def test_an_empty_null_space_is_refused_before_any_fact_is_seen() -> None:
    with pytest.raises(EmptyNullSpace) as caught:
        NullSpace(1e-3).prepare(C, layer=5)
    smallest = float(torch.linalg.eigvalsh(C)[0])
    assert str(caught.value) == (
        f"layer 5: 0 of 12 directions have eigenvalue < 0.001 (smallest {smallest:.2g}). This edit would do nothing."
        " Raise solvers.null_space.threshold, or gather more keys (errata statistics)."
    )


def test_a_null_space_of_everything_is_refused() -> None:
    with pytest.raises(FullNullSpace, match=r"layer 5: all 12 directions .* Nothing would be preserved\. Lower"):
        NullSpace(1e3).prepare(C, layer=5)


def test_no_ridge_and_no_past_is_a_singular_system_named_by_layer() -> None:
    solver = NullSpace(THRESHOLD, ridge=0.0)
    with pytest.raises(SingularSystem, match=r"layer 5: .* has rank 0 of .*null_space\.ridge \(now 0\)"):
        solver.solve(system(), solver.prepare(C))


@pytest.mark.parametrize("settings", [{"threshold": 0.0}, {"ridge": -1.0}, {"threshold": math.nan}])
def test_settings_out_of_range_are_refused_by_name(settings: dict[str, float]) -> None:
    with pytest.raises(SolveError, match=f"found null_space.{next(iter(settings))} = "):
        NullSpace(**settings)
