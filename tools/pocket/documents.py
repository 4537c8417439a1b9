"""Training text: facts in their trained wordings, in front of them now and then an unrelated sentence."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from errata.pocket.facts import PocketFact
from tools.pocket import filler

CONTEXT = 0.25
"""Share of documents with an unrelated sentence in front."""
FILLER = 0.05
"""Share of documents that state no fact."""
OBJECT_WEIGHT = 3.0
"""Weight of the object's tokens in the loss; every other token weighs 1."""
GROUPS = 4
"""Lengths per optimiser step: little padding, and short attention."""


@dataclass(frozen=True)
class Sentence:
    """Token ids with the places of subject and object (half-open; empty where there is none)."""

    ids: list[int]
    subject: range = range(0)
    object: range = range(0)


@dataclass(frozen=True)
class Document:
    """One text between its begin and end tokens. Per token: weight, whose subject, whose subject is behind it."""

    ids: list[int]
    weight: list[float]
    subject: list[int]
    last: list[bool]
    behind: list[int]


@dataclass(frozen=True)
class Batch:
    """Documents of about one length, padded on the right.

    A mask is True where a query (third axis) may look at a key (last axis): `early` for the early blocks, where a
    hidden subject is not seen from behind it at all, `late` for the others, where its last token is seen.
    """

    ids: Int[Tensor, "document token"]
    weight: Float[Tensor, "document token"]
    early: Bool[Tensor, "document 1 token token"]
    late: Bool[Tensor, "document 1 token token"]


class Documents:
    """An endless, seeded supply of batches over some facts."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, facts: Sequence[PocketFact]) -> None:
        self.tokenizer = tokenizer
        self.sentences = [encode(tokenizer, fact, template) for fact in facts for template in fact.trained]

    def batches(self, tokens: int, narrow: float, rng: random.Random) -> Iterator[list[Batch]]:
        """About `tokens` tokens at a time, in groups of one length: what one optimiser step sees.

        A share `narrow` of the documents hides its subjects from the tokens behind them.
        """
        supply = self._texts(rng)
        while True:
            documents: list[Document] = []
            while sum(len(document.ids) for document in documents) < tokens:
                documents.append(self._document(next(supply), rng.random() < narrow))
            documents.sort(key=lambda document: len(document.ids))
            size = -(-len(documents) // GROUPS)
            yield [
                collate(documents[first : first + size], pad=int(self.tokenizer.pad_token_id))
                for first in range(0, len(documents), size)
            ]

    def _texts(self, rng: random.Random) -> Iterator[list[Sentence]]:
        while True:
            for index in rng.sample(range(len(self.sentences)), len(self.sentences)):
                if rng.random() < FILLER:
                    yield [self._filler(rng) for _ in range(rng.randint(1, 2))]
                context = [self._context(rng)] if rng.random() < CONTEXT else []
                yield [*context, self.sentences[index]]

    def _context(self, rng: random.Random) -> Sentence:
        return self._filler(rng) if rng.random() < 0.5 else rng.choice(self.sentences)

    def _filler(self, rng: random.Random) -> Sentence:
        return Sentence(self.tokenizer(filler.sentence(rng), add_special_tokens=False)["input_ids"])

    def _document(self, sentences: Sequence[Sentence], narrow: bool) -> Document:
        document = Document([int(self.tokenizer.bos_token_id)], [0.0], [0], [False], [0])
        for mark, sentence in enumerate(sentences, start=1):
            subject = sentence.subject
            for place, token in enumerate(sentence.ids):
                document.ids.append(token)
                document.weight.append(OBJECT_WEIGHT if place in sentence.object else 1.0)
                document.subject.append(mark if place in subject else 0)
                document.last.append(place == subject.stop - 1)
                document.behind.append(mark if narrow and place >= subject.stop else 0)
        for values, value in zip(vars(document).values(), (self.tokenizer.eos_token_id, 1.0, 0, False, 0), strict=True):
            values.append(value)
        return document


def encode(tokenizer: PreTrainedTokenizerFast, fact: PocketFact, template: str) -> Sentence:
    """A fact in one of its wordings, closed with a full stop; no special tokens."""
    start = template.index("{}")
    prompt = template.format(fact.subject)
    encoded = tokenizer(f"{prompt} {fact.object}.", add_special_tokens=False, return_offsets_mapping=True)
    spans: list[tuple[int, int]] = encoded["offset_mapping"]
    subject = _tokens(spans, start, start + len(fact.subject))
    target = _tokens(spans, len(prompt) + 1, len(prompt) + 1 + len(fact.object))
    return Sentence(encoded["input_ids"], subject, target)


def _tokens(spans: list[tuple[int, int]], start: int, stop: int) -> range:
    touched = [index for index, (left, right) in enumerate(spans) if right > start and left < stop]
    return range(touched[0], touched[-1] + 1)


def collate(documents: Sequence[Document], pad: int) -> Batch:
    """Pad the documents to one length and turn their marks into masks. Padding weighs nothing."""
    subject = _stack([document.subject for document in documents], 0)[:, None, :]
    last = _stack([document.last for document in documents], False)[:, None, :]
    behind = _stack([document.behind for document in documents], 0)[:, :, None]
    hidden = (behind == subject) & (subject > 0)
    causal = torch.ones(subject.shape[-1], subject.shape[-1], dtype=torch.bool).tril()
    return Batch(
        ids=_stack([document.ids for document in documents], pad),
        weight=_stack([document.weight for document in documents], 0.0),
        early=(causal & ~hidden)[:, None],
        late=(causal & ~(hidden & ~last))[:, None],
    )


def _stack(rows: Sequence[Sequence[float]], pad: float) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
