"""TargetConstruction: which state should each edited layer reach? Answered as a tableau of steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from jaxtyping import Float
from torch import Tensor

from errata.decoder.decoder import Decoder
from errata.decoder.site import Site
from errata.targets.search import USUAL, Search

Targets = dict[int, Float[Tensor, "fact model"]]
"""Layer -> the state its block's output shall reach at each fact's decisive token."""

UpdateNorm = Callable[[int, Float[Tensor, "fact model"]], float]
"""|dW| / |W| that a residual at a layer would bring, with the keys of the model as it is; nothing is changed."""


@dataclass(frozen=True)
class Step:
    """One row of a tableau: solve for `share` of the residual seen at layer `read`, change layer `edit`."""

    edit: int
    read: int
    share: float
    anew: bool = False
    """Optimise the anchor at `read` again, on the model as edited so far."""

    def partly(self, share: float) -> Step:
        """The same step, which writes only this share of what it would (method 2.19)."""
        return replace(self, share=share * self.share)


@dataclass(frozen=True)
class TargetConstruction(ABC):
    """Where anchors are optimised, what targets follow from them, and in which steps they are worked off.

    search: how anchors are sought; its `space` says which of a layer's states anchors, targets and residuals are.
    """

    search: Search = field(default=USUAL, kw_only=True)

    @abstractmethod
    def steps(self, window: Sequence[int]) -> list[Step]:
        """The rows of the tableau over the layers of the window, shallow to deep."""

    @abstractmethod
    def anchored(self, window: Sequence[int]) -> list[int]:
        """The layers that get an anchor before the sweep."""

    def construct(
        self, decoder: Decoder, site: Site, window: Sequence[int], anchors: Targets, update_norm: UpdateNorm
    ) -> Targets:
        """The targets that follow from the anchors, on the model as it is before the sweep: here, the anchors."""
        return anchors
