"""The only file that reaches into a running forward pass: read a module, replace what it gives, leave early.

Decoder blocks may return a tensor or a tuple that starts with one (transformers has both); nothing here
writes in place, and the container a block returns is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle as Handle

Change = Callable[[Tensor], Tensor]


class _Left(Exception):
    """Raised by `leave_after` to end a forward pass; never seen outside it."""


def state(output: Any) -> Tensor:
    """The hidden state [batch, token, model] in what a block returned. Raises TypeError for another shape."""
    found = output[0] if isinstance(output, tuple) else output
    if not isinstance(found, Tensor) or found.ndim != 3:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(f"expected a block to return a state [batch, token, model], found {shape}")
    return found


def _with_state(output: Any, new: Tensor) -> Any:
    return (new, *output[1:]) if isinstance(output, tuple) else new


@contextmanager
def capture(modules: dict[str, nn.Module], *, inputs: bool = False) -> Iterator[dict[str, Tensor]]:
    """Collect the output state (or the first positional input) of each module under its name."""
    seen: dict[str, Tensor] = {}

    def keeper(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            seen[name] = args[0] if inputs else state(output)

        return keep

    handles = [module.register_forward_hook(keeper(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watch(module: nn.Module, look: Callable[[Any], object]) -> Iterator[None]:
    """Show each raw output of a module to `look`."""
    handle = module.register_forward_hook(lambda _module, _args, output: (look(output), None)[1])
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def followers(module: nn.Module, block: nn.Module) -> Iterator[list[tuple[str, nn.Module, Tensor]]]:
    """Collect the parts of a block whose input is what `module` gave: path, part, and what it gave in turn."""
    given: list[Tensor] = []
    seen: list[tuple[str, nn.Module, Tensor]] = []

    def looking(name: str) -> Callable[..., None]:
        def look(part: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if given and args and isinstance(output, Tensor) and _equal(args[0], given[-1]):
                seen.append((name, part, output))

        return look

    parts = [(name, part) for name, part in block.named_modules() if part is not module and not any(part.children())]
    handles = [module.register_forward_hook(lambda _module, _args, output: given.append(output))]
    handles += [part.register_forward_hook(looking(name)) for name, part in parts]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _equal(one: Any, other: Tensor) -> bool:
    return isinstance(one, Tensor) and one.shape == other.shape and bool(torch.equal(one.to(other), other))


@contextmanager
def substitute(module: nn.Module, change: Change) -> Iterator[None]:
    """Replace a block's output state by `change(state)`."""
    handle = module.register_forward_hook(lambda _module, _args, output: _with_state(output, change(state(output))))
    try:
        yield
    finally:
        handle.remove()


def keep_stand_in(module: nn.Module, give: Callable[[Tensor, Tensor], Tensor]) -> Handle:
    """Replace what a linear module gives by `give(input, output)` until the handle is removed."""
    return module.register_forward_hook(lambda _module, args, output: give(args[0], output))


@contextmanager
def stand_in(module: nn.Module, give: Callable[[Tensor, Tensor], Tensor]) -> Iterator[None]:
    """`keep_stand_in` inside the `with`."""
    handle = keep_stand_in(module, give)
    try:
        yield
    finally:
        handle.remove()


def keep_announcing(model: nn.Module, begin: Callable[[Tensor], None]) -> Handle:
    """Tell `begin` of every pass that starts new sequences, with their real tokens [batch, token], until removed.

    A pass with something in its cache goes on with the sequences of the pass before and is not announced.
    """

    def look(_model: nn.Module, args: Any, inputs: dict[str, Any]) -> None:
        past = inputs.get("past_key_values")
        if past is not None and past.get_seq_length() > 0:
            return
        ids = args[0] if args else inputs.get("input_ids")
        tokens = inputs["inputs_embeds"][..., 0] if ids is None else ids
        mask = inputs.get("attention_mask")
        real = mask if isinstance(mask, Tensor) and mask.shape == tokens.shape else torch.ones_like(tokens)
        begin(real.bool())

    return model.register_forward_pre_hook(look, with_kwargs=True)


@contextmanager
def narrow(module: nn.Module, select: Change, restore: Change | None = None) -> Iterator[None]:
    """Give a module `select(input)` instead of its input, and hand on `restore(output)`."""
    handles = [module.register_forward_pre_hook(lambda _module, args: (select(args[0]), *args[1:]))]
    if restore is not None:
        handles.append(module.register_forward_hook(lambda _module, _args, output: restore(output)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def enter_after(blocks: Sequence[nn.Module], layer: int, hidden: Tensor, as_tuple: bool) -> Iterator[None]:
    """Skip the blocks up to and including `layer`; `hidden` [batch, token, model] is what `layer` gives.

    The blocks keep their place in the list, so whatever the model looks up by a block's index stays right.
    """

    def forwarder(replacement: Tensor | None) -> Callable[..., Any]:
        def forward(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Any:
            out = hidden_states if replacement is None else replacement
            return (out,) if as_tuple else out

        return forward

    skipped = list(blocks[: layer + 1])
    before = [block.__dict__.get("forward") for block in skipped]
    try:
        for i, block in enumerate(skipped):
            block.forward = forwarder(hidden if i == layer else None)
        yield
    finally:
        for block, old in zip(skipped, before, strict=True):
            if old is None:
                block.__dict__.pop("forward", None)
            else:
                block.forward = old


@contextmanager
def leave_after(module: nn.Module) -> Iterator[None]:
    """End the forward pass inside the `with` once `module` has run."""

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        raise _Left

    handle = module.register_forward_hook(leave)
    try:
        yield
    except _Left:
        pass
    finally:
        handle.remove()
