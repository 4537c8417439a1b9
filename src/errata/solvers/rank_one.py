"""RankOne: one fact after another, each by a change of rank one, the update of ROME."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from errata.errors import SingularSystem, SolveError
from errata.solvers import normal
from errata.solvers.base import LinearSystem, Prepared, Solution, Solver, require
from errata.solvers.least_squares import LeastSquares, definite

Divisor = Literal["averaged", "bare"]


@dataclass(frozen=True)
class RankOne(Solver):
    """dW = w u^T,  u = C^-1 k,  w = r / (k . u);  the next fact finds what the last one left.   Source: method 2.1.

    Facts j = 1, 2, ... one after another, r_j = R_j - (dW_1 + ... + dW_j-1) k_j, is one triangular system.
    There is no cache of earlier keys: `past` is not used, as published.

    adjusted: u = C^-1 k (kmeng01/rome), or u = k without statistics (EasyEdit).
    divisor: the key that meets u and stands for the fact, `averaged` over contexts as in u itself (R-ROME: then the
    last fact is met exactly), or `bare`, that of the bare prompt (the original; needs LinearSystem.bare_keys).
    ridge: added to C.
    """

    adjusted: bool = True
    divisor: Divisor = "averaged"
    ridge: float = 0.0

    def __post_init__(self) -> None:
        require(self.divisor in get_args(Divisor), "rank_one.divisor", self.divisor, " or ".join(get_args(Divisor)))
        require(math.isfinite(self.ridge) and self.ridge >= 0, "rank_one.ridge", self.ridge, "a number >= 0")

    @property
    def uses_known(self) -> bool:
        return True

    def prepare(
        self,
        statistics: Float[Tensor, "inner inner"],
        past: Float[Tensor, "inner inner"] | None = None,
        *,
        layer: int | None = None,
        known: Prepared | None = None,
    ) -> Prepared:
        """`factor`: upper U with U^T U = C + ridge * I; nothing if not adjusted. Raises SingularSystem."""
        if not self.adjusted:
            return {}
        prepared = LeastSquares(1.0, self.ridge).prepare(statistics, layer=layer, known=known)
        return definite(prepared, layer, f"solvers.rank_one.ridge (now {self.ridge:g})")

    def solve(self, system: LinearSystem, prepared: Prepared) -> Solution:
        """Raises SingularSystem if a key does not meet its own direction, SolveError if bare keys are missing."""
        factor = prepared.get("factor")
        system = system.beside(system.keys.T if factor is None else factor)
        keys = system.keys
        meeting = keys if self.divisor == "averaged" else system.bare_keys
        if meeting is None:
            raise SolveError(f"layer {system.layer}: rank_one.divisor = 'bare' needs the keys of the bare prompts.")
        directions = keys if factor is None else normal.divided(keys, factor)
        met = meeting @ directions.T  # [fact, fact]: k_j . u_i
        cosines = met.diagonal().abs() / (meeting.norm(dim=1) * directions.norm(dim=1))
        missed = [fact for fact, cosine in enumerate(cosines.tolist()) if not cosine > 1e-12]
        if missed:
            raise SingularSystem(
                f"layer {system.layer}: the keys of facts {missed} do not meet their own directions (k . u = 0)."
                " Leave these facts out, or set solvers.rank_one.divisor to 'averaged'."
            )
        shares = torch.linalg.solve_triangular(met.tril(), system.residuals, upper=False)
        left = float((directions @ factor.T @ factor - keys).norm() / keys.norm()) if factor is not None else 0.0
        return Solution(shares.T @ directions, left)
