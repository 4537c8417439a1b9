"""NullSpace: change nothing along the directions that ordinary keys use, the update of AlphaEdit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from errata.errors import EmptyNullSpace, FullNullSpace
from errata.solvers import normal
from errata.solvers.base import LinearSystem, Prepared, Preservation, Solution, Solver, require


@dataclass(frozen=True)
class NullSpace(Solver):
    """argmin |dW K^T - R^T|^2 + tr(dW B dW^T) + ridge * |dW|^2  over the dW whose rows lie in range(Q).

    Q [inner, rank]: the eigenvectors of C with eigenvalue < threshold. In the coordinates of Q that is a ridge
    regression: dW = R^T Kq (Kq^T Kq + Q^T B Q + ridge * I)^-1 Q^T, Kq = K Q.   Source: AlphaEdit; method 2.11.
    The same dW as the published (P (K^T K + B) + ridge * I)^-1 P with P = Q Q^T, but symmetric positive definite.

    threshold: absolute, on E[k k^T], so it does not carry over between models (method 5.24).
    ridge: the L2 of the published settings, 10 in most and 1 in some.
    """

    preservation = Preservation("threshold", gentle=1e-3, strong=1.0)

    threshold: float = 0.02
    ridge: float = 10.0

    def __post_init__(self) -> None:
        require(self.threshold > 0, "null_space.threshold", self.threshold, "a number > 0")
        require(math.isfinite(self.ridge) and self.ridge >= 0, "null_space.ridge", self.ridge, "a number >= 0")

    @property
    def uses_known(self) -> bool:
        return True

    @property
    def squares(self) -> tuple[int, int]:
        return 3, 2  # eigenvectors and workspace; the basis and the earlier facts' keys in it

    def prepare(
        self,
        statistics: Float[Tensor, "inner inner"],
        past: Float[Tensor, "inner inner"] | None = None,
        *,
        layer: int | None = None,
        known: Prepared | None = None,
    ) -> Prepared:
        """`basis`: Q; with a past also `past`: Q^T B Q. Raises EmptyNullSpace, FullNullSpace."""
        basis = self._basis(statistics, layer) if known is None else known["basis"]
        return {"basis": basis} if past is None else {"basis": basis, "past": basis.T @ past.to(basis) @ basis}

    def _basis(self, statistics: Tensor, layer: int | None) -> Float[Tensor, "inner rank"]:
        values, vectors = torch.linalg.eigh(statistics.double())  # ascending
        inner, rank = len(values), int((values < self.threshold).sum())
        if rank == 0:
            raise EmptyNullSpace(
                f"{normal.at_layer(layer)}: 0 of {inner} directions have eigenvalue < {self.threshold:g} (smallest"
                f" {float(values[0]):.2g}). This edit would do nothing. Raise solvers.null_space.threshold, or gather"
                " more keys (errata statistics)."
            )
        if rank == inner:
            raise FullNullSpace(
                f"{normal.at_layer(layer)}: all {inner} directions have eigenvalue < {self.threshold:g} (largest"
                f" {float(values[-1]):.2g}). Nothing would be preserved. Lower solvers.null_space.threshold, or gather"
                " more keys (errata statistics)."
            )
        return vectors[:, :rank].contiguous()  # a copy: the other vectors can be freed

    def solve(self, system: LinearSystem, prepared: Prepared) -> Solution:
        """Solution.rank is that of Q. Raises SingularSystem if ridge and past leave directions open."""
        basis = prepared["basis"]
        system = system.beside(basis)
        advice = f"Raise solvers.null_space.ridge (now {self.ridge:g})."
        factor = normal.factored(self._penalty(prepared))
        if factor is None:
            what = "the ridge with the earlier facts' keys, in the null space,"
            raise normal.singular(self._penalty(prepared), system.layer, what, advice)
        inside = normal.solve(
            system.keys @ basis, system.residuals, factor, slack=1.0, layer=system.layer, advice=advice
        )
        return Solution(inside.change @ basis.T, inside.residual, basis.shape[1])

    def _penalty(self, prepared: Prepared) -> Float[Tensor, "rank rank"]:
        basis = prepared["basis"]
        penalty = prepared["past"].clone() if "past" in prepared else basis.new_zeros(basis.shape[1], basis.shape[1])
        penalty.diagonal().add_(self.ridge)
        return penalty
