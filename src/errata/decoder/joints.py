"""Joints: places where prompt and target meet in a way that the user may not have meant."""

from __future__ import annotations

from collections.abc import Sequence

from errata.decoder.site import Tokens
from errata.errors import printable
from errata.fact import Fact

_CLOSING = ".,:;!?)]}\"'"
"""Signs behind which a word usually stands apart."""


def joints(tokens: Tokens, facts: Sequence[Fact]) -> list[str]:
    """What is worth knowing of how these facts are joined, in words; a line for each kind."""
    kinds = {
        "the target follows a sign without a space; if one is meant, write it before the target or set join to ' '": [
            fact for fact in facts if _runs_on(fact)
        ],
        "a token of the whole text spans the prompt's end, so prompt and target are read apart: the model's own text "
        "may be cut otherwise there": [
            fact for fact in facts if fact.join != " " and tokens.is_apart(fact.target_new, fact.text, fact.form)
        ],
        "the prompt has tokens of the model's chat template in it; errata can put it in the template itself: --chat": [
            fact for fact in facts if _is_rendered(tokens, fact)
        ],
    }
    return [f"{_named(members)}: {what}" for what, members in kinds.items() if members]


def _runs_on(fact: Fact) -> bool:
    if fact.chat is not None or fact.join is not None:
        return False
    return fact.text[-1:] in _CLOSING and fact.target_new[:1].isalnum() and fact.target_new[:1].isascii()


def _is_rendered(tokens: Tokens, fact: Fact) -> bool:
    end = tokens.chat.end
    return fact.chat is None and end is not None and tokens.tokenizer.convert_ids_to_tokens(end) in fact.text


def _named(facts: Sequence[Fact]) -> str:
    more = f" and {len(facts) - 1} more" if len(facts) > 1 else ""
    return f"{printable(facts[0].text[-40:])} + {printable(facts[0].target_new)}{more}"
