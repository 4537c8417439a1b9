"""Form: how a prompt is put to a model, and how its answer follows (method 1.1)."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

Turns = tuple[tuple[str, str], ...]
"""What was said so far in a conversation: (role, text) of each turn, such as ("system", "Be brief.")."""

SPACE = " "
JOINS = ("", SPACE)

_UNSPACED = (
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "HALFWIDTH KATAKANA",
    "IDEOGRAPHIC",
    "FULLWIDTH",
    "BOPOMOFO",
    "YI ",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TIBETAN",
    "TAI ",
    "NEW TAI",
    "BALINESE",
    "JAVANESE",
)
"""How Unicode's names of characters begin in scripts that put no space between words."""


@dataclass(frozen=True, slots=True)
class Form:
    """The same for a fact's prompt and for all prompts that examine it.

    join: what stands between prompt and answer. None: as they are written, with one space between two words; " ":
    exactly one space, however they are written, as benchmarks have it; "": nothing but what is written.
    chat: the turns before the prompt, which is then the user's turn in the model's own chat template; None: plain text.
    end: whether the answer is to end there: its last token is the one that ends a turn, or a text.
    """

    join: str | None = None
    chat: Turns | None = None
    end: bool = False

    def problems(self) -> list[str]:
        """What makes this form unusable, in words; empty if nothing does."""
        if self.join is not None and self.join not in JOINS:
            return [f"join is {self.join!r}; expected '' or ' ', or none at all"]
        return []


AS_WRITTEN = Form()
SPACED = Form(SPACE)
"""Of benchmarks: exactly one space between prompt and answer."""


def joined(prompt: str, answer: str, join: str | None = None) -> tuple[str, str]:
    """What a model reads, and what it is to say behind it, as two texts which together are the whole.

    Spaces belong to the word behind them, as in most tokens: those at the prompt's end become the answer's, and those
    at the answer's own end are dropped.
    """
    begun = prompt.rstrip(SPACE)
    if join == SPACE:
        return begun, SPACE + answer.strip()
    written, answer = prompt[len(begun) :], answer.rstrip(SPACE)
    between = SPACE if join is None and not written and _is_word(begun[-1:]) and _is_word(answer[:1]) else ""
    return begun, between + written + answer


def _is_word(character: str) -> bool:
    """Whether it is a letter or digit of a script that puts spaces between words."""
    if not character or unicodedata.category(character)[0] not in "LMN":
        return False
    return not unicodedata.name(character, "").startswith(_UNSPACED)
