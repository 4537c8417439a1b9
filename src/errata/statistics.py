"""KeyStatistics: the uncentred second moment of a layer's keys, as a value. Tensors only; no model, no text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from errata.delta import read_tensors, write_tensors
from errata.errors import StatisticsError

PROBES = 16
_TOKENS = 2048  # tokens per product: a rounding error in the keys' precision never grows beyond this many terms
_STRIP = 1024  # rows of the moment at a time: bounds the memory beside it
_KIND = "errata.KeyStatistics"


@dataclass(frozen=True, eq=False)
class Half:
    """What one half of the sample says of the moment: count * C_half G, for a fixed Gaussian G."""

    image: Float[Tensor, "inner probe"]
    count: int

    def __add__(self, other: Half) -> Half:
        return Half(self.image + other.image.to(self.image.device), self.count + other.count)


@dataclass(frozen=True, eq=False)
class KeyStatistics:
    """C = (1/N) sum_t k_t k_t^T over N tokens (method 1.6): uncentred, normalised by the token count.

    moment [inner, inner], float64 or float32; count = N, 0 if unknown; halves: see `convergence`;
    origin: everything that made the value (weights fingerprint, corpus, ...), kept as given.
    Raises StatisticsError unless the moment is square, finite and symmetric.
    """

    moment: Float[Tensor, "inner inner"]
    count: int = 0
    halves: tuple[Half, Half] | None = None
    origin: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self.moment)

    @property
    def inner(self) -> int:
        return self.moment.shape[0]

    @property
    def convergence(self) -> float:
        """Estimate of |C_odd - C_even|_F / |C|_F, the batches taken in turns; NaN if there were fewer than two.

        |M G|_F for a Gaussian G [inner, 16] estimates 4 |M|_F, so no second moment is kept. For independent
        batches the relative error of C itself is about half of this figure.
        """
        if self.halves is None or not all(half.count for half in self.halves):
            return math.nan
        odd, even = self.halves
        both = odd + even
        difference = odd.image / odd.count - even.image / even.count
        return float(difference.norm() / (both.image / both.count).norm())

    def __add__(self, other: KeyStatistics) -> KeyStatistics:
        """The statistics of both samples together. `origin` keeps the entries on which both agree."""
        if not (self.count and other.count) or self.inner != other.inner:
            raise StatisticsError(
                f"cannot merge {self.count} keys {self.inner} wide with {other.count} keys {other.inner} wide:"
                " the widths must agree and both counts must be known."
            )
        count = self.count + other.count
        moment = torch.lerp(self.moment, other.moment.to(self.moment), other.count / count)
        mine, others = self.halves, other.halves
        halves = (mine[0] + others[0], mine[1] + others[1]) if mine and others else None
        origin = {name: value for name, value in self.origin.items() if other.origin.get(name) == value}
        return KeyStatistics(moment, count, halves, origin)

    def shrunk(self, share: float) -> KeyStatistics:
        """(1 - share) C + share diag(C): what a small sample says of directions, held against what it says of each
        entry by itself (method 1.6). `share` 0: itself, bit for bit."""
        if not share:
            return self
        moment = self.moment * (1 - share)
        moment.diagonal().copy_(self.moment.diagonal())
        return replace(self, moment=moment)

    def to(self, dtype: torch.dtype) -> KeyStatistics:
        """The same with its moment in float32 (half the memory) or float64."""
        return replace(self, moment=self.moment.to(dtype))

    def expect(self, inner: int) -> KeyStatistics:
        """Itself. Raises StatisticsError if its keys are not `inner` wide."""
        if self.inner != inner:
            raise StatisticsError(
                f"found a moment of keys {self.inner} wide, expected {inner}. It belongs to another model or layer."
            )
        return self

    def save(self, path: str | Path) -> None:
        """Write safetensors, in full or not at all; the tensor `moment` is the bare matrix. Raises StoreError."""
        write_tensors(Path(path), self.to_tensors(), {"kind": _KIND, "origin": json.dumps(dict(self.origin))})

    def to_tensors(self) -> dict[str, Tensor]:
        """Everything but the origin, on the CPU; `from_tensors` reads it back."""
        tensors = {"moment": self.moment.cpu().contiguous(), "count": torch.tensor(self.count)}
        if self.halves is not None:
            tensors["halves"] = torch.stack([half.image for half in self.halves]).cpu()
            tensors["half_counts"] = torch.tensor([half.count for half in self.halves])
        return tensors

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], origin: Mapping[str, str] | None = None) -> KeyStatistics:
        """The inverse of `to_tensors`. Raises KeyError if a part is missing."""
        halves = None
        if "halves" in tensors:
            odd, even = (
                Half(image, int(count)) for image, count in zip(tensors["halves"], tensors["half_counts"], strict=True)
            )
            halves = (odd, even)
        return cls(tensors["moment"], int(tensors["count"]), halves, dict(origin or {}))

    @classmethod
    def load(cls, path: str | Path, tensor: str | None = None) -> KeyStatistics:
        """Read what `save` wrote, or a bare matrix out of any safetensors file (then the count is unknown).

        tensor: name of the matrix in a file that holds several. Raises StoreError, StatisticsError.
        """
        tensors, metadata = read_tensors(Path(path))
        try:
            if metadata.get("kind") != _KIND:
                return cls(_only(tensors, tensor))
            return cls.from_tensors(tensors, json.loads(metadata["origin"]))
        except (KeyError, ValueError) as error:
            raise StatisticsError(f"{path}: not complete key statistics ({error!r}). Gather them again.") from error
        except StatisticsError as error:
            raise StatisticsError(f"{path}: {error}") from error


class Accumulator:
    """Gathers KeyStatistics batch by batch, whose order alone decides which half of the sample they fall in.

    Products are formed in the keys' own precision (at least float32), `_TOKENS` tokens at a time, and summed in
    float64. Only the upper triangle is formed and kept, as strips of `_STRIP` rows: little more than half a moment.
    """

    def __init__(self, inner: int, *, device: torch.device | str = "cpu") -> None:
        # one G for all, so that images can be added; drawn on the CPU, so that it is the same on every device
        probes = torch.randn(inner, PROBES, dtype=torch.float64, generator=torch.Generator().manual_seed(inner))
        self._probes = probes.to(device)
        self._strips = {
            (start, stop): torch.zeros(stop - start, inner - start, dtype=torch.float64, device=device)
            for start, stop in _strips(inner)
        }
        self._halves = [Half(torch.zeros_like(self._probes), 0) for _ in range(2)]
        self._batches = 0

    @property
    def count(self) -> int:
        """Keys seen so far."""
        return sum(half.count for half in self._halves)

    def add(self, keys: Float[Tensor, "token inner"]) -> None:
        """One batch of keys, padding already dropped. Raises StatisticsError, and then nothing was added."""
        inner = len(self._probes)
        if keys.ndim != 2 or keys.shape[1] != inner:
            raise StatisticsError(f"found keys of shape {list(keys.shape)}, expected [token, {inner}].")
        if not torch.isfinite(keys).all():
            raise StatisticsError("found keys with NaN or infinity. Nothing was added; run the model in a wider dtype.")
        if not len(keys):
            return
        keys = keys.detach().to(self._probes.device, keys.dtype if keys.dtype == torch.float64 else torch.float32)
        for block in keys.split(_TOKENS):
            for (start, stop), strip in self._strips.items():
                strip += block[:, start:stop].T @ block[:, start:]
        image = keys.T @ (keys @ self._probes.to(keys.dtype))
        self._halves[self._batches % 2] += Half(image.double(), len(keys))
        self._batches += 1

    def over(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replace each sum by `total(sum)`: what it comes to over all shards of a corpus."""
        self._strips = {rows: total(strip) for rows, strip in self._strips.items()}
        counts = total(torch.tensor([half.count for half in self._halves])).tolist()
        self._halves = [Half(total(half.image), n) for half, n in zip(self._halves, counts, strict=True)]

    def result(self, origin: Mapping[str, str] | None = None) -> KeyStatistics:
        """The statistics of all batches so far, in main memory; more may be added afterwards."""
        if not self.count:
            raise StatisticsError("no keys were gathered: the corpus is empty.")
        inner = len(self._probes)
        moment = torch.empty(inner, inner, dtype=torch.float64)
        for (start, stop), strip in self._strips.items():
            moment[start:stop, start:] = strip
            moment[start:stop, start:] /= self.count
            moment[stop:, start:stop] = moment[start:stop, stop:].T
        odd, even = (Half(half.image.cpu(), half.count) for half in self._halves)
        return KeyStatistics(moment, self.count, (odd, even), dict(origin or {}))


def triangle(inner: int) -> int:
    """Entries of the strips that an Accumulator keeps."""
    return sum((stop - start) * (inner - start) for start, stop in _strips(inner))


def _strips(inner: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + _STRIP, inner)) for start in range(0, inner, _STRIP))


def _check(moment: Tensor) -> None:
    """Raise StatisticsError unless it is a square, finite, symmetric matrix of float32 or float64."""
    if moment.ndim != 2 or moment.shape[0] != moment.shape[1] or not moment.numel():
        raise StatisticsError(f"found a moment of shape {list(moment.shape)}, expected [inner, inner].")
    if moment.dtype not in (torch.float32, torch.float64):
        raise StatisticsError(f"found a moment in {moment.dtype}, expected float32 or float64.")
    largest = float(torch.linalg.vector_norm(moment, math.inf))
    if not math.isfinite(largest):
        raise StatisticsError("found a moment with NaN or infinity. Gather the statistics again.")
    lopsided = max(
        float((moment[start:stop, start:] - moment[start:, start:stop].T).abs().max())
        for start, stop in _strips(len(moment))
    )
    if lopsided > 1e-5 * largest:
        raise StatisticsError(
            f"found a moment that differs from its transpose by {lopsided:.2g} (largest entry {largest:.2g}),"
            " expected a symmetric one: is this the covariance of keys?"
        )


def _only(tensors: Mapping[str, Tensor], name: str | None) -> Tensor:
    if name is None and len(tensors) == 1:
        return next(iter(tensors.values()))
    if name is None or name not in tensors:
        raise StatisticsError(f"found the tensors {sorted(tensors)}, expected one matrix or one of these names.")
    return tensors[name]
