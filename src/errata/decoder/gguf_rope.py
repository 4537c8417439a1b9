"""Rotary positions of GGUF files: how a file stretches them, which transformers does not read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from errata.decoder.gguf import architecture_of, text_of
from errata.errors import UnsupportedModel

if TYPE_CHECKING:
    from gguf import GGUFReader

LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 8192}


def restore_rope(config: Any, reader: GGUFReader, path: Path) -> None:
    """Put into the configuration how the file stretches rotary positions, which transformers does not read.

    Llama 3 comes with a factor for each frequency; its settings are taken for right if they give those very factors.
    Raises UnsupportedModel for a way that is not known here: its positions would be wrong without a word.
    """
    prefix = f"{architecture_of(reader, path)}.rope.scaling"
    kind = text_of(reader, f"{prefix}.type") or "none"
    factors = [tensor for tensor in reader.tensors if tensor.name.startswith(("rope_freqs.", "rope_factors_"))]
    rope = getattr(config, "rope_parameters", None) or {}
    if (kind == "none" and not factors) or rope.get("rope_type", "default") != "default":
        return
    if kind == "linear" and not factors:
        stretched = {"rope_type": "linear", "factor": float(str(text_of(reader, f"{prefix}.factor")))}
        whole = rope.get("full_attention")  # sliding attention, where a model has both, is never stretched
        config.rope_parameters = {**rope, **({"full_attention": {**whole, **stretched}} if whole else stretched)}
        return
    if kind == "none" and [tensor.name for tensor in factors] == ["rope_freqs.weight"] and "rope_theta" in rope:
        values = torch.from_numpy(np.array(factors[0].data, dtype=np.float32))
        llama3 = {**rope, **LLAMA3, "factor": float(values.max())}
        if torch.allclose(_factors(llama3, len(values)), values, rtol=1e-4):
            config.rope_parameters = llama3
            return
    raise UnsupportedModel(
        f"{path}: stretches rotary positions ({kind}{', by ' + factors[0].name if factors else ''}) in a way that "
        "transformers does not read from GGUF. Nothing was loaded. Use the model's original checkpoint."
    )


def _factors(rope: Mapping[str, Any], count: int) -> Float[Tensor, " frequency"]:
    """By what each frequency of a Llama 3 is divided."""
    wavelengths = 2 * math.pi * rope["rope_theta"] ** (torch.arange(count) / count)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = ((rope["original_max_position_embeddings"] / wavelengths - low) / (high - low)).clamp(0, 1)
    return 1 / ((1 - smooth) / rope["factor"] + smooth)
