"""Schedule: in which portions facts are edited. Checkpoint: how far a run has come, in the store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Literal

import torch
from torch import Tensor

from errata.errors import UnusableFacts
from errata.store import Store


@dataclass(frozen=True)
class Schedule:
    """In which portions facts are edited, and on which model their targets are sought.

    batch: facts edited together; None is all at once, 1 is one after another.
    targets: "current" seeks each batch's targets on the model as edited so far (MEMIT, AlphaEdit); "original" seeks
    all of them on the unedited model beforehand (FE's published code), also where an edit is gone on from; method 5.23.
    remember: whether keys of earlier batches are preserved too (method 1.8). A layer's keys depend on the layers
    before it alone, so those of the solve and those of the fully edited model are the same.
    The last two mean nothing to editors without targets and keys.
    """

    batch: int | None = None
    targets: Literal["current", "original"] = "current"
    remember: bool = True

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise UnusableFacts([f"a batch of {self.batch} facts; expected at least 1, or None for all at once"])

    def portions(self, n: int) -> list[range]:
        """Indices of the facts of each batch, in order."""
        size = n if self.batch is None else self.batch
        return [range(start, min(start + size, n)) for start in range(0, n, size)]


AT_ONCE = Schedule()


class Checkpoint:
    """The state of a run between two steps, in the store under everything that the run is made of."""

    def __init__(self, store: Store, kind: str, made_of: Mapping[str, object], seconds: float = 0.0) -> None:
        """`seconds`: a state is kept only if the last one is as old as this."""
        self.store, self.kind, self.made_of, self.seconds = store, kind, made_of, seconds
        self.kept = perf_counter()

    def state(self, device: torch.device | None = None) -> dict[str, Tensor] | None:
        """What was kept last, None if nothing was.

        Copies, because safetensors gives views of a file that need not be aligned, and a product's last bit may
        depend on how its factors lie in memory.
        """
        kept = self.store.get(self.kind, self.made_of)
        return {name: value.to(device, copy=True) for name, value in kept.items()} if kept else None

    @property
    def due(self) -> bool:
        return perf_counter() - self.kept >= self.seconds

    def keep(self, state: Mapping[str, Tensor]) -> None:
        self.store.put(self.kind, self.made_of, dict(state))
        self.kept = perf_counter()

    def clear(self) -> None:
        """Make room when the run is over: a state may be as large as the trained matrices."""
        self.store.put(self.kind, self.made_of, {})


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def adam_state(adam: torch.optim.Adam) -> dict[str, Tensor]:
    """An optimiser's moments as tensors with names."""
    entries = adam.state_dict()["state"].items()
    return {f"adam.{i}.{name}": value for i, entry in entries for name, value in entry.items()}


def load_adam(adam: torch.optim.Adam, state: Mapping[str, Tensor]) -> None:
    """The inverse of `adam_state`."""
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in under("adam.", state).items():
        i, key = name.split(".")
        moments.setdefault(int(i), {})[key] = value.cpu() if key == "step" else value
    adam.load_state_dict(adam.state_dict() | {"state": moments})
