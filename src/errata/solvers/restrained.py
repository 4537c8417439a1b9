"""Restrained: another solver's change with its large singular values drawn in, as in PRUNE."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from errata.solvers.base import Solver, require
from errata.solvers.wrapper import Wrapper

How = Literal["log", "linear"]
When = Literal["per_batch", "on_total"]


@dataclass(frozen=True)
class Restrained(Wrapper):
    """Singular values s of dW beyond the largest one of W, s_max, become f(s); all others stay.   Source: method 2.9.

    how: `log`, f(s) = log(s / s_max) + s_max, or `linear`, f(s) = (s + s_max) / 2. As published, the logarithm
    restrains only where s_max > 1 / ln(base); below that it enlarges values just beyond s_max.
    base: of the logarithm (PRUNE's logN).
    when: `per_batch`, each layer's change against the weight as it is then (FE), or `on_total`, once at the end:
    the total change against the unedited weight (PRUNE). The result takes the place of the total change; it is
    never added to a weight that carries it already.
    """

    solver: Solver
    how: How = "log"
    base: float = math.e
    when: When = "per_batch"

    def __post_init__(self) -> None:
        for setting, choices in (("how", get_args(How)), ("when", get_args(When))):
            value = getattr(self, setting)
            require(value in choices, f"restrained.{setting}", value, " or ".join(choices))
        require(self.base > 1, "restrained.base", self.base, "a number > 1")

    @property
    def at_end(self) -> bool:
        return self.when == "on_total"

    def altered(self, change: Tensor, weight: Tensor) -> Tensor:
        """dW + U diag(f(s)/s - 1) U^T dW over the left singular vectors U of the values beyond s_max only.

        They come from dW dW^T, whose eigenvalues lose the small singular values; none of those is used.
        """
        wide, reference = change.double(), weight.to(change.device, torch.float64)
        limit = torch.linalg.eigvalsh(reference @ reference.T)[-1].clamp(min=0).sqrt()
        if wide.norm() <= limit:  # the Frobenius norm bounds every singular value, and costs nothing
            return change
        squares, left = torch.linalg.eigh(wide @ wide.T)
        large = squares > limit.square()
        if not large.any():
            return change
        values, left = squares[large].sqrt(), left[:, large]
        factors = (self._drawn_in(values, limit) / values) - 1
        return (wide + (left * factors) @ (left.T @ wide)).to(change)

    def _drawn_in(self, values: Tensor, limit: Tensor) -> Tensor:
        if self.how == "linear":
            return (values + limit) / 2
        return (values / limit).log() / math.log(self.base) + limit
