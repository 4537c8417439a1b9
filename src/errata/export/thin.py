"""Thin: an edit as low-rank adapters of its layers, and what of it they keep. What PEFT's and llama.cpp's share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from errata.decoder.decoder import Decoder
from errata.delta import WeightDelta
from errata.editors.base import WeightEdit
from errata.errors import UnfitParts, UnsupportedModel
from errata.export.base import changed, held_by, residual
from errata.fact import Fact
from errata.factors import Factors, cut, exact_factors

SERVED = 16
"""The largest rank that vLLM serves unless told otherwise."""
ASKED = 32
"""Facts on whose prompts logits are compared."""


@dataclass(frozen=True)
class Thin:
    """An edit as factors of each changed matrix, and what they keep.

    `lost`: |(dW - up down) K| / |dW K| over the edit's keys, None without keys. `exact`, `held`: the facts that hold
    with the edit itself and with the factors.
    """

    edit: WeightEdit
    factors: Mapping[str, Factors]
    full: Mapping[str, int]
    """Parameter -> rank of the change itself."""
    lost: float | None
    exact: frozenset[Fact]
    held: frozenset[Fact]

    @property
    def rank(self) -> int:
        return max(factors.rank for factors in self.factors.values())

    @property
    def delta(self) -> WeightDelta:
        """The change of weights that the adapters stand for."""
        return _product(self.edit, self.factors)

    def lines(self) -> Iterator[tuple[str, object]]:
        """What it keeps, in words."""
        full = max(self.full.values())
        yield "rank", f"{self.rank} (exact)" if self.rank == full else f"{self.rank}, cut from {full}"
        if self.lost is not None:
            yield "left out", f"{self.lost:.2%} of what the edit does to its keys"
        lost = len(self.exact - self.held)
        yield "facts that hold", f"{len(self.held)} of {len(self.edit.facts)}" + f", {lost} lost" * bool(lost)

    def notes(self) -> list[str]:
        if self.rank <= SERVED:
            return []
        return [f"vLLM serves ranks up to {SERVED} unless it is started with --max-lora-rank {_served(self.rank)}"]


def thin(edit: WeightEdit, decoder: Decoder, rank: int | None) -> Thin:
    """The edit in factors of its exact rank, or of at most `rank`. Raises UnsupportedModel, UnfitParts."""
    changes = {name: change for name, change in edit.delta.changes.items() if change.any()}
    if not changes:
        raise UnfitParts("this edit changes nothing, and an adapter of nothing cannot be written. Nothing was written.")
    check_linear(changes, decoder)
    keys = {decoder.parameter_name(layer): keys for layer, keys in edit.keys.items()}
    whole = {name: exact_factors(change.cpu(), len(edit.facts)) for name, change in changes.items()}
    factors = {
        name: one if rank is None else cut(one, rank, _enough(keys.get(name), rank)) for name, one in whole.items()
    }
    product = _product(edit, factors)
    with changed(decoder, edit.delta):
        exact = held_by(decoder, edit.facts)
    with changed(decoder, product):
        held = held_by(decoder, edit.facts)
    errors = {name: product.changes[name] - change.cpu() for name, change in changes.items()}
    ranks = {name: one.rank for name, one in whole.items()}
    return Thin(edit, factors, ranks, residual(edit, decoder, errors), exact, held)


def check_linear(parameters: Mapping[str, Tensor], decoder: Decoder) -> None:
    """Raises UnsupportedModel if the edit changes anything but the matrices of linear layers."""
    for name in parameters:
        module = decoder.weights.module(name)
        if not isinstance(module, nn.Linear | Conv1D) or not name.endswith(".weight"):
            raise UnsupportedModel(
                f"this edit changes {name} of a {type(module).__name__}, which is no matrix of a linear layer; a "
                "low-rank adapter cannot hold it. Nothing was written. Use --to checkpoint."
            )


def rows_of(decoder: Decoder, facts: Sequence[Fact]) -> list[list[int]]:
    """The texts on which logits are compared: prompts with their targets; without facts, a row of a few tokens."""
    rows = [decoder.token_ids(fact.text) + decoder.answer_ids(fact.target_new) for fact in facts[:ASKED]]
    return rows or [list(range(2, 10))]


@torch.no_grad()
def logits_of(decoder: Decoder, rows: Sequence[Sequence[int]], model: nn.Module | None = None) -> list[Tensor]:
    """Logits at every position of each row, by a plain pass of the model, or of one that wraps it."""
    run = model or decoder.model
    with decoder.weights.computing():
        return [run(input_ids=torch.tensor([list(row)], device=decoder.device)).logits[0].cpu() for row in rows]


def largest(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The largest absolute difference between logits."""
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(one, other, strict=True))


def _product(edit: WeightEdit, factors: Mapping[str, Factors]) -> WeightDelta:
    changes = {name: one.product.to(edit.delta.changes[name].dtype) for name, one in factors.items()}
    return WeightDelta(edit.delta.fingerprint, changes)


def _enough(keys: Tensor | None, rank: int) -> Tensor | None:
    """Keys to cut by: fewer than ranks would leave directions undecided."""
    return keys if keys is not None and len(keys) >= rank else None


def _served(rank: int) -> int:
    """The next of the ranks that vLLM knows."""
    return next((known for known in (32, 64, 128, 256, 320, 512) if known >= rank), rank)
