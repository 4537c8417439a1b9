"""Stored: a matrix as a GGUF file holds it, and a GGUF file with some of its matrices replaced."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, quants
from jaxtyping import Float
from torch import Tensor

from errata.decoder.gguf import open_gguf
from errata.errors import ModelError, NotFinite, StoreError
from errata.files import whole_file

if TYPE_CHECKING:
    from gguf.gguf_reader import ReaderTensor

WRITABLE = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "f16", "bf16", "f32")
"""Types that can be written; K-quants and those with tables are only read."""


@dataclass(frozen=True)
class Stored:
    """A matrix in a type of GGUF: the bytes, and the values that they stand for."""

    type: GGMLQuantizationType
    data: np.ndarray
    values: Float[Tensor, "model inner"]


def fits(tensor: ReaderTensor, type: str) -> bool:
    """Whether a tensor's rows can be divided into the blocks of a type."""
    return bool(int(tensor.shape[0]) % quants.GGML_QUANT_SIZES[GGMLQuantizationType[type.upper()]][0] == 0)


def stored(values: Float[Tensor, "model inner"], type: str, name: str) -> Stored:
    """A matrix, whose rows fit the type, rounded to one of the WRITABLE types. Raises NotFinite."""
    kind = GGMLQuantizationType[type.upper()]
    with np.errstate(over="ignore"):
        data = quants.quantize(values.float().cpu().contiguous().numpy(), kind)
    rounded = torch.from_numpy(np.array(quants.dequantize(data, kind), dtype=np.float32)).reshape(values.shape)
    if not torch.isfinite(rounded).all():
        raise NotFinite(f"{name}: the edited matrix has values too large for {type}. Nothing was written. Use bf16.")
    return Stored(kind, data, rounded)


def values_of(tensor: ReaderTensor) -> Float[Tensor, "model inner"]:
    """A tensor of a file, de-quantised; its rows are the outputs, in whatever way the model's family keeps them."""
    values = quants.dequantize(tensor.data, tensor.tensor_type)
    return torch.from_numpy(np.array(values, dtype=np.float32)).reshape([int(n) for n in reversed(tensor.shape)])


def write_with(reader: GGUFReader, replaced: Mapping[str, Stored], output: Path) -> None:
    """Copy a GGUF file with some tensors stored anew; every other byte of header and data is as it was.

    Only where a type changes do the tensors behind it move. Whole or not at all. Raises StoreError, ModelError.
    """
    ordered = sorted(reader.tensors, key=lambda tensor: tensor.data_offset)
    ends = [*(tensor.data_offset for tensor in ordered[1:]), len(reader.data)]
    header = bytearray(reader.data[: reader.data_offset].tobytes())
    parts, offset = [], 0
    for tensor, end in zip(ordered, ends, strict=True):
        part = _part(reader, tensor, end, replaced.get(tensor.name))
        _describe(header, tensor, replaced.get(tensor.name), offset)
        parts.append(part)
        offset += len(part)
    with whole_file(output) as made, made.open("wb") as file:
        file.write(header)
        for part in parts:
            part.tofile(file)


def _part(reader: GGUFReader, tensor: ReaderTensor, end: int, new: Stored | None) -> np.ndarray:
    """A tensor's bytes and what fills up to the next one."""
    if tensor.data_offset + tensor.n_bytes > end:
        raise ModelError(f"{tensor.name} overlaps the tensor behind it; the GGUF file is damaged. Nothing was written.")
    if new is None:
        unchanged: np.ndarray = reader.data[tensor.data_offset : end]
        return unchanged
    data = np.ascontiguousarray(new.data).reshape(-1).view(np.uint8)
    return np.pad(data, (0, -len(data) % int(reader.alignment)))


def _describe(header: bytearray, tensor: ReaderTensor, new: Stored | None, offset: int) -> None:
    """Put a tensor's type and place into its entry: behind name, number of dimensions and dimensions."""
    *before, type_, _ = tensor.field.parts
    place: Any = tensor.field.offset + sum(int(part.nbytes) for part in before)
    struct.pack_into("<IQ", header, place, int(type_[0]) if new is None else int(new.type), offset)


def check_written(output: Path, reader: GGUFReader, replaced: Mapping[str, Stored]) -> None:
    """Read a file back. Raises StoreError, and deletes it, if any tensor is not what it should be."""
    before = {tensor.name: tensor for tensor in reader.tensors}
    for tensor in open_gguf(output).tensors:
        new = replaced.get(tensor.name)
        data = before[tensor.name].data if new is None else new.data
        if tensor.data.tobytes() != data.tobytes():
            output.unlink(missing_ok=True)
            raise StoreError(f"{output}: {tensor.name} was not read back as it was written; the file was deleted.")
