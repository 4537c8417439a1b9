"""Lesson: a prompt and its answer as token ids. The rows and the loss of every editor that trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.decoder.decoder import Decoder
from errata.decoder.rows import at_places, pad
from errata.errors import ModelError
from errata.fact import Fact
from errata.form import SPACED, Form


@dataclass(frozen=True)
class Practice:
    """A fact to learn editing from, with other wordings of it, and prompts with answers that must not change."""

    fact: Fact
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Lesson:
    """Ids of a prompt, specials in front, and of its answer. The last answer token is predicted, never read."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @classmethod
    def of(cls, decoder: Decoder, text: str, answer: str, end: bool = False, form: Form = SPACED) -> Lesson:
        """Ids are concatenated (method 5.15); `end` adds the end-of-text token to an answer whose form has no end.

        Raises ModelError.
        """
        end = end and not form.end
        behind = [decoder.tokenizer.eos_token_id] if end else []
        if None in behind:
            raise ModelError(f"the tokenizer of {decoder.name} has no end-of-text token to teach; set eos=False")
        lesson = cls(tuple(decoder.token_ids(text, form)), (*decoder.answer_ids(answer, text, form), *behind))
        decoder.check_length(len(lesson.ids), text)
        return lesson

    @property
    def ids(self) -> list[int]:
        """What the model reads."""
        return [*self.prompt, *self.answer[:-1]]

    @property
    def positions(self) -> range:
        """Where the answer tokens are predicted."""
        return range(len(self.prompt) - 1, len(self.prompt) - 1 + len(self.answer))


def padded(decoder: Decoder, lessons: Sequence[Lesson]) -> Int[Tensor, "lesson token"]:
    """The rows that the model reads, right-padded."""
    return pad([lesson.ids for lesson in lessons], decoder.device)


def places(decoder: Decoder, lessons: Sequence[Lesson]) -> Int[Tensor, "2 place"]:
    """(row, position) of every answer token, lesson by lesson."""
    return torch.tensor([(i, at) for i, one in enumerate(lessons) for at in one.positions], device=decoder.device).T


def log_probabilities(decoder: Decoder, lessons: Sequence[Lesson], **options: Any) -> Float[Tensor, "place vocabulary"]:
    """Log-probabilities at the places of the answers; `options` go to `Decoder.run`."""
    head = at_places(places(decoder, lessons))
    logits = decoder.run(padded(decoder, lessons), head=head, **options)
    assert logits is not None
    return logits[0].to(decoder.precision).log_softmax(-1)


def lesson_means(values: Float[Tensor, " place"], lessons: Sequence[Lesson]) -> Float[Tensor, " lesson"]:
    """The mean over each lesson's places. A product with a matrix, because sums by index vary on a GPU."""
    lengths = torch.tensor([len(lesson.answer) for lesson in lessons])
    owner = torch.repeat_interleave(torch.arange(len(lessons)), lengths)
    share = torch.zeros(len(lessons), len(owner), dtype=values.dtype)
    share[owner, torch.arange(len(owner))] = 1 / lengths[owner].to(values.dtype)
    return share.to(values.device) @ values


def answer_losses(log_p: Float[Tensor, "place vocabulary"], lessons: Sequence[Lesson]) -> Float[Tensor, " lesson"]:
    """-(1/T) sum_j log P(answer_j | prompt, answer_<j) of each lesson (method 2.14, FT-M)."""
    targets = torch.tensor([token for lesson in lessons for token in lesson.answer], device=log_p.device)
    return -lesson_means(log_p.gather(-1, targets[:, None])[:, 0], lessons)
