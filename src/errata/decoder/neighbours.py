"""Neighbours of facts, written by errata: other subjects, which the model itself names, in the facts' own prompts."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import torch

from errata.decoder.decoder import Decoder
from errata.decoder.generation import sampled
from errata.fact import Fact

ASKED = 16
"""Lists that the model is asked to go on with, at most."""
TOKENS = 24
TOP = 20
LONGEST_WORDS = 6
EXAMPLES = 3
_BETWEEN = re.compile(r"[,;\n.:]| and | or ")


def written_neighbours(decoder: Decoder, facts: Sequence[Fact], n: int, seed: int) -> list[str]:
    """At most `n` different prompts about subjects that no fact is about, in an order drawn with the seed.

    A list that begins with a fact's subject, and others of the same prompt, is continued by sampling; every name in it
    stands in that prompt. A fact whose list names nobody gets subjects that other facts' lists name, or, where the
    model names nobody at all, those of the other facts.
    """
    chance = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    chosen = chance.sample(list(facts), min(ASKED, len(facts)))
    named = names_continued(decoder, [_list(fact, facts) for fact in chosen], generator)
    edited = {fact.subject.strip().casefold() for fact in facts}
    named = [[name for name in names if not _is_about(name, edited)] for names in named]
    pool = sorted({name for names in named for name in names}) or sorted({fact.subject.strip() for fact in facts})
    prompts = {
        fact.prompt.replace("{}", name, 1)
        for fact, names in zip(chosen, named, strict=True)
        for name in (names or chance.sample(pool, min(2, len(pool))))
    }
    kept = sorted(prompts - {fact.text for fact in facts})
    chance.shuffle(kept)
    return kept[:n]


def names_continued(decoder: Decoder, lists: Sequence[str], generator: torch.Generator) -> list[list[str]]:
    """The names with which the model goes on with each list, the last one, which may be cut off, left out.

    All in one batch: shorter lists begin with line breaks.
    """
    rows = [decoder.token_ids(text) for text in lists]
    front, longest, filler = len(decoder.token_ids("")), max(map(len, rows)), decoder.token_ids("a\n")[-1]
    even = [row[:front] + [filler] * (longest - len(row)) + row[front:] for row in rows]
    said = decoder.continued(even, TOKENS, sampled(generator, TOP, decoder.precision))
    return [_names(decoder.decode(ids)) for ids in said]


def _list(fact: Fact, facts: Sequence[Fact]) -> str:
    """`A few examples: Rome, Paris, Athens,` with the fact's subject last."""
    others = [other.subject.strip() for other in facts if other.prompt == fact.prompt and other is not fact]
    names = [*others[: EXAMPLES - 1], fact.subject.strip()]
    return f"A few examples: {', '.join(names)},"


def _names(text: str) -> list[str]:
    """Pieces of a list that look like names: they begin with a capital letter or digit and are of a few words."""
    pieces = [piece.strip(" \"'()-*") for piece in _BETWEEN.split(text)[:-1]]
    named = [
        piece for piece in pieces if piece and (piece[0].isupper() or piece[0].isdigit() or not piece[0].isascii())
    ]
    return list(dict.fromkeys(name for name in named if len(name.split()) <= LONGEST_WORDS and len(name) > 1))


def _is_about(name: str, subjects: set[str]) -> bool:
    """Whether a name is one of the subjects, holds one, or is part of one."""
    low = name.casefold()
    return any(low in subject or subject in low for subject in subjects)
