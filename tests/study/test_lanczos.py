"""Lanczos against dense eigenvalues."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from errata.study.lanczos import extremes


def symmetric(count: int, size: int) -> Tensor:
    matrix = torch.randn(count, size, size, dtype=torch.float64)
    return matrix + matrix.mT


def ends_of(matrix: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    start = torch.randn(matrix.shape[:2], dtype=matrix.dtype)
    generator = torch.Generator().manual_seed(1)
    found = extremes(lambda v: torch.einsum("fij,fj->fi", matrix, v), start, steps, generator)
    return found.lowest, found.highest, torch.maximum(found.lowest_residual, found.highest_residual)


def test_all_steps_give_the_ends_of_the_spectrum() -> None:
    matrix = symmetric(3, 30)
    low, high, residual = ends_of(matrix, 100)
    values = torch.linalg.eigvalsh(matrix)
    torch.testing.assert_close(low, values[:, 0])
    torch.testing.assert_close(high, values[:, -1])
    assert residual.max() < 1e-9


def test_few_steps_stay_inside_the_spectrum_and_within_their_residual_of_an_eigenvalue() -> None:
    matrix = symmetric(4, 80)
    low, high, residual = ends_of(matrix, 15)
    values = torch.linalg.eigvalsh(matrix)
    assert (low >= values[:, 0] - 1e-9).all()
    assert (high <= values[:, -1] + 1e-9).all()
    for end in (low, high):
        assert ((values - end[:, None]).abs().amin(1) <= residual + 1e-9).all()


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_an_invariant_subspace_is_left(scale: float) -> None:
    matrix = scale * torch.diag_embed(torch.tensor([[-2.0, 1.0, 1.0, 1.0, 3.0], [1.0, 1.0, 1.0, 1.0, 1.0]]).double())
    low, high, _ = ends_of(matrix, 5)
    torch.testing.assert_close(low, scale * torch.tensor([-2.0, 1.0]).double())
    torch.testing.assert_close(high, scale * torch.tensor([3.0, 1.0]).double())
