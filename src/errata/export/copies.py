"""Copies: a checkpoint folder copied file by file, with some tensors of its safetensors files replaced in place.

A tensor is replaced by one of the same shape and dtype, so that every other byte of the file stays where it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from errata.errors import StoreError
from errata.shards import Place, Shards

INSIDE = "errata"
"""The subfolder of a checkpoint for what its base had not."""
WEIGHTS = {".bin", ".pt", ".pth", ".ckpt", ".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".safetensors", ".tflite"}
"""Endings of files that may hold weights."""
AT_ONCE = 1 << 22
"""Bytes copied at a time."""


def files_of(folder: Path) -> Iterator[str]:
    """The files of a checkpoint folder and its subfolders, hidden ones left out, with `/` between parts."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(part.startswith(".") for part in parts):
            yield "/".join(parts)


def is_left_out(file: str, shards: Shards) -> bool:
    """Whether a file holds weights that are not those that are edited: a copy of it would contradict them."""
    return Path(file).suffix in WEIGHTS and file not in shards.files and not file.startswith(f"{INSIDE}/")


def copied(source: Path, target: Path, replaced: Mapping[Place, Tensor]) -> str:
    """Copy a file, then write tensors over their places in the copy. Returns the digest of the source."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.blake2b(digest_size=16)
    with source.open("rb") as reading, target.open("xb") as writing:
        while block := reading.read(AT_ONCE):
            digest.update(block)
            writing.write(block)
        for place, tensor in replaced.items():
            content = bytes_of(tensor)
            if len(content) != place.end - place.start:
                raise StoreError(f"{source}: a tensor of {len(content)} bytes does not fit its place; nothing written")
            writing.seek(place.start)
            writing.write(content)
    return digest.hexdigest()


def digest_of(path: Path) -> str:
    """The digest of a file, as `copied` gives it."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(AT_ONCE):
            digest.update(block)
    return digest.hexdigest()


def bytes_of(tensor: Tensor) -> bytes:
    """A tensor's values as safetensors holds them."""
    return tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
