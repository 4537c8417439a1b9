"""Context prefixes, sampled from the unedited model (method 1.3)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import torch

from errata.decoder.decoder import Decoder
from errata.decoder.generation import by_chance, sampled
from errata.decoder.site import Contexts

STARTS = ("The", "Therefore", "Because", "I", "You")


def generate_contexts(decoder: Decoder, seed: int, tokens: int = 10, top: int = 5) -> Contexts:
    """The bare prompt, and one group of five sampled beginnings followed by '. {}'.

    Each begins with a start word and is continued by sampling the `top` likeliest tokens, renormalised, until it
    has `tokens` tokens, specials included. The text is decoded without specials, so BOS stays single (method 5.13).
    """
    generator = torch.Generator().manual_seed(seed)
    return Contexts((("{}",), tuple(_sampled(decoder, generator, start, tokens, top) for start in STARTS)))


def generate_flat_contexts(decoder: Decoder, seed: int, lengths: Sequence[int] = (5, 10), each: int = 2) -> Contexts:
    """One group of the bare prompt and `each` samples of every start word and length: 21, all weighing alike.

    ROME's, by the start words that EasyEdit uses; kmeng01/rome begins all twenty with `<|endoftext|>` (method 1.3).
    """
    generator = torch.Generator().manual_seed(seed)
    wanted = [(tokens, start) for tokens in lengths for start in STARTS for _ in range(each)]
    return Contexts((("{}", *(_sampled(decoder, generator, start, tokens, top=5) for tokens, start in wanted)),))


def generate_texts(decoder: Decoder, n: int, seed: int, tokens: int = 16, top: int = 5) -> list[str]:
    """`n` texts of the model's own: start words in turn, each continued by `tokens` sampled tokens, side by side."""
    generator = torch.Generator().manual_seed(seed)
    rows = [decoder.token_ids(STARTS[i % len(STARTS)]) for i in range(n)]
    for _ in range(tokens):
        choices: dict[int, int] = {}
        for owner, _, logits in decoder.logits(rows, [[len(row) - 1] for row in rows]):
            choices |= dict(zip(owner.tolist(), by_chance(logits, generator, top).tolist(), strict=True))
        rows = [[*row, choices[i]] for i, row in enumerate(rows)]
    return [decoder.decode(row) for row in rows]


def _sampled(decoder: Decoder, generator: torch.Generator, start: str, tokens: int, top: int) -> str:
    row = decoder.token_ids(start)
    choose = sampled(generator, top, decoder.precision)
    (new,) = decoder.continued([row], tokens - len(row), choose, cached=False)
    return f"{_clean(decoder.decode([*row, *new]))}. {{}}"


def _clean(text: str) -> str:
    text = unicodedata.normalize("NFKD", text).replace("\n\n", " ").replace("<|endoftext|>", "")
    return text.replace("{", " ").replace("}", " ").strip()
