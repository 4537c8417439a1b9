"""Anatomy: a causal language model taken apart by its layout. Its blocks, down-projections, sizes and devices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from errata.decoder.layout import DecoderLayout, blocks_of, layout_of, linear_shape
from errata.decoder.offload import running_device
from errata.errors import WindowOutside


class Anatomy:
    """A model and where its parts are. Reads nothing but shapes, so a model that is only described will do."""

    def __init__(self, model: PreTrainedModel, layout: DecoderLayout | None = None, name: str = "") -> None:
        self.model: Any = model
        self.layout = layout_of(model, layout)
        self.name = name or model.config.name_or_path or model.config.model_type
        self.blocks = blocks_of(model, self.layout)
        self._names = {id(module): name for name, module in model.named_modules()}

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.blocks)

    @property
    def width(self) -> int:
        """Size of the residual stream."""
        return linear_shape(self.down_projection(0))[0]

    @property
    def vocabulary(self) -> int:
        """Rows of the head."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def positions(self) -> int | None:
        """Tokens that one row may have; None where the configuration names no limit."""
        limit = getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)
        return limit if isinstance(limit, int) and limit > 0 else None

    @property
    def dtype(self) -> torch.dtype:
        """What states are computed in; of a quantised model, the dtype of the parts that are not."""
        stored: torch.dtype = self.down_projection(0).weight.dtype  # type: ignore[assignment]
        entry: torch.dtype = self.model.get_input_embeddings().weight.dtype
        return stored if stored.is_floating_point else entry

    @property
    def precision(self) -> torch.dtype:
        """What losses, targets and changes are kept in: float32, or float64 for a float64 model."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def device(self) -> torch.device:
        """Where tokens enter, and where states, targets and changes are kept."""
        return running_device(self.model.get_input_embeddings())

    def inner(self, layer: int) -> int:
        """Input width of the down-projection of a block."""
        return linear_shape(self.down_projection(layer))[1]

    def down_projection(self, layer: int) -> nn.Module:
        """The edited module of a block."""
        return self.blocks[layer].get_submodule(self.layout.down_projection)

    def parameter_name(self, layer: int) -> str:
        """Full name of the edited matrix of a block."""
        return f"{self._names[id(self.down_projection(layer))]}.weight"

    def check_window(self, layers: Iterable[int]) -> None:
        """Raises WindowOutside if a layer is not one of this model's."""
        layers = list(layers)
        outside = [layer for layer in layers if not 0 <= layer < self.depth]
        if outside or not layers or layers != sorted(set(layers)):
            raise WindowOutside(
                f"window {layers}: expected ascending layers between 0 and {self.depth - 1} of {self.name}"
            )
