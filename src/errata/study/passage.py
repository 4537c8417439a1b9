"""Passage: how a fact's decisive state travels from one block to a later one, and the derivative of that."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from errata.decoder.decoder import Decoder
from errata.decoder.site import Prompt
from errata.decoder.tails import Row, Tails
from errata.targets.anchor import packable

DIFFERENCE = 1e-3
"""Half step of a central difference, in norms of the state per norm of the direction (method 6.3)."""


class Passage:
    """F: the state leaving block `first` at the decisive token -> the state leaving block `last` there.

    Blocks first+1 .. last run on one token per fact; keys and values of the tokens before it are cached. All facts
    side by side: row j of every vector belongs to fact j, J_j is that fact's Jacobian [model, model].
    """

    def __init__(self, decoder: Decoder, prompts: Sequence[Prompt], first: int, last: int) -> None:
        self.decoder, self.first, self.last = decoder, first, last
        rows = [[Row(p.stem.ids, p.decisive, (p.decisive,))] for p in prompts]
        self.tails = Tails(decoder, first, rows, len(packable(decoder, first, rows)) == len(rows))
        self.tails.prepare(range(len(rows)))
        self.stack = self.tails.stack(range(len(rows)))
        self.start = torch.stack([self.tails.start(i)[0] for i in range(len(rows))]).to(decoder.precision)
        self.zero = torch.zeros_like(self.start)
        self.by_difference = False

    def end(self, delta: Float[Tensor, "fact model"]) -> Float[Tensor, "fact model"]:
        """F(h + delta)."""
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels know no forward-mode derivative
            return self.tails.state(self.stack, delta[:, None], self.last)

    def jvp(self, direction: Float[Tensor, "fact model"]) -> Float[Tensor, "fact model"]:
        """J v by forward-mode differentiation; by central difference where an operation of the model has none."""
        if not self.by_difference:
            try:
                with warnings.catch_warnings():  # torch's first use of forward mode warns about torch's own code
                    warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)
                    found: Tensor = jvp(self.end, (self.zero,), (direction,))[1]
                return found
            except (RuntimeError, NotImplementedError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                self.by_difference = True
        size = direction.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(direction.dtype).tiny)
        step = DIFFERENCE * self.start.norm(dim=-1, keepdim=True) / size
        with torch.no_grad():
            return (self.end(step * direction) - self.end(-step * direction)) / (2 * step)

    def vjp(self, direction: Float[Tensor, "fact model"]) -> Float[Tensor, "fact model"]:
        """J^T u by one backward pass through a graph that is kept."""
        moved, end = self._graph
        (found,) = torch.autograd.grad(end, moved, direction, retain_graph=True)
        return found

    def symmetric(self, direction: Float[Tensor, "fact model"]) -> Float[Tensor, "fact model"]:
        """S v with S = (J + J^T) / 2."""
        return (self.jvp(direction) + self.vjp(direction)) / 2

    def dense(self) -> Float[Tensor, "fact model model"]:
        """J in full, a row per backward pass."""
        width = self.zero.shape[-1]
        rows = []
        for i in range(width):
            unit = torch.zeros_like(self.zero)
            unit[:, i] = 1
            rows.append(self.vjp(unit))
        return torch.stack(rows, dim=1)

    @cached_property
    def _graph(self) -> tuple[Tensor, Tensor]:
        moved = self.zero.clone().requires_grad_()
        return moved, self.end(moved)
