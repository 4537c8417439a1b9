"""Reach: how the output of a block's down-projection becomes part of the residual stream. Measured, not listed.

In most families the block adds it as it is. Some multiply it by a constant, and some send it through an RMS norm
first, which is blind to its length: there a residual of the stream has to be solved for in front of the norm.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from errata.decoder import hooks
from errata.decoder.offload import running_device
from errata.decoder.passes import Passes
from errata.errors import UnsupportedModel

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3}
"""Relative error up to which two ways of moving are the same; norms work in float32 inside."""
COARSE = 0.05
"""The same for models in fewer bits."""
UNREACHED = 0.1
"""Coordinates whose gain is below this share of the mean gain are left as they are: moving them costs all others."""
SHORTEST = 0.1
"""An output is never made shorter than this share of its length, however far it has to turn."""

Outputs = Float[Tensor, "fact model"]


@dataclass(frozen=True, eq=False)
class Reach:
    """The block's output is h = a + scale N(m), with m the down-projection's output and N(m) = gain m / rms(m).

    Without a norm N(m) = m. `name` is the norm's path in the block.
    """

    scale: float = 1.0
    norm: nn.Module | None = None
    gain: Float[Tensor, " model"] | None = None
    name: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether the stream moves exactly as the down-projection's output does."""
        return self.scale == 1.0 and self.norm is None

    def __str__(self) -> str:
        if self.is_plain:
            return "added to the stream as it is"
        times = "" if self.scale == 1.0 else f"times {self.scale:.4g}"
        through = f"through {self.name}, an RMS norm; solved for in front of it" if self.name else "added to the stream"
        return f"{through}{', ' * bool(times)}{times}"

    def contribution(self, outputs: Outputs) -> Outputs:
        """scale N(m): what the stream gets of outputs m, by the model's own norm."""
        return self.scale * (outputs if self.norm is None else _run(self.norm, outputs))

    def lifted(self, wanted: Outputs, outputs: Outputs, states: Outputs) -> Outputs:
        """The states that the stream has once the outputs are those wanted; `outputs` and `states` are those of now."""
        return states + self.contribution(wanted) - self.contribution(outputs)

    def asked(self, residuals: Outputs, outputs: Outputs | None) -> Outputs:
        """How the outputs have to move for the stream to move by `residuals` (method 1.9).

        Behind a norm, with u = m / rms(m) and v = u + r / (scale gain): m' = s v with s = <m, v> / <v, v>, which of all
        outputs that lead to the same state is the nearest to m, but never shorter than `SHORTEST` of it.
        """
        if self.is_plain:
            return residuals
        if self.gain is None:
            return residuals / self.scale
        assert outputs is not None
        wanted = outputs / _rms(outputs) + self._in_front(residuals)
        along = (outputs * wanted).sum(-1, keepdim=True) / wanted.square().sum(-1, keepdim=True)
        least = SHORTEST * _rms(outputs) / _rms(wanted)
        return torch.maximum(along, least) * wanted - outputs

    def turned(self, residuals: Outputs, outputs: Outputs) -> Bool[Tensor, " fact"]:
        """Facts whose outputs have to turn by so much that `SHORTEST` holds them."""
        wanted = outputs / _rms(outputs) + self._in_front(residuals)
        return torch.cosine_similarity(outputs, wanted, dim=-1) < SHORTEST

    def swallowed(self, moves: Outputs, residuals: Outputs, outputs: Outputs) -> float:
        """Mean over facts of |scale (N(m + R) - N(m)) - r| / |r|: the share of r that the norm keeps back."""
        reached = self.contribution(outputs + moves) - self.contribution(outputs)
        size = torch.linalg.vector_norm(residuals, dim=-1)
        shares = torch.linalg.vector_norm(reached - residuals, dim=-1)[size > 0] / size[size > 0]
        return float(shares.mean()) if len(shares) else 0.0

    def _in_front(self, residuals: Outputs) -> Outputs:
        assert self.gain is not None
        gain = self.gain.to(residuals)
        within = gain.abs() > UNREACHED * gain.abs().mean()
        return torch.where(within, residuals / (self.scale * torch.where(within, gain, 1.0)), 0.0)


PLAIN = Reach()


def _rms(rows: Float[Tensor, "*row model"]) -> Float[Tensor, "*row 1"]:
    return rows.square().mean(-1, keepdim=True).sqrt()


@torch.no_grad()
def _run(norm: nn.Module, rows: Outputs) -> Outputs:
    place = running_device(norm) if any(True for _ in norm.parameters(recurse=False)) else rows.device
    given: Tensor = norm(rows.to(place)[None])[0]
    return given.to(rows)


def measured(decoder: Passes, layers: Iterable[int]) -> dict[int, Reach]:
    """How each layer's output reaches the stream: asked of the model itself, by one pass through one block each.

    Raises UnsupportedModel for a layer where it is neither added, nor multiplied, nor sent through an RMS norm.
    """
    return {layer: _measured(decoder, layer) for layer in layers}


@torch.no_grad()
def _measured(decoder: Passes, layer: int) -> Reach:
    """Two equal rows of two tokens enter the block; in the second, the output at the last token is moved."""
    draw = torch.Generator().manual_seed(layer)
    entering = torch.randn(1, 2, decoder.width, generator=draw, dtype=torch.float64).expand(2, -1, -1)
    direction = torch.randn(decoder.width, generator=draw, dtype=torch.float64)
    move = torch.zeros(decoder.width, dtype=torch.float64)
    block, projection = decoder.blocks[layer], decoder.down_projection(layer)

    def moved(output: Tensor) -> Tensor:
        new = output.clone(memory_format=torch.contiguous_format)
        last = new.view(-1, decoder.width)[-1]  # some families have one row per token here
        before = last.double().cpu().clone()
        last += (direction * before.square().mean().sqrt().clamp_min(1.0)).to(last)
        move.copy_(last.double().cpu() - before)
        return new

    with ExitStack() as held:
        held.enter_context(hooks.narrow(projection, lambda keys: keys, moved))
        behind = held.enter_context(hooks.followers(projection, block))
        seen = held.enter_context(hooks.capture({"block": block}))
        ids = torch.zeros(2, 2, dtype=torch.long, device=decoder.device)
        hidden = entering.to(decoder.device, decoder.dtype)
        decoder.run(ids, enter=(layer - 1, hidden), leave=layer)
    went = _difference(seen["block"])
    tolerance = TOLERANCE.get(decoder.dtype, COARSE)
    if scale := _multiple(went, move, tolerance):
        return Reach(scale)
    for name, norm, output in behind:
        if (scale := _multiple(went, _difference(output), tolerance)) and (gain := _gain(decoder, norm, tolerance)):
            return Reach(scale, norm, gain[0], name)
    raise UnsupportedModel(
        f"{decoder.name}: the output of the down-projection of layer {layer} reaches the residual stream neither as it "
        "is, nor times a constant, nor through an RMS norm of its own. No change of the weights can be solved for from "
        "a state of the stream there. Nothing was changed. Use a method that asks for an output of the down-projection "
        "itself, such as rome-original or pmet."
    )


def _difference(rows: Float[Tensor, "2 token model"]) -> Float[Tensor, " model"]:
    return (rows[1, -1].double() - rows[0, -1].double()).cpu()


def _multiple(went: Tensor, move: Tensor, tolerance: float) -> float:
    """c if went = c move, else 0; 1 where it is that but for rounding."""
    length = float(move @ move)
    factor = float(went @ move) / length if length else 0.0
    error = float(torch.linalg.vector_norm(went - factor * move))
    if not error <= tolerance * float(torch.linalg.vector_norm(went)):
        return 0.0
    return 1.0 if abs(factor - 1) <= tolerance else factor


def _gain(decoder: Passes, norm: nn.Module, tolerance: float) -> tuple[Tensor] | None:
    """g of a norm N(x) = g x / rms(x), read off N itself; None if it is another function."""
    draw = torch.Generator().manual_seed(0)
    probe = 10 * torch.randn(1, decoder.width, generator=draw, dtype=torch.float64)
    probe, ones = (rows.to(decoder.device, decoder.precision) for rows in (probe, torch.full_like(probe, 10.0)))
    gain = _run(norm, ones)[0]
    given, expected = _run(norm, probe), gain * probe / _rms(probe)
    error = float(torch.linalg.vector_norm(given - expected))
    return (gain,) if error <= tolerance * float(torch.linalg.vector_norm(given)) else None
