"""Wrapper: another solver whose change is altered, as it is found or once at the end."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from errata.solvers.base import LinearSystem, Prepared, Solution, Solver


class Wrapper(Solver):
    """`altered` of each solve's change, or of the whole change if `at_end`."""

    solver: Solver

    @property
    def uses_known(self) -> bool:
        return self.solver.uses_known

    @property
    def squares(self) -> tuple[int, int]:
        return self.solver.squares

    @property
    def at_end(self) -> bool:
        """Whether solves are left as they are and the total is altered."""
        return False

    @abstractmethod
    def altered(
        self, change: Float[Tensor, "model inner"], weight: Float[Tensor, "model inner"]
    ) -> Float[Tensor, "model inner"]:
        """What stands in place of `change`; `weight` is the matrix that it is for."""

    def prepare(
        self,
        statistics: Float[Tensor, "inner inner"],
        past: Float[Tensor, "inner inner"] | None = None,
        *,
        layer: int | None = None,
        known: Prepared | None = None,
    ) -> Prepared:
        return self.solver.prepare(statistics, past, layer=layer, known=known)

    def solve(self, system: LinearSystem, prepared: Prepared) -> Solution:
        solution = self.solver.solve(system, prepared)
        return solution if self.at_end else replace(solution, change=self.altered(solution.change, system.weight))

    def finish(
        self, total: Float[Tensor, "model inner"], original: Float[Tensor, "model inner"]
    ) -> Float[Tensor, "model inner"]:
        total = self.solver.finish(total, original)
        return self.altered(total, original) if self.at_end else total
