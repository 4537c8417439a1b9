"""Continuation: a text drawn from the model, the same draw for the same prompt whatever runs beside it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from errata.decoder.decoder import Decoder
from errata.evaluate.base import Progress, Question


@dataclass(frozen=True, slots=True)
class Continuation(Question):
    """The text that begins with `prompt`: each token drawn from the `top` likeliest, `length` tokens with the prompt.

    Nothing ends it early (evaluation 2). The random numbers follow from `seed` and the prompt alone: a text
    does not depend on its batch, and the unedited and the edited model are given the same numbers.
    """

    prompt: str
    length: int = 100
    top: int = 5
    seed: int = 0

    @classmethod
    def ask(cls, decoder: Decoder, questions: Sequence[Continuation], progress: Progress | None = None) -> list[str]:
        rows = [decoder.token_ids(question.prompt) for question in questions]
        alike: dict[tuple[int, int, int], list[int]] = defaultdict(list)
        for i, question in enumerate(questions):
            alike[len(rows[i]), question.length, question.top].append(i)
        texts: dict[int, str] = {}
        for (_, length, top), members in alike.items():
            size = max(1, decoder.room // (8 * length))
            for start in range(0, len(members), size):
                group = members[start : start + size]
                numbers = torch.stack([questions[i].numbers() for i in group])
                ids = torch.tensor([rows[i] for i in group], device=decoder.device)
                drawn = _draw(decoder, ids, length, top, numbers.to(decoder.device)).tolist()
                texts |= {i: decoder.decode(row) for i, row in zip(group, drawn, strict=True)}
                if progress:
                    progress("free texts", len(texts), len(questions))
        return [texts[i] for i in range(len(questions))]

    def numbers(self) -> Tensor:
        """One uniform number a token, from the seed and the prompt."""
        key = hashlib.blake2b(f"{self.seed}\0{self.prompt}".encode(), digest_size=7).digest()
        return torch.rand(self.length, generator=torch.Generator().manual_seed(int.from_bytes(key)))


@torch.no_grad()
def _draw(decoder: Decoder, ids: Tensor, length: int, top: int, numbers: Tensor) -> Tensor:
    """Rows [row, length] that begin with `ids`; `numbers` [row, length] are where in the top tokens each falls."""
    new, cache = ids, None
    for place in range(ids.shape[1], length):
        out = decoder.model(input_ids=new, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = out.past_key_values
        best = out.logits[:, -1].to(decoder.precision).topk(min(top, out.logits.shape[-1]))
        below = numbers[:, place, None] > best.values.softmax(dim=-1).cumsum(dim=-1)
        pick = below.sum(dim=-1, keepdim=True).clamp(max=best.values.shape[-1] - 1)
        new = best.indices.gather(1, pick)
        ids = torch.cat([ids, new], dim=1)
    return ids
