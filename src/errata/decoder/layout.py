"""DecoderLayout: where a family keeps its blocks, down-projections, final norm and head. Data, or a guess."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from inspect import signature
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import yaml
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from errata.errors import BadRecord, UnknownName, UnsupportedModel, printable
from errata.rows import read_text

Space = Literal["block", "mlp"]
"""What is meant by a layer's state: its block's output, or its down-projection's (method 5.1)."""

MIXERS = ("att", "mamba", "mixer", "conv", "ssm", "recurrent", "temporal")
"""Words in the names of modules that mix tokens with each other."""
MLPS = ("mlp", "ffn", "feed_forward", "feedforward")
"""Words in the names of modules that work on each token alone."""
ROUTED = frozenset({"experts", "router", "gate"})
"""Names of modules in a mixture that not every token passes, or that choose."""
GATE = "shared_expert_gate"
"""The name of what multiplies a shared expert's output by a number of the token's own."""
_NEEDED = ("blocks", "down_projection", "head")
_OPTIONAL: dict[str, Any] = {"model_types": [], "mlp": None, "attention": None, "final_norm": None, "note": ""}


@dataclass(frozen=True)
class DecoderLayout:
    """Module paths: `blocks`, `final_norm` and `head` from the model; the others from one block."""

    model_types: tuple[str, ...]
    blocks: str
    down_projection: str
    mlp: str | None
    attention: str | None
    final_norm: str | None
    head: str
    note: str = ""
    guessed: bool = False

    @classmethod
    def read(cls, path: str | Path) -> DecoderLayout:
        """From a YAML file of these fields; `model_types`, `mlp`, `attention`, `final_norm` and `note` may be left out.

        Raises UnsupportedModel naming the file and the field, UnknownName for a field that no layout has.
        """
        try:
            row = yaml.safe_load(read_text(Path(path)))
        except (BadRecord, yaml.YAMLError) as error:
            raise UnsupportedModel(f"layout {path}: not read: {str(error)[:300]}") from None
        if not isinstance(row, dict):
            raise UnsupportedModel(f"layout {path}: expected fields with values, found {printable(row)}")
        return _layout(str(path), row)


@cache
def known_layouts() -> dict[str, DecoderLayout]:
    """Model type -> layout, from the files beside this module."""
    found = {}
    for file in sorted(resources.files("errata.decoder").joinpath("layouts").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".yaml"):
            layout = _layout(file.name, yaml.safe_load(file.read_text(encoding="utf-8")))
            found.update(dict.fromkeys(layout.model_types, layout))
    return found


def _layout(where: str, row: dict[Any, Any]) -> DecoderLayout:
    for name in row:
        if name not in (*_NEEDED, *_OPTIONAL):
            raise UnknownName(f"field of the layout {where}", str(name), (*_NEEDED, *_OPTIONAL))
    for name in _NEEDED:
        if not isinstance(row.get(name), str):
            raise UnsupportedModel(
                f"layout {where}: {name!r} must be a module's path, found {printable(row.get(name))}"
            )
    full = _OPTIONAL | row
    kinds = full["model_types"]
    if not isinstance(kinds, list) or not all(isinstance(value, str) for value in kinds):
        raise UnsupportedModel(f"layout {where}: 'model_types' must be a list of names, found {printable(kinds)}")
    for name in ("mlp", "attention", "final_norm"):
        if not isinstance(full[name], str | None):
            raise UnsupportedModel(f"layout {where}: {name!r} must be a module's path, found {printable(full[name])}")
    return DecoderLayout(**{**full, "model_types": tuple(kinds), "note": str(full["note"])})


def layout_of(model: PreTrainedModel, given: DecoderLayout | None = None) -> DecoderLayout:
    """The layout given, the family's, or one discovered by structure (`guessed`). Raises UnsupportedModel."""
    _refuse_experts(model, given)
    layout = given or known_layouts().get(model.config.model_type) or discover(model)
    for block in blocks_of(model, layout):
        if not isinstance(block.get_submodule(layout.down_projection), (nn.Linear, Conv1D)):
            kind = type(block.get_submodule(layout.down_projection)).__name__
            raise UnsupportedModel(
                f"{model.config.model_type}: {layout.down_projection} is a {kind}; expected Linear or Conv1D"
            )
    return layout


def blocks_of(model: PreTrainedModel, layout: DecoderLayout) -> list[nn.Module]:
    """The decoder blocks, shallow to deep. Raises UnsupportedModel if the path or a projection is missing."""
    try:
        blocks = list(model.get_submodule(layout.blocks).children())
        for name in filter(None, (layout.final_norm, layout.head)):
            attrgetter(name)(model)  # None where a model of the family has no final norm
        for block in blocks:
            block.get_submodule(layout.down_projection)
    except AttributeError as error:
        raise UnsupportedModel(f"{model.config.model_type}: {error}; its layout does not fit this model") from None
    parts = {name for block in blocks for name, _ in block.named_modules()}
    if missing := [name for name in (layout.mlp, layout.attention) if name is not None and name not in parts]:
        raise UnsupportedModel(
            f"{model.config.model_type}: no block at {layout.blocks} has {missing[0]!r}; the layout does not fit"
        )
    return blocks


def discover(model: PreTrainedModel) -> DecoderLayout:
    """Guess a layout: the largest list of blocks, and in each of them a linear that leads back to the hidden size.

    Attention, convolutions and state-space mixers end in such a linear too, so a path that names one does not count;
    one that names an MLP goes before others, and the last before earlier ones. Raises UnsupportedModel if the
    structure is another one.
    """
    kind = model.config.model_type
    width = _width(model)
    lists = _lists_of_blocks(model)
    if not lists:
        raise UnsupportedModel(
            f"{kind}: found no list of alike blocks with linear layers; give its layout as a YAML file: --layout FILE"
        )
    blocks, members = max(lists.items(), key=lambda item: sum(p.numel() for p in item[1].parameters()))
    back = _leading_back(members, width)
    if not back:
        raise UnsupportedModel(
            f"{kind}: no linear outside attention and other mixers is in all blocks of {blocks} and leads back to "
            f"width {width}, so not every block has a down-projection; errata edits models in which each has one"
        )
    head = model.get_output_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    if head is None or id(head) not in names:
        raise UnsupportedModel(f"{kind}: no output embedding; a causal language model is needed")
    parent, _, own = blocks.rpartition(".")
    siblings = [name for name, _ in model.get_submodule(parent).named_children()]
    norms = [name for name in siblings if "norm" in name.lower() or "ln_f" in name.lower()]
    behind = [name for name in norms if siblings.index(name) > siblings.index(own)]
    return DecoderLayout(
        model_types=(kind,),
        blocks=blocks,
        down_projection=back[-1],
        mlp=_mlp_around(members[0], back[-1]),
        attention=next((n for n in _in_all(members) if "att" in n.lower() and "norm" not in n.lower()), None),
        final_norm=f"{parent}.{(behind or norms[-1:])[0]}".lstrip(".") if norms else None,
        head=names[id(head)],
        note="discovered by structure; check it before you trust it",
        guessed=True,
    )


def _lists_of_blocks(model: PreTrainedModel) -> dict[str, nn.ModuleList]:
    """Lists of two and more blocks with linears, outermost ones alone; of the text half where a model has several."""
    lists = {n: m for n, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 1}
    lists = {n: m for n, m in lists.items() if not any(n.startswith(f"{outer}.") for outer in lists)}
    lists = {n: m for n, m in lists.items() if all(any(_linears(block)) for block in m)}
    text = {id(module) for module in model.get_decoder().modules()}
    return {n: m for n, m in lists.items() if id(m) in text} or lists


def _leading_back(blocks: nn.ModuleList, width: int) -> list[str]:
    """Paths, the same in all blocks, of linears outside mixers that give as many values as the stream has."""
    found = [name for name, linear in _linears(blocks[0]) if linear_shape(linear)[0] == width]
    found = [name for name in found if not any(word in name.lower() for word in MIXERS)]
    for block in blocks:
        inside = {name for name, linear in _linears(block) if linear_shape(linear)[0] == width}
        found = [name for name in found if name in inside]
    return [name for name in found if any(word in name.lower() for word in MLPS)] or found


def _mlp_around(block: nn.Module, down_projection: str) -> str | None:
    """The module that the projection ends, if it takes the state alone; some take the residual too, and add it."""
    path = down_projection.rpartition(".")[0]
    return path if path and len(signature(block.get_submodule(path).forward).parameters) == 1 else None


def _in_all(blocks: nn.ModuleList) -> list[str]:
    """Names of children that all blocks have."""
    return [name for name, _ in blocks[0].named_children() if all(name in dict(b.named_children()) for b in blocks)]


def linear_shape(linear: nn.Module) -> tuple[int, int]:
    """(out, in) of a Linear or Conv1D, by module type and never by comparing sizes."""
    if isinstance(linear, nn.Linear):  # the stored weight of a quantised one may be packed
        return linear.out_features, linear.in_features
    rows, columns = linear.weight.shape  # type: ignore[misc]
    return (columns, rows) if isinstance(linear, Conv1D) else (rows, columns)


def _linears(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((n, m) for n, m in block.named_modules() if isinstance(m, (nn.Linear, Conv1D)))


def _refuse_experts(model: PreTrainedModel, given: DecoderLayout | None) -> None:
    """Raises UnsupportedModel for a mixture of experts, unless the layout given is of one that all tokens pass."""
    names = [name for name, _ in model.named_modules()]
    routed = [name for name in names if {"experts", "router"} & set(name.split("."))]
    if not routed:
        return
    kind = model.config.model_type
    gates = [name for name in names if name.endswith(GATE)]
    if given is not None and ROUTED & set(given.down_projection.split(".")):
        raise UnsupportedModel(f"{kind}: {given.down_projection} is a routed expert's, which not every token passes")
    if given is not None and not gates:
        return
    shared = shared_experts(model)
    advice = "Use a dense model."
    if gates:
        advice = f"{gates[0]} multiplies what the shared expert gives by a factor of each token's own. {advice}"
    elif shared:
        advice = (
            f"Every token also passes {shared[0]} in each block: a layout that names it (--layout FILE, see "
            "docs/models.md) edits that alone, and leaves what routed experts add as it is."
        )
    raise UnsupportedModel(
        f"{kind}: {routed[0]} is a mixture of experts; which expert a fact passes through depends on the prompt, so "
        f"one down-projection per block cannot be edited. {advice}"
    )


def shared_experts(model: PreTrainedModel) -> list[str]:
    """Paths in all blocks of linears that lead from a shared expert back to the stream."""
    lists = _lists_of_blocks(model)
    if not lists:
        return []
    blocks = max(lists.values(), key=lambda members: sum(p.numel() for p in members.parameters()))
    width = _width(model)
    return [name for name in _leading_back(blocks, width) if "shared" in name and not ROUTED & set(name.split("."))]


def _width(model: PreTrainedModel) -> int:
    """The size of the residual stream, as far as the configuration tells."""
    embedding: Any = model.get_input_embeddings()
    return int(getattr(model.config.get_text_config(decoder=True), "hidden_size", embedding.weight.shape[1]))
