from __future__ import annotations

import torch

from errata.solvers import LeastSquares, LinearSystem, Truncated
from errata.solvers.truncated import _share

torch.manual_seed(1)
KEYS, RESIDUALS, WEIGHT = torch.randn(4, 9).double(), torch.randn(4, 6).double(), torch.randn(6, 9).double()
SYSTEM = LinearSystem(KEYS, RESIDUALS, WEIGHT, 0)
MOMENT = torch.eye(9, dtype=torch.float64)


def change(solver: LeastSquares | Truncated) -> torch.Tensor:
    return solver.solve(SYSTEM, solver.prepare(MOMENT)).change


def test_keeping_everything_is_the_identity() -> None:
    plain = LeastSquares(1.0)
    assert torch.allclose(change(Truncated(plain, 1.0, 1.0)), change(plain), atol=1e-10)


def test_the_rank_is_the_share_asked_for() -> None:
    assert int(torch.linalg.matrix_rank(change(Truncated(LeastSquares(1.0), 0.5, 1.0)))) == 3


def test_shares_are_floors_and_never_nothing() -> None:
    assert [_share(*of) for of in ((0.6, 6), (0.29, 100), (0.57, 100), (0.1, 6))] == [3, 29, 57, 1]


def test_no_residual_is_no_change() -> None:
    nothing = LinearSystem(KEYS, torch.zeros_like(RESIDUALS), WEIGHT, 0)
    solver = Truncated(LeastSquares(1.0))
    assert not solver.solve(nothing, solver.prepare(MOMENT)).change.any()


def test_a_truncated_change_is_built_from_the_largest_entries_of_the_singular_vectors() -> None:
    left, values, right = torch.linalg.svd(change(LeastSquares(1.0)), full_matrices=False)
    expected = torch.zeros(6, 9, dtype=torch.float64)
    parts = []
    for vectors, length in ((left[:, :3], 6), (right[:3].T, 9)):
        masked = vectors.clone()
        for column in masked.T:
            column[column.abs() < column.abs().sort(descending=True).values[int(0.6 * length) - 1]] = 0
        parts.append(masked * vectors.norm() / masked.norm())
    for i in range(3):
        expected += values[i] * torch.outer(parts[0][:, i], parts[1][:, i])
    assert torch.allclose(change(Truncated(LeastSquares(1.0), 0.6, 0.6)), expected, atol=1e-10)
