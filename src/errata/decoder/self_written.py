"""Text that a model writes itself: what key statistics are gathered from where there is no corpus (method 1.6)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from errata.decoder.contexts import STARTS
from errata.decoder.decoder import Decoder
from errata.decoder.generation import Choice, drawn_from_all

LENGTH = 128
"""Tokens of one text."""
AT_ONCE = 32
"""Texts written side by side."""
_DOCUMENT_END = "<|endoftext|>"


def write_texts(
    decoder: Decoder, tokens: int, seed: int, progress: Callable[[int, int], None] | None = None
) -> list[str]:
    """Texts of `tokens` tokens together, drawn at temperature 1 from everything that the model finds possible.

    Each begins with nothing but what begins a document (`beginnings`). Where the model writes that a document ends,
    it goes on with another. `progress` is called with (tokens so far, tokens wanted).
    """
    starts = beginnings(decoder)
    positions = decoder.tokens.positions or LENGTH
    length = max(2, min(LENGTH, tokens, positions - max(map(len, starts))))
    rows = [starts[i % len(starts)] for i in range(-(-tokens // length))]
    generator = torch.Generator().manual_seed(seed)
    texts: list[str] = []
    for first in range(0, len(rows), AT_ONCE):
        some = rows[first : first + AT_ONCE]
        choose = drawn_from_all(generator)
        if progress:
            choose = _telling(progress, first * length, tokens, choose)
        new = decoder.continued(some, length, choose)
        texts += [decoder.decode([*row, *ids]) for row, ids in zip(some, new, strict=True)]
    return texts


def _telling(progress: Callable[[int, int], None], before: int, tokens: int, choose: Choice) -> Choice:
    """`choose`, telling at every place how many tokens there are; `before`: those of earlier texts."""

    def chosen(logits: Tensor, place: int) -> Tensor:
        progress(min(tokens, before + (place + 1) * len(logits)), tokens)
        return choose(logits, place)

    return chosen


def beginnings(decoder: Decoder) -> list[list[int]]:
    """Rows of ids that begin a document: the tokenizer's leading specials, or the token that ends one.

    A chat model's BOS token may begin a turn, so `<|endoftext|>` is preferred where it exists. Without any such
    token: the start words of the contexts.
    """
    leading = decoder.token_ids("a")[: -len(decoder.tokenizer("a", add_special_tokens=False)["input_ids"])]
    if leading:
        return [leading]
    known = decoder.tokenizer.get_vocab()
    end = known.get(_DOCUMENT_END, decoder.tokenizer.eos_token_id)
    if end is not None:
        return [[end]]
    return _of_one_length([decoder.token_ids(word) for word in STARTS])


def _of_one_length(rows: list[list[int]]) -> list[list[int]]:
    return [row[: min(map(len, rows))] for row in rows]
