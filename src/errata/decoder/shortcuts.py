"""Shortcuts: what a forward pass of a model may leave out. Asked of the model itself, by two small passes.

Two things that errata does hold in most decoders and not in all: what a token becomes does not depend on those behind
it; and once the output of a block is known, the blocks up to it need not be run. The second fails where later blocks
read keys and values of earlier ones (Gemma 3n and 4, the small ones).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from errata.decoder import hooks
from errata.decoder.anatomy import Anatomy
from errata.decoder.memory import is_out_of_memory
from errata.errors import ErrataError, UnsupportedModel

TOKENS = 6
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Relative error up to which two ways to run a model are the same; many compute in float32 inside."""
COARSE = 0.1
"""The same for models in fewer bits."""

Run = Callable[[Tensor], Tensor | None]
"""Token ids [batch, token] to logits."""


@dataclass(frozen=True)
class Shortcuts:
    """`skip`: whether the blocks before a known state need not be run; `as_tuple`: whether blocks return tuples."""

    skip: bool
    as_tuple: bool

    @classmethod
    @torch.no_grad()
    def of(cls, model: Anatomy, run: Run) -> Shortcuts:
        """Raises UnsupportedModel for a model whose tokens see those behind them, or whose blocks give no states."""
        ids = torch.arange(1, TOKENS + 1, device=model.device).repeat(2, 1) % model.vocabulary
        ids[1, -1] = 0
        layer = max(0, model.depth - 2)
        outputs: list[Any] = []
        try:
            with hooks.watch(model.blocks[layer], outputs.append):
                logits = run(ids)
            states = list(map(hooks.state, outputs))
        except Exception as error:
            if isinstance(error, ErrataError) or is_out_of_memory(error):
                raise
            message = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UnsupportedModel(
                f"{model.name}: a pass of {TOKENS} tokens did not give a state for each of them after each block "
                f"({message}); errata edits decoders that are run by their token ids alone"
            ) from error
        assert logits is not None
        if len(states) != 1:
            raise UnsupportedModel(
                f"{model.name}: block {layer} at {model.layout.blocks} runs {len(states)} times in one pass; errata "
                "edits models whose blocks run once each."
            )
        if not _alike(logits[0, :-1], logits[1, :-1], model.dtype):
            raise UnsupportedModel(
                f"{model.name}: what it says at a token depends on the tokens behind it, so it is no causal language "
                "model; an encoder that can be a decoder has to be loaded as one (is_decoder=True)."
            )
        as_tuple = isinstance(outputs[0], tuple)
        try:
            with hooks.enter_after(model.blocks, layer, states[0], as_tuple):
                entered = run(ids)
        except Exception as error:  # a block misses what a skipped one leaves for it
            if is_out_of_memory(error):
                raise
            return cls(False, as_tuple)
        assert entered is not None
        return cls(_alike(logits, entered, model.dtype), as_tuple)


def _alike(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    spread = (expected - expected.mean(-1, keepdim=True)).norm()
    return not bool((found - expected).norm() > TOLERANCE.get(dtype, COARSE) * spread)  # of a damaged model: NaN
