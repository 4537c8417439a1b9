"""Rows of tokens: padding, batches of like length, and the places to read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from errata.decoder import hooks


def at_places(places: Int[Tensor, "2 place"]) -> hooks.Change:
    """Selects (row, position) pairs of a state [batch, token, model] as [1, place, model]."""
    return lambda hidden: hidden[tuple(places.to(hidden.device))][None]


def pad(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Int[Tensor, "batch token"]:
    """Right-pad with id 0. Attention is causal, so real tokens never see what is behind them."""
    longest = max(len(row) for row in rows)
    return torch.tensor([list(row) + [0] * (longest - len(row)) for row in rows], device=device)


def in_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in batches of like length, longest first, each of at most `budget` padded tokens."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


def grouped(rows: Iterable[Sequence[int]], budget: int) -> Iterator[list[Sequence[int]]]:
    """Consecutive rows, each group sorted by length and small enough when padded."""
    group: list[Sequence[int]] = []
    longest = 0
    for row in rows:
        if not row:
            continue
        longest = max(longest, len(row))
        if group and longest * (len(group) + 1) > budget:
            yield group
            group, longest = [], len(row)
        group.append(row)
    if group:
        yield group
