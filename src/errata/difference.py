"""Difference: what changed between two checkpoints, or between two edits. Tensor by tensor, never both in memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from errata.errors import NotFinite
from errata.factors import MARGIN, noise, singular_values

IDENTICAL, SURGICAL, BROAD = "identical", "surgical", "broad"
FEW, LOW, SLIGHT = 0.1, 0.25, 0.25
"""Surgical: at most this share of tensors changed, at most this share of each one's rank, at most so far."""

Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Change:
    """One tensor that differs. `size`: Frobenius norm of the difference; `relative`: over the first one's norm, None
    if that is zero; `rank`: ranks above rounding, None where it was not counted; `ranks`: the most there could be.
    """

    name: str
    shape: tuple[int, ...]
    size: float
    relative: float | None
    rank: int | None = None
    ranks: int | None = None

    @property
    def layer(self) -> int | None:
        """The first number in the name."""
        number = re.search(r"(?:^|\.)(\d+)\.", self.name)
        return int(number[1]) if number else None

    @property
    def is_surgical(self) -> bool:
        low = self.rank is not None and self.ranks is not None and self.rank <= max(1, LOW * self.ranks)
        return low and self.relative is not None and self.relative <= SLIGHT


@dataclass(frozen=True)
class Difference:
    """What changed among `compared` tensors; which tensors are on one side only, or have another shape there."""

    changes: Sequence[Change]
    compared: int
    removed: Sequence[str] = ()
    added: Sequence[str] = ()
    reshaped: Sequence[str] = ()
    retyped: Sequence[str] = ()
    """Tensors of equal values that are stored in another dtype."""

    @property
    def verdict(self) -> str:
        """Identical, surgical (few matrices, each slightly and in few of its ranks), or broad."""
        if self.removed or self.added or self.reshaped:
            return BROAD
        if not self.changes:
            return IDENTICAL
        few = len(self.changes) <= max(1, FEW * self.compared)
        return SURGICAL if few and all(change.is_surgical for change in self.changes) else BROAD

    @property
    def layers(self) -> list[int]:
        """The layers with a tensor that differs."""
        return sorted({change.layer for change in self.changes if change.layer is not None})

    def to_json(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "layers": self.layers, **asdict(self)}


def difference(first: Mapping[str, Tensor], second: Mapping[str, Tensor], tell: Told | None = None) -> Difference:
    """What changed from the first to the second. The mappings may read each tensor when it is asked for.

    Raises NotFinite if a tensor that differs holds NaN or infinity.
    """
    shared = [name for name in first if name in second]
    changes, reshaped, retyped = [], [], []
    for done, name in enumerate(shared, start=1):
        one, other = first[name], second[name]
        if one.shape != other.shape:
            reshaped.append(name)
        elif not _equal(one, other):
            changes.append(_change(name, one, other))
        elif one.dtype != other.dtype:
            retyped.append(name)
        if tell is not None:
            tell(done, len(shared))
    removed, added = [n for n in first if n not in second], [n for n in second if n not in first]
    counted = changes if len(changes) <= max(1, FEW * len(shared)) else []
    ranked = {change.name: _ranked(change, first[change.name], second[change.name]) for change in counted}
    return Difference(
        [ranked.get(change.name, change) for change in changes], len(shared), removed, added, reshaped, retyped
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether all values are the same, in whatever dtype they are stored; the same bytes are, whatever they mean."""
    if one.dtype == other.dtype and torch.equal(_bytes(one), _bytes(other)):
        return True
    wide = _wide(one, other)
    return torch.equal(one.to(wide), other.to(wide))


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _wide(*tensors: Tensor) -> torch.dtype:
    """A dtype that holds the values of all: promotion in torch knows no 8-bit floats."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def _moved(one: Tensor, other: Tensor) -> Tensor:
    """The difference, in float32 at least."""
    wide = _wide(one, other)
    return other.to(wide) - one.to(wide)


def _change(name: str, one: Tensor, other: Tensor) -> Change:
    size, before = (
        float(torch.linalg.vector_norm(t, dtype=torch.float64)) for t in (_moved(one, other), one.to(_wide(one)))
    )
    if size != size or size == float("inf"):
        raise NotFinite(f"{name} holds NaN or infinite values on one side; one of the two is damaged")
    return Change(name, tuple(one.shape), size, size / before if before else None)


def _ranked(change: Change, one: Tensor, other: Tensor) -> Change:
    """The same, with the ranks of a matrix that stand above what rounding to the stored dtype makes."""
    if one.ndim != 2 or not one.is_floating_point():
        return change
    moved = _moved(one, other)
    coarse = max((one.dtype, other.dtype), key=lambda dtype: torch.finfo(dtype).eps)
    larger = max(float(torch.linalg.vector_norm(t.to(_wide(t)), dtype=torch.float64)) for t in (one, other))
    ranks = min(one.shape)
    values = singular_values(moved, int(LOW * ranks) + 1)  # of a large matrix no more: it is broad then
    rank = int((values > MARGIN * noise(one.shape, larger, coarse)).sum())
    return Change(change.name, change.shape, change.size, change.relative, rank, ranks)
