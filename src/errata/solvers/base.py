"""Solver: which change of one matrix says it, and leaves the rest alone? Matrices in, a matrix out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from errata.errors import NotFinite, SolveError, printable

Prepared = dict[str, Tensor]
"""What a solver keeps of a layer's statistics: tensors by name, so that the store can hold them. Read-only."""


@dataclass(frozen=True, eq=False)
class LinearSystem:
    """One layer's question: which `change` of `weight` sends keys[j] to residuals[j], for every fact j?

    keys [fact, inner]; residuals [fact, model]; weight [model, inner], as it is now; layer: for messages.
    bare_keys [fact, inner]: keys of the bare prompts, for a solver that asks for them (RankOne).
    Raises SolveError for shapes that do not fit, NotFinite for NaN or infinity.
    """

    keys: Float[Tensor, "fact inner"]
    residuals: Float[Tensor, "fact model"]
    weight: Float[Tensor, "model inner"]
    layer: int
    bare_keys: Float[Tensor, "fact inner"] | None = None

    def __post_init__(self) -> None:
        parts = {"keys": self.keys, "residuals": self.residuals, "weight": self.weight}
        if self.bare_keys is not None:
            parts["bare_keys"] = self.bare_keys
        shapes = {name: list(part.shape) for name, part in parts.items()}
        if any(part.ndim != 2 or not part.numel() for part in parts.values()):
            raise SolveError(f"layer {self.layer}: found {shapes}, expected matrices with at least one fact.")
        facts, (model, inner) = len(self.keys), self.weight.shape
        fitting = {"keys": [facts, inner], "residuals": [facts, model], "weight": [model, inner]}
        fitting |= {"bare_keys": [facts, inner]} if "bare_keys" in shapes else {}
        if shapes != fitting:
            raise SolveError(
                f"layer {self.layer}: found {shapes}, expected keys [fact, inner], residuals [fact, model]"
                " and weight [model, inner]. A GPT-2 weight has to be transposed first."
            )
        for name, part in parts.items():
            if broken := int((~torch.isfinite(part)).any(dim=1).sum()):
                raise NotFinite(f"layer {self.layer}: NaN or infinity in {broken} of {len(part)} rows of {name}.")

    def beside(self, matrix: Float[Tensor, "inner _"]) -> LinearSystem:
        """In float64, on the device of `matrix`. Raises SolveError if its keys are not as wide as `matrix` is high."""
        if self.keys.shape[1] != len(matrix):
            raise SolveError(
                f"layer {self.layer}: found keys {self.keys.shape[1]} wide, but statistics {len(matrix)} wide."
                " They were prepared for another layer or model."
            )
        keys, residuals = (part.to(matrix.device, torch.float64) for part in (self.keys, self.residuals))
        bare_keys = None if self.bare_keys is None else self.bare_keys.to(keys)
        return replace(self, keys=keys, residuals=residuals, bare_keys=bare_keys)


@dataclass(frozen=True, eq=False)
class Solution:
    """change [model, inner], float64; residual: relative residual of the solve (method 5.11); rank: of the
    subspace the change was sought in, None if that was all of it."""

    change: Float[Tensor, "model inner"]
    residual: float
    rank: int | None = None


@dataclass(frozen=True)
class Preservation:
    """Which setting of a solver weighs what is preserved against the facts, and the range of values worth a try."""

    setting: str
    gentle: float
    """Changes least."""
    strong: float
    """Holds most facts."""


class Solver(ABC):
    """An update rule. A frozen dataclass, every field a setting; it keeps nothing between calls."""

    preservation: ClassVar[Preservation | None] = None
    """None: it has no such setting, so only the share of each step can make its edits gentler."""

    @property
    def uses_known(self) -> bool:
        """Whether `known` spares work in `prepare` where there is a past."""
        return False

    @property
    def squares(self) -> tuple[int, int]:
        """Matrices [inner, inner] that `prepare` works in at once, and those it leaves for `solve`."""
        return 1, 1

    def memory(self, inner: int, width: int, facts: int, apart: bool = True) -> int:
        """Bytes that `prepare` and `solve` for one layer hold at most; `apart`: with a copy of its statistics."""
        preparing, left = self.squares
        answers = 4 * inner * width + 4 * facts * inner + (facts >= inner) * inner**2
        return 8 * max((preparing + apart) * inner**2, left * inner**2 + answers)

    @abstractmethod
    def prepare(
        self,
        statistics: Float[Tensor, "inner inner"],
        past: Float[Tensor, "inner inner"] | None = None,
        *,
        layer: int | None = None,
        known: Prepared | None = None,
    ) -> Prepared:
        """All that no fact of this batch is needed for.

        statistics: C, the second moment of keys; past: B, the sum of k k^T over facts edited before (method 1.8);
        layer: for messages; known: what `prepare(statistics)` gave without a past, which may spare work.
        """

    @abstractmethod
    def solve(self, system: LinearSystem, prepared: Prepared) -> Solution:
        """The change for one batch of facts, computed in float64 on the device of `prepared`."""

    def finish(
        self, total: Float[Tensor, "model inner"], original: Float[Tensor, "model inner"]
    ) -> Float[Tensor, "model inner"]:
        """The total change to stand in place of `total` when all batches are done; original: the unedited weight."""
        return total


def require(valid: bool, setting: str, value: object, expected: str) -> None:
    """Raise SolveError unless the setting is valid."""
    if not valid:
        raise SolveError(f"found {setting} = {printable(value)}, expected {expected}.")
