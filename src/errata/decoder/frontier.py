"""Frontier: prompts on a model whose blocks are settled one after another, so that none is run more than needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from errata.decoder import hooks
from errata.decoder.layout import Space
from errata.decoder.passes import Passes
from errata.decoder.rows import pad
from errata.decoder.site import Prompt


class Frontier:
    """Prompts on their way through the blocks, up to their decisive tokens.

    Edits go from shallow to deep, so once a block's keys were asked for, nothing before that block changes any
    more: its input is kept, and the next question starts there. Valid as long as that order is kept.
    """

    def __init__(self, decoder: Passes, prompts: Sequence[Prompt]) -> None:
        decoder.check_causal()
        self.decoder = decoder
        self.stems = [prompt.stem for prompt in prompts]
        self.batches = list(decoder.batches([len(stem.ids) for stem in self.stems]))
        self.reached = -1
        self._hidden: list[Tensor] = []

    def states(
        self, layers: Sequence[int], holding: tuple[int, Tensor] | None = None, space: Space = "block"
    ) -> dict[int, Float[Tensor, "prompt model"]]:
        """States at the decisive tokens, as the weights are now; see `Decoder.states`."""
        blocks, projection = self.decoder.blocks, self.decoder.down_projection
        modules = {layer: blocks[layer] if space == "block" else projection(layer) for layer in layers}
        return self._read(modules, False, None, holding)

    def keys(self, layers: Sequence[int], settle: bool = False) -> dict[int, Float[Tensor, "prompt inner"]]:
        """Down-projection inputs at the decisive tokens; `settle` says that blocks before them are final."""
        modules = {layer: self.decoder.down_projection(layer) for layer in layers}
        return self._read(modules, True, min(layers) - 1 if settle else None, None)

    def settle(self, layer: int) -> None:
        """Keep the output of `layer`: nothing up to it will change any more."""
        self._read({}, False, layer, None)

    @torch.no_grad()
    def _read(
        self,
        modules: dict[int, nn.Module],
        inputs: bool,
        settle: int | None,
        holding: tuple[int, Tensor] | None,
    ) -> dict[int, Tensor]:
        """`modules` by layer; their inputs or output states at the decisive tokens."""
        settle = settle if settle is not None and settle > self.reached else None
        if (modules and min(modules) <= self.reached) or (holding and holding[0] <= self.reached):
            raise ValueError(f"blocks up to {self.reached} were settled; they cannot be read again")
        last = max([*modules, -1 if settle is None else settle])
        if last < 0:
            return {}
        found: dict[int, list[Tensor]] = {layer: [] for layer in modules}
        kept: list[Tensor] = []
        for i, batch in enumerate(self.batches):
            stems = [self.stems[k] for k in batch]
            ids = pad([stem.ids for stem in stems], self.decoder.device)
            at = torch.tensor([stem.decisive for stem in stems])
            row = torch.arange(len(stems))
            named = {str(layer): module for layer, module in modules.items()}
            kept_at = {} if settle is None else {"kept": self.decoder.blocks[settle]}
            held = [] if holding is None else [self._hold(holding, batch, row, at)]
            with hooks.capture(named, inputs=inputs) as seen, hooks.capture(kept_at) as boundary:
                self.decoder.run(
                    ids,
                    enter=(self.reached, self._hidden[i]) if self._hidden else None,
                    leave=last,
                    extra=held,
                    prompts=[len(stem.ids) for stem in stems],
                )
            for layer in modules:
                read = seen[str(layer)].reshape(*ids.shape, -1)[row, at]
                found[layer].append(read.to(self.decoder.device, self.decoder.precision))
            kept.extend(boundary.values())
        if settle is not None:
            self.reached, self._hidden = settle, kept
        if not self.stems:
            width = self.decoder.inner if inputs else lambda _layer: self.decoder.width
            return {layer: self._nothing(width(layer)) for layer in modules}
        order = torch.tensor([k for batch in self.batches for k in batch]).argsort()
        return {layer: torch.cat(parts)[order] for layer, parts in found.items()}

    def _nothing(self, width: int) -> Tensor:
        return torch.empty(0, width, dtype=self.decoder.precision, device=self.decoder.device)

    def _hold(self, holding: tuple[int, Tensor], batch: list[int], row: Tensor, at: Tensor) -> Any:
        layer, states = holding

        def overwrite(hidden: Tensor) -> Tensor:
            new = hidden.clone()
            new[row, at] = states[batch].to(hidden.device, hidden.dtype)
            return new

        return hooks.substitute(self.decoder.blocks[layer], overwrite)
