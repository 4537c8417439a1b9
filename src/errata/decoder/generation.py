"""Generation: the one loop that lets a model say token after token, and the ways to choose the next one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.errors import NotFinite

Choice = Callable[[Float[Tensor, "row vocabulary"], int], Int[Tensor, " row"]]
"""From the next token's logits, and how many tokens were chosen before: one id for each row."""


@torch.no_grad()
def continued(
    model: Any,
    ids: Int[Tensor, "row token"],
    n_tokens: int,
    choose: Choice,
    ends: Collection[int] = (),
    cached: bool = True,
) -> list[list[int]]:
    """The new ids of each row, at most `n_tokens`, ended before the first of `ends`.

    `cached=False` reads the whole row again for every token: slower, and rounded as one pass of it is.
    """
    chosen: list[Tensor] = []
    step, cache = ids, None
    stops = torch.tensor(sorted(ends), device=ids.device)
    over = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
    for place in range(n_tokens):
        out = model(input_ids=step, past_key_values=cache, use_cache=cached, logits_to_keep=1)
        chosen.append(choose(out.logits[:, -1], place).to(ids.device))
        if ends and bool((over := over | torch.isin(chosen[-1], stops)).all()):
            break
        cache = out.past_key_values if cached else None
        step = chosen[-1][:, None] if cached else torch.cat([step, chosen[-1][:, None]], dim=1)
    rows = torch.stack(chosen, dim=1).tolist() if chosen else [[] for _ in ids]
    return [row[: next((k for k, token in enumerate(row) if token in ends), len(row))] for row in rows]


def likeliest(logits: Float[Tensor, "row vocabulary"], _place: int) -> Int[Tensor, " row"]:
    """Greedy decoding."""
    return logits.argmax(-1)


def drawn(numbers: Float[Tensor, "row place"], top: int, dtype: torch.dtype) -> Choice:
    """Of the `top` likeliest, renormalised in `dtype`, the one in whose share of [0, 1] the place's number falls."""

    def choose(logits: Tensor, place: int) -> Tensor:
        best = logits.to(dtype).topk(min(top, logits.shape[-1]))
        below = numbers[:, place, None] > best.values.softmax(dim=-1).cumsum(dim=-1)
        pick = below.sum(dim=-1, keepdim=True).clamp(max=best.values.shape[-1] - 1)
        return best.indices.gather(1, pick)[:, 0]

    return choose


def sampled(generator: torch.Generator, top: int, dtype: torch.dtype) -> Choice:
    """Of the `top` likeliest, renormalised in `dtype`, one by chance; the generator lives on the CPU."""

    def choose(logits: Tensor, _place: int) -> Tensor:
        return by_chance(logits.to(dtype), generator, top)

    return choose


def drawn_from_all(generator: torch.Generator) -> Choice:
    """One of all tokens, each by its probability; the generator lives on the CPU."""

    def choose(logits: Tensor, _place: int) -> Tensor:
        check_finite(logits)
        return torch.multinomial(logits.float().softmax(-1).cpu(), 1, generator=generator)[:, 0]

    return choose


def by_chance(logits: Float[Tensor, "row vocabulary"], generator: torch.Generator, top: int) -> Int[Tensor, " row"]:
    """One of the `top` likeliest for each row. Raises NotFinite where the model gives nothing to choose by."""
    best = logits.topk(top)
    check_finite(best.values)
    pick = torch.multinomial(best.values.softmax(-1).cpu(), 1, generator=generator)
    return best.indices.gather(1, pick.to(best.indices.device))[:, 0]


def check_finite(logits: Float[Tensor, "row vocabulary"]) -> None:
    """Raises NotFinite for a row whose largest is no number; others may be -inf: tokens that a model never says."""
    if not logits.amax(-1).isfinite().all():
        raise NotFinite("the model's logits are not finite: its weights are damaged, or too large for its dtype")


def of_one_length(rows: Sequence[Sequence[int]], n_tokens: int, room: int) -> Iterator[list[int]]:
    """Indices of rows that run together: of equal length, so that no padding enters, and within `room` tokens."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        by_length[len(row)].append(i)
    for length, members in by_length.items():
        size = max(1, room // (length + n_tokens))
        yield from (members[start : start + size] for start in range(0, len(members), size))
