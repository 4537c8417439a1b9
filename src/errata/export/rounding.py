"""Rounding: what each type of GGUF leaves of an edit, in the edit's own keys and in facts that hold; which to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from gguf import GGUFReader, quants
from gguf.gguf_reader import ReaderTensor
from jaxtyping import Float
from torch import Tensor

from errata.decoder.decoder import Decoder
from errata.decoder.gguf import naming
from errata.delta import WeightDelta
from errata.editors.base import WeightEdit
from errata.errors import UnsupportedModel, WrongModel
from errata.export.base import changed, held_by, residual
from errata.export.stored import WRITABLE, Stored, fits, stored, values_of
from errata.fact import Fact

SAME = "same"
TRIED = (SAME, "q8_0", "f16")
"""What is tried if no type is asked for."""

BLOCK = 32
"""Columns that are rounded together: those that share a scale."""
RIDGE = 1e-2
MOST = 512

Tensors = Mapping[str, ReaderTensor]
"""Edited parameter -> the tensor of the file that holds it."""


@dataclass(frozen=True)
class Rounded:
    """An edit in one type: the matrices as they are stored, the facts that then hold, and what rounding changes."""

    type: str
    matrices: Mapping[str, Stored]
    held: frozenset[Fact]
    residual: float | None
    """|E K| / |dW K| (Frobenius), where E is what rounding changes and K are the edit's keys; None without keys."""

    @property
    def types(self) -> str:
        """The types of the matrices: `Q4_1`, or `Q4_0 and Q5_0`."""
        return " and ".join(sorted({matrix.type.name for matrix in self.matrices.values()}))

    @property
    def size(self) -> int:
        """Bytes of the edited matrices."""
        return sum(matrix.data.nbytes for matrix in self.matrices.values())


def tensors_of(edit: WeightEdit, decoder: Decoder, reader: GGUFReader) -> dict[str, ReaderTensor]:
    """The tensors of the parameters that the edit changes; of those to which it adds nothing, none.

    Raises UnsupportedModel for a parameter that the file does not hold, WrongModel if it holds other values than those
    that the model computes with: then a name or an orientation is not what it is taken for.
    """
    name_of = naming(reader, decoder.name, decoder.depth)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    changing = [parameter for parameter, change in edit.delta.changes.items() if change.any()]
    of = {parameter: name_of(parameter) for parameter in changing}
    for parameter, name in of.items():
        if name not in tensors:
            raise UnsupportedModel(
                f"{decoder.name}: has no tensor for {parameter}, which the edit changes (in GGUF its name is {name}). "
                "Nothing was written."
            )
        own = _original(decoder, parameter)
        if not torch.equal(values_of(tensors[str(name)]).to(own.dtype), own):
            raise WrongModel(f"{decoder.name}: {name} holds other values than {parameter}. Nothing was written.")
    return {parameter: tensors[str(name)] for parameter, name in of.items()}


def types_to_try(tensors: Tensors) -> list[str]:
    """TRIED without what cannot be written, and what would hold the matrices in fewer bits than the file does."""
    kinds = {tensor.tensor_type for tensor in tensors.values()}
    least = max((_bits(kind.name) for kind in kinds), default=0.0)
    same = all(kind.name.lower() in WRITABLE for kind in kinds)
    names = [name for name in TRIED if (same if name == SAME else _bits(name) >= least)]
    names = [name for name in names if name == SAME or all(fits(tensor, name) for tensor in tensors.values())]
    return names or ["f32"]


def rounded(edit: WeightEdit, decoder: Decoder, tensors: Tensors, type: str) -> Rounded:
    """The edit in one type, and what comes of it, asked of the decoder. Raises UnsupportedModel, NotFinite."""
    matrices, changes, errors = {}, {}, {}
    keys = {decoder.parameter_name(layer): keys.float().cpu() for layer, keys in edit.keys.items()}
    for parameter, tensor in tensors.items():
        kind = tensor.tensor_type.name.lower() if type == SAME else type
        if kind not in WRITABLE:
            raise UnsupportedModel(
                f"{tensor.name} is stored as {kind.upper()}, which can be read but not written. Nothing was written. "
                "Use --type q8_0 or f16."
            )
        if not fits(tensor, kind):
            raise UnsupportedModel(
                f"{tensor.name} has rows of {tensor.shape[0]} values, which cannot be divided into the blocks of "
                f"{kind}. Nothing was written. Use --type f16."
            )
        before, change = values_of(tensor), edit.delta.changes[parameter].float().cpu()
        matrices[parameter] = rounded_for(keys.get(parameter), before + change, kind, tensor.name)
        changes[parameter] = matrices[parameter].values - before
        errors[parameter] = changes[parameter] - change
    with changed(decoder, WeightDelta(edit.delta.fingerprint, changes)):
        held = held_by(decoder, edit.facts)
    return Rounded(type, matrices, held, residual(edit, decoder, errors))


def rounded_for(
    keys: Float[Tensor, "fact inner"] | None, goal: Float[Tensor, "model inner"], type: str, name: str
) -> Stored:
    """A matrix in this type, rounded so that it gives for the keys what it should.

    BLOCK columns after BLOCK are rounded. What rounding has taken from the keys' outputs so far, E K^T, is made up for
    by the columns to come, k of each key: they are moved by -(E K^T) (k k^T + ridge)^-1 k before they are rounded too
    (as GPTQ does with the keys of a whole corpus; here they are the edit's own).
    """
    if keys is None or not len(keys):
        return stored(goal, type, name)
    keys = _few(keys.double())
    ridge = RIDGE * keys.square().sum() / len(keys) * torch.eye(len(keys)).double()
    lost = torch.zeros(len(goal), len(keys)).double()
    parts = []
    for start in range(0, goal.shape[1], BLOCK):
        block, rest = slice(start, start + BLOCK), keys[:, start:]
        moved = goal[:, block] - lost @ torch.linalg.solve(rest @ rest.T + ridge, keys[:, block])
        parts.append(stored(moved, type, name))
        lost += (parts[-1].values - goal[:, block]).double() @ keys[:, block].T
    data = np.concatenate([part.data for part in parts], axis=1)
    return Stored(parts[0].type, data, torch.cat([part.values for part in parts], dim=1))


def _few(keys: Float[Tensor, "fact inner"]) -> Float[Tensor, "row inner"]:
    """At most MOST rows that stand for all keys: random sums of them, always the same ones."""
    if len(keys) <= MOST:
        return keys
    draw = torch.Generator().manual_seed(0)
    return torch.randn(MOST, len(keys), generator=draw, dtype=keys.dtype) @ keys / MOST**0.5


def smallest(tried: Sequence[Rounded], wanted: frozenset[Fact]) -> Rounded:
    """The smallest with which every wanted fact holds; if there is none, the one with which most do."""
    return min(tried, key=lambda one: (len(wanted - one.held), one.size))


def _original(decoder: Decoder, parameter: str) -> Tensor:
    """The values of a parameter of the unedited model, [model, inner]."""
    values = decoder.weights.original(parameter)
    return (values.T if decoder.weights.is_transposed(parameter) else values).cpu()


def _bits(type: str) -> float:
    """Bits per value."""
    values, size = quants.GGML_QUANT_SIZES[getattr(quants.GGMLQuantizationType, type.upper())]
    return 8 * size / values
