"""Offload: weights that accelerate keeps off the device a model runs on, in main memory or on disk.

Such a parameter is an empty shell between passes; its values lie in a map that its module's hook reads before every
pass. They are changed in main memory only: what lies on disk is the checkpoint itself, and stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn


def running_device(module: nn.Module) -> torch.device:
    """Where a module computes, wherever its weights lie between passes."""
    weight: Tensor = next(module.parameters(recurse=False))
    hook = _hook(module) if is_away(weight) else None
    return weight.device if hook is None else torch.device(hook.execution_device)


def is_away(parameter: Tensor) -> bool:
    """Whether a parameter's values are kept elsewhere."""
    return parameter.device.type == "meta"


def fetched(module: nn.Module, name: str) -> Tensor:
    """The values of a module's parameter that is away; the empty shell of a model that has none at all."""
    hook = _hook(module)
    values: Tensor = module.get_parameter(name) if hook is None else hook.weights_map[name]
    return values


def replace(module: nn.Module, name: str, values: Tensor) -> None:
    """Let every later pass use these values for a parameter that is away."""
    full, kept = name, _hook(module).weights_map
    while not isinstance(kept, MutableMapping):  # views under a prefix, then what reads from disk unless it is told
        prefix = getattr(kept, "prefix", None)
        full, kept = (full, kept.state_dict) if prefix is None else (prefix + full, kept.dataset)
    kept[full] = values.to("cpu")


def names_once(model: Any) -> Mapping[str, Tensor]:
    """Parameters by name, tied ones under one name only, as in a model of which nothing is away."""
    tied: Mapping[str, str] = getattr(model, "all_tied_weights_keys", {})
    found = dict(model.named_parameters())
    return {name: value for name, value in found.items() if tied.get(name) not in found}


def _hook(module: nn.Module) -> Any:
    """The hook that brings a module's weights, if any."""
    hook: Any = getattr(module, "_hf_hook", None)
    parts = getattr(hook, "hooks", [hook])
    return next((part for part in parts if getattr(part, "weights_map", None) is not None), None)
