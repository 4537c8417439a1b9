"""EqualityConstrained: say it exactly, disturb least, the update of EMMET."""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from errata.solvers import normal
from errata.solvers.base import LinearSystem, Prepared, Preservation, Solution, Solver, require
from errata.solvers.least_squares import LeastSquares, definite


@dataclass(frozen=True)
class EqualityConstrained(Solver):
    """argmin tr(dW Cp dW^T)  subject to dW K^T = R^T, softened by gamma;  Cp = weight * C + B + ridge * I.

    dW = R^T (K Cp^-1 K^T + gamma * I)^-1 K Cp^-1.   Source: EMMET (method 2.6).
    The same as LeastSquares with preservation gamma * Cp (method 7.2); exact for gamma 0, and for a single fact then
    ROME's change (method 7.3).

    weight, ridge: as in LeastSquares. gamma: 0.1 in the published settings, which leave it out for a single fact.
    """

    preservation = Preservation("weight", gentle=1e6, strong=300.0)

    weight: float = 15000.0
    gamma: float = 0.1
    ridge: float = 0.0

    def __post_init__(self) -> None:
        for setting in ("weight", "gamma", "ridge"):
            value = getattr(self, setting)
            require(math.isfinite(value) and value >= 0, f"equality_constrained.{setting}", value, "a number >= 0")

    def prepare(
        self,
        statistics: Float[Tensor, "inner inner"],
        past: Float[Tensor, "inner inner"] | None = None,
        *,
        layer: int | None = None,
        known: Prepared | None = None,
    ) -> Prepared:
        """`factor`: upper U with U^T U = Cp. Raises SingularSystem: here the keys cannot make up for statistics."""
        prepared = LeastSquares(self.weight, self.ridge).prepare(statistics, past, layer=layer, known=known)
        return definite(prepared, layer, f"solvers.equality_constrained.ridge (now {self.ridge:g})")

    def solve(self, system: LinearSystem, prepared: Prepared) -> Solution:
        """Raises SingularSystem if gamma is 0 and the facts' keys are linearly dependent."""
        advice = (
            "Facts with the same subject in the same prompt have the same key: leave one out, edit in smaller"
            f" batches, or raise solvers.equality_constrained.gamma (now {self.gamma:g})."
        )
        factor = prepared["factor"]
        system = system.beside(factor)
        return normal.solve(system.keys, system.residuals, factor, slack=self.gamma, layer=system.layer, advice=advice)
