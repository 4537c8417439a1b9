"""Continuation: a text drawn from the model, the same draw for the same prompt whatever runs beside it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from errata.decoder.decoder import Decoder
from errata.decoder.generation import drawn, of_one_length
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
        for (begun, length, top), members in alike.items():
            for group in of_one_length([rows[i] for i in members], length - begun, decoder.room // 8):
                chosen = [members[k] for k in group]
                numbers = torch.stack([questions[i].numbers() for i in chosen])[:, begun:]
                choose = drawn(numbers.to(decoder.device), top, decoder.precision)
                said = decoder.continued([rows[i] for i in chosen], length - begun, choose)
                texts |= {i: decoder.decode([*rows[i], *new]) for i, new in zip(chosen, said, strict=True)}
                if progress:
                    progress("free texts", len(texts), len(questions))
        return [texts[i] for i in range(len(questions))]

    def numbers(self) -> Tensor:
        """One uniform number a token, from the seed and the prompt."""
        key = hashlib.blake2b(f"{self.seed}\0{self.prompt}".encode(), digest_size=7).digest()
        return torch.rand(self.length, generator=torch.Generator().manual_seed(int.from_bytes(key)))
