"""Stillness: a model that is run and not trained, for a while. Afterwards it is as trainable as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Inside: no dropout, no gradients of parameters, no compiled graph (hooks would not be seen), outputs by name.

    Each module's mode, each parameter's requires_grad and each configuration's return_dict are put back.
    """
    modules = list(model.modules())
    training = [module for module in modules if module.training]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    compiled = [(m, m._compiled_call_impl) for m in modules if m._compiled_call_impl is not None]
    configs: list[Any] = list({id(m.config): m.config for m in modules if hasattr(m, "config")}.values())
    bare = [config for config in configs if getattr(config, "return_dict", True) is False]
    try:
        for module in training:
            module.training = False
        for parameter in learning:
            parameter.requires_grad_(False)
        for module, _ in compiled:
            module._compiled_call_impl = None
        for config in bare:
            config.return_dict = True
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in learning:
            parameter.requires_grad_(True)
        for module, call in compiled:
            module._compiled_call_impl = call
        for config in bare:
            config.return_dict = False
