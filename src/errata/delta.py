"""WeightDelta: a weight change as a value."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from errata.errors import StoreError, WrongModel
from errata.files import whole_file

LONGEST = 200
"""Characters of another library's message that an error shows."""


@dataclass(frozen=True)
class WeightDelta:
    """Parameter name -> change [model, inner], for the weights that `fingerprint` names.

    Changes have the orientation of the mathematics; a transposed parameter is the decoder's affair.
    """

    fingerprint: str
    changes: Mapping[str, Tensor] = field(default_factory=dict)

    def __add__(self, other: WeightDelta) -> WeightDelta:
        """Both changes. Raises WrongModel if they were made for different weights."""
        if self.fingerprint != other.fingerprint:
            raise WrongModel(f"cannot add a change for weights {other.fingerprint} to one for {self.fingerprint}")
        total = dict(self.changes)
        for name, change in other.changes.items():
            total[name] = total[name] + change if name in total else change
        return WeightDelta(self.fingerprint, total)

    def __neg__(self) -> WeightDelta:
        return self.scaled(-1.0)

    def scaled(self, factor: float) -> WeightDelta:
        """The same direction, `factor` times as far."""
        return WeightDelta(self.fingerprint, {name: factor * change for name, change in self.changes.items()})

    def same_changes(self, other: WeightDelta) -> bool:
        """Whether both hold the same changes, bit for bit, whatever weights they name."""
        if self.changes is other.changes:
            return True
        return self.changes.keys() == other.changes.keys() and all(
            change is theirs or (change.shape == theirs.shape and torch.equal(change, theirs.to(change)))
            for change, theirs in ((change, other.changes[name]) for name, change in self.changes.items())
        )

    @property
    def digest(self) -> str:
        """A hash of every value of the change."""
        digest = hashlib.blake2b(self.fingerprint.encode(), digest_size=16)
        for name, change in sorted(self.changes.items()):
            digest.update(name.encode())
            digest.update(change.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write safetensors, in full or not at all. float64 is kept, anything else becomes float32."""
        tensors = {
            name: change.to("cpu", change.dtype if change.dtype == torch.float64 else torch.float32).contiguous()
            for name, change in self.changes.items()
        }
        write_tensors(Path(path), tensors, {"fingerprint": self.fingerprint, "kind": "errata.WeightDelta"})

    @classmethod
    def load(cls, path: str | Path) -> WeightDelta:
        """Read what `save` wrote. Raises StoreError if the file is damaged or something else."""
        tensors, metadata = read_tensors(Path(path))
        if metadata.get("kind") != "errata.WeightDelta":
            raise StoreError(f"{path}: expected a weight change written by errata, found {metadata or 'no metadata'}")
        if "fingerprint" not in metadata:
            raise StoreError(f"{path}: does not say which weights it is for; it cannot be put on any")
        if odd := [name for name, change in tensors.items() if not change.is_floating_point() or change.ndim == 0]:
            raise StoreError(f"{path}: {odd[0]!r} is no change of a parameter: it holds {tensors[odd[0]].dtype}")
        return cls(metadata["fingerprint"], tensors)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all. Raises StoreError."""
    with whole_file(path) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=dict(metadata))
        except SafetensorError as error:
            raise StoreError(f"{path}: could not be written ({error}); nothing was left half written") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises StoreError if it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error) if len(str(error)) <= LONGEST else f"{str(error)[:LONGEST]} ..."
        raise StoreError(f"{path}: could not be read ({reason})") from error
