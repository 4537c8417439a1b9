"""Truncated: another solver's change with few singular triplets and sparse singular vectors, as in AdaEdit."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor

from errata.solvers.base import Solver, require
from errata.solvers.wrapper import Wrapper


@dataclass(frozen=True)
class Truncated(Wrapper):
    """dW = U S V^T becomes U' S V'^T with the first floor(rank * min(model, inner)) triplets, and in each singular
    vector the floor(keep * length) largest entries; U' and V' then get back the norms of U and V.

    Source: AdaEdit after the FE repository's reading of it (method 2.12).
    """

    solver: Solver
    rank: float = 0.6
    keep: float = 0.6

    def __post_init__(self) -> None:
        for setting in ("rank", "keep"):
            value = getattr(self, setting)
            require(0 < value <= 1, f"truncated.{setting}", value, "a share in (0, 1]")

    def altered(self, change: Tensor, weight: Tensor) -> Tensor:
        left, values, right = torch.linalg.svd(change, full_matrices=False)
        kept = _share(self.rank, len(values))
        return (self._sparse(left[:, :kept]) * values[:kept]) @ self._sparse(right[:kept].T).T

    def _sparse(self, vectors: Float[Tensor, "length vector"]) -> Float[Tensor, "length vector"]:
        largest = vectors.abs().topk(_share(self.keep, len(vectors)), dim=0).indices
        sparse = torch.zeros_like(vectors).scatter(0, largest, vectors.gather(0, largest))
        return sparse * (torch.linalg.matrix_norm(vectors) / torch.linalg.matrix_norm(sparse))


def _share(share: float, n: int) -> int:
    """floor(share * n), exactly; at least one, since nothing kept would be no change at all."""
    return max(1, int(Fraction(str(share)) * n))
