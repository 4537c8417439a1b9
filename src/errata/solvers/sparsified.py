"""Sparsified: another solver's change with its smallest entries set to zero, as in RECT."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from torch import Tensor

from errata.solvers.base import Solver, require
from errata.solvers.wrapper import Wrapper

Criterion = Literal["absolute", "relative"]
When = Literal["per_layer", "after_all"]


@dataclass(frozen=True)
class Sparsified(Wrapper):
    """Zero the floor((1 - keep) * numel) least important entries of dW.   Source: RECT (method 2.8).

    keep: share of the entries kept; 1 is the identity. FE 0.6, the AlphaEdit repository 0.4.
    criterion: importance of an entry, `absolute` |dW_ij| (FE) or `relative` |dW_ij / (W_ij + 1e-8)| (RECT's paper).
    when: `per_layer`, so that later layers see the sparse change (FE), or `after_all`, once on the total change
    against the unedited weight, later layers having seen the dense one (the AlphaEdit repository).
    """

    solver: Solver
    keep: float = 0.6
    criterion: Criterion = "absolute"
    when: When = "per_layer"

    def __post_init__(self) -> None:
        require(0 < self.keep <= 1, "sparsified.keep", self.keep, "a share in (0, 1]")
        for setting, choices in (("criterion", get_args(Criterion)), ("when", get_args(When))):
            value = getattr(self, setting)
            require(value in choices, f"sparsified.{setting}", value, " or ".join(choices))

    @property
    def at_end(self) -> bool:
        return self.when == "after_all"

    def altered(self, change: Tensor, weight: Tensor) -> Tensor:
        importance = change.abs() if self.criterion == "absolute" else (change / (weight.to(change) + 1e-8)).abs()
        zeros = int(change.numel() * (1 - Fraction(str(self.keep))))  # exact, where 0.1 * numel would not be
        least = importance.flatten().topk(zeros, largest=False, sorted=False).indices
        return change.flatten().index_fill(0, least, 0.0).view_as(change)
