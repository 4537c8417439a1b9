"""LeastSquares: least squares with preservation, the update of MEMIT."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from errata.solvers import normal
from errata.solvers.base import LinearSystem, Prepared, Preservation, Solution, Solver, require


@dataclass(frozen=True)
class LeastSquares(Solver):
    """argmin |dW K^T - R^T|^2 + weight * tr(dW C dW^T) + tr(dW B dW^T) + ridge * |dW|^2.

    dW = R^T K (K^T K + Cp)^-1,  Cp = weight * C + B + ridge * I.   Source: MEMIT eq. 14; FE eq. 5 (method 1.7).
    Keys of earlier facts may also be given as rows whose residual is zero: that is the same as B.

    weight: virtual corpus tokens set against the real keys (15000 for most models, method 1.6).
    ridge: the L2 of the published settings, 0 in most.
    """

    preservation = Preservation("weight", gentle=1e5, strong=30.0)

    weight: float = 15000.0
    ridge: float = 0.0

    def __post_init__(self) -> None:
        for setting in ("weight", "ridge"):
            value = getattr(self, setting)
            require(math.isfinite(value) and value >= 0, f"least_squares.{setting}", value, "a number >= 0")

    def prepare(
        self,
        statistics: Float[Tensor, "inner inner"],
        past: Float[Tensor, "inner inner"] | None = None,
        *,
        layer: int | None = None,
        known: Prepared | None = None,
    ) -> Prepared:
        """`factor`: upper U with U^T U = Cp; or `penalty`: Cp itself, where it is singular without the batch."""
        if past is None and known is not None:
            return known
        factor = normal.factored(self.penalty(statistics, past))
        return {"factor": factor} if factor is not None else {"penalty": self.penalty(statistics, past)}

    def penalty(self, statistics: Tensor, past: Tensor | None) -> Float[Tensor, "inner inner"]:
        """Cp, in memory of its own."""
        penalty = statistics.to(torch.float64, copy=True).mul_(self.weight)
        if past is not None:
            penalty.add_(past.to(penalty.device))
        penalty.diagonal().add_(self.ridge)
        return penalty

    def solve(self, system: LinearSystem, prepared: Prepared) -> Solution:
        """Facts x facts if there are fewer of them than key entries, inner x inner otherwise (method 7.1).

        Raises SingularSystem if neither statistics nor keys settle every direction.
        """
        advice = (
            "Gather more keys than there are directions (errata statistics), or raise solvers.least_squares.ridge"
            f" (now {self.ridge:g}) or .weight (now {self.weight:g})."
        )
        if "factor" in prepared:
            system = system.beside(prepared["factor"])
            return normal.solve(
                system.keys, system.residuals, prepared["factor"], slack=1.0, layer=system.layer, advice=advice
            )
        penalty = prepared["penalty"]
        system = system.beside(penalty)
        keys, residuals = system.keys, system.residuals
        factor = normal.factored(torch.addmm(penalty, keys.T, keys))
        if factor is None:
            whole = torch.addmm(penalty, keys.T, keys)
            raise normal.singular(whole, system.layer, "the system of statistics and keys", advice)
        change = normal.divided(residuals.T @ keys, factor)
        return Solution(change, normal.relative_residual(change, keys, residuals, lambda rows: rows @ penalty))


def definite(prepared: Prepared, layer: int | None, ridge: str) -> Prepared:
    """What LeastSquares prepared, for a solver that needs the factor. Raises SingularSystem if there is none."""
    if "penalty" in prepared:
        advice = f"Gather more keys than there are directions (errata statistics), or raise {ridge}."
        raise normal.singular(prepared["penalty"], layer, "the moment of the preserved keys", advice)
    return prepared
