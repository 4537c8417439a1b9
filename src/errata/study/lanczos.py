"""Lanczos: the ends of a symmetric operator's spectrum from products with vectors, many operators at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Apply = Callable[[Float[Tensor, "fact n"]], Float[Tensor, "fact n"]]


@dataclass(frozen=True)
class Extremes:
    """Smallest and largest Ritz value of each operator, and |S y - theta y| of their Ritz vectors y."""

    lowest: Float[Tensor, " fact"]
    highest: Float[Tensor, " fact"]
    lowest_residual: Float[Tensor, " fact"]
    highest_residual: Float[Tensor, " fact"]


def extremes(apply: Apply, start: Float[Tensor, "fact n"], steps: int, generator: torch.Generator) -> Extremes:
    """`steps` Lanczos steps with full reorthogonalisation, done twice, from a start vector per operator.

    S Q = Q T + r e^T with T tridiagonal; the eigenvalues of T approach the ends of S's spectrum from inside, each
    within its residual of an eigenvalue of S. `apply` multiplies row j by operator j. At most n steps are taken; an
    invariant subspace is left by a new random direction.
    """
    count, size = start.shape
    steps = min(steps, size)
    basis = start.new_zeros(count, steps, size)
    diagonal, beside = start.new_zeros(2, count, steps).double()
    vector = start / start.norm(dim=-1, keepdim=True)
    for j in range(steps):
        basis[:, j] = vector
        image = apply(vector)
        diagonal[:, j] = (image * vector).sum(-1).double()
        rest = _orthogonal(image, basis[:, : j + 1])
        length = rest.norm(dim=-1)
        scale = torch.linalg.vector_norm(image, dim=-1)
        stuck = length <= 10 * torch.finfo(start.dtype).eps * scale * size**0.5
        beside[:, j] = torch.where(stuck, 0.0, length.double())
        if j + 1 < steps and stuck.any():
            fresh = torch.randn(count, size, generator=generator).to(start)
            fresh = _orthogonal(fresh, basis[:, : j + 1])
            rest = torch.where(stuck[:, None], fresh, rest)
            length = rest.norm(dim=-1)
        vector = rest / length.clamp_min(torch.finfo(start.dtype).tiny)[:, None]
    between = beside[:, :-1]
    matrix = torch.diag_embed(diagonal) + torch.diag_embed(between, 1) + torch.diag_embed(between, -1)
    values, vectors = torch.linalg.eigh(matrix)
    left = (beside[:, -1:] * vectors[:, -1]).abs()
    return Extremes(values[:, 0], values[:, -1], left[:, 0], left[:, -1])


def _orthogonal(vector: Tensor, basis: Tensor) -> Tensor:
    for _ in range(2):
        vector = vector - torch.einsum("fk,fkn->fn", torch.einsum("fkn,fn->fk", basis, vector), basis)
    return vector
