"""Factors: a change of weights as a product of two thin matrices, and how many ranks of it are more than rounding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from errata.errors import StoreError

SPARE = 8
"""Columns that a random sketch has more than the rank that it looks for."""
SMALL = 1024
"""Up to so many rows or columns a matrix is decomposed as a whole."""
MARGIN = 8.0
"""A singular value counts if it is so many times what rounding alone would make."""


@dataclass(frozen=True)
class Factors:
    """A matrix up @ down; up has a column per rank, down a row."""

    up: Float[Tensor, "model rank"]
    down: Float[Tensor, "rank inner"]

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def product(self) -> Float[Tensor, "model inner"]:
        """In float64, as adapters are multiplied from the factors as they are stored."""
        return self.up.double() @ self.down.double()

    @property
    def values(self) -> int:
        """Numbers that the two hold together."""
        return self.up.numel() + self.down.numel()


def noise(shape: torch.Size, size: float, dtype: torch.dtype) -> float:
    """The largest singular value of the rounding of a matrix of Frobenius norm `size` to `dtype`, about.

    Rounding errors are nearly independent, each up to eps / 2 of its value; (sqrt m + sqrt n) times their root mean
    square is the largest singular value of such a matrix.
    """
    rows, columns = shape
    rms = size / (rows * columns) ** 0.5
    return float(torch.finfo(dtype).eps / 2 * rms * (rows**0.5 + columns**0.5))


def singular_values(matrix: Float[Tensor, "model inner"], most: int) -> Float[Tensor, rank]:
    """The largest `most` singular values, or all of a small matrix."""
    matrix = matrix.double()
    if min(matrix.shape) <= SMALL:
        return torch.linalg.svdvals(matrix)
    return torch.linalg.svdvals(_sketch(matrix, most).T @ matrix)


def exact_factors(change: Float[Tensor, "model inner"], guess: int) -> Factors:
    """The change as a product of its numerical rank: what it leaves out is below the rounding of its own dtype.

    A thin singular value decomposition in float64. `guess`: a rank that will do, such as the number of facts; it saves
    time for a large matrix and is checked. Raises StoreError for a change of zeros.
    """
    exact = change.double()
    size = float(exact.norm())
    if not size:
        raise StoreError("a change of zeros has no factors")
    least = MARGIN * noise(change.shape, size, torch.float32)
    up, values, down = _decomposed(exact, guess, least)
    rank = max(1, int((values > least).sum()))
    return _balanced(up[:, :rank], values[:rank], down[:rank])


def cut(factors: Factors, rank: int, keys: Float[Tensor, "fact inner"] | None = None) -> Factors:
    """The best product of at most `rank`: that which changes least of what the factors give for the keys.

    With P = up down K^T = U S V^T it is U_rank U_rank^T up down; without keys the singular value decomposition of the
    product itself, which changes least of the product (Eckart and Young).
    """
    if factors.rank <= rank:
        return factors
    target = factors.product if keys is None else factors.product @ keys.double().T
    left = torch.linalg.svd(target, full_matrices=False)[0][:, :rank]
    up, values, down = torch.linalg.svd(left.T @ factors.product, full_matrices=False)
    return _balanced(left @ up, values, down)


def _decomposed(matrix: Tensor, guess: int, least: float) -> tuple[Tensor, Tensor, Tensor]:
    """U, S, V^T; of a large matrix only as many as its rank has, found from a random sketch that is checked."""
    while min(matrix.shape) > max(SMALL, 2 * guess):
        basis = _sketch(matrix, guess)
        inside = basis.T @ matrix
        if float(torch.linalg.matrix_norm(matrix - basis @ inside)) <= least * min(matrix.shape) ** 0.5:
            up, values, down = torch.linalg.svd(inside, full_matrices=False)
            return basis @ up, values, down
        guess *= 2
    up, values, down = torch.linalg.svd(matrix, full_matrices=False)
    return up, values, down


def _sketch(matrix: Float[Tensor, "model inner"], rank: int) -> Float[Tensor, "model sketch"]:
    """An orthonormal basis of the columns of a matrix of at most this rank, from as many random vectors."""
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(matrix.shape[1], min(rank + SPARE, *matrix.shape), generator=draw, dtype=matrix.dtype)
    return torch.linalg.qr(matrix @ vectors.to(matrix.device))[0]


def _balanced(up: Tensor, values: Tensor, down: Tensor) -> Factors:
    """Both factors of like size, in float32, as adapters are stored."""
    root = values.clamp(min=0).sqrt()
    return Factors((up * root).float().contiguous(), (root[:, None] * down).float().contiguous())
