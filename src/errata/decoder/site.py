"""Site: where each fact sits in its prompts. Token ids, the decisive token, and context prefixes.

The decisive token is the last sub-token of the subject. It is found by character offsets and checked against
the prefix-length rule of method 1.2; the two disagree exactly if a token spans the subject's end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from errata.errors import ModelError, SubjectNotFound, UnusableFacts, printable
from errata.fact import Fact, Problem

SHOWN = 200
"""Characters of another library's message that an error shows."""
ESSENCE = "{} is a"
"""The prompt on which a fact's anchor must not change what the subject is (method 1.5)."""


@dataclass(frozen=True)
class Contexts:
    """Templates with one `{}` for the whole prompt, in groups that weigh alike in a key (method 1.3, 1.4)."""

    groups: tuple[tuple[str, ...], ...] = (("{}",),)

    @property
    def templates(self) -> tuple[str, ...]:
        """All templates in order; the first must be the bare prompt."""
        return tuple(template for group in self.groups for template in group)

    @property
    def weights(self) -> tuple[float, ...]:
        """The share of each template in an averaged key: mean in a group, then mean of the groups."""
        return tuple(1 / len(group) / len(self.groups) for group in self.groups for _ in group)


@dataclass(frozen=True)
class Prompt:
    """Token ids of one prompt, specials in front, and the position of the decisive token."""

    ids: tuple[int, ...]
    decisive: int

    @property
    def stem(self) -> Prompt:
        """The prompt up to its decisive token: by causality all that the state there depends on."""
        return Prompt(self.ids[: self.decisive + 1], self.decisive)


@dataclass(frozen=True)
class FactSite:
    """One fact as tokens: a prompt per context (the bare one first), the essence prompt, the target."""

    prompts: tuple[Prompt, ...]
    essence: Prompt
    target: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens of the longest text that is read of the fact: a prompt and its target but for the last token."""
        return max(len(prompt.ids) for prompt in self.prompts) + len(self.target) - 1


@dataclass(frozen=True)
class Site:
    """All facts of an edit as tokens, under shared contexts."""

    facts: tuple[Fact, ...]
    contexts: Contexts
    places: tuple[FactSite, ...]

    def __len__(self) -> int:
        return len(self.facts)

    def __iter__(self) -> Iterator[FactSite]:
        return iter(self.places)

    def part(self, which: Sequence[int]) -> Site:
        """Some of the facts."""
        return Site(tuple(self.facts[i] for i in which), self.contexts, tuple(self.places[i] for i in which))

    @property
    def bare(self) -> list[Prompt]:
        """The bare prompt of each fact, up to its decisive token."""
        return [place.prompts[0].stem for place in self.places]

    @property
    def at_start(self) -> list[int]:
        """Facts whose decisive token is the very first of the bare prompt (method 5.18).

        Without a BOS that position is an attention sink with an outlying state, and edits there misbehave.
        """
        return [i for i, place in enumerate(self.places) if place.prompts[0].decisive == 0]


class Tokens:
    """Text to ids by rules of our own: BOS exactly once, one space before an answer, no padding anywhere."""

    def __init__(self, tokenizer: Any, positions: int | None = None) -> None:
        """`positions`: tokens that the model can read of one text, None if there is no limit."""
        self.tokenizer, self.positions = tokenizer, positions
        self._bos_text: str = getattr(tokenizer, "bos_token", None) or ""
        try:
            one, plain = self._encode("a"), self._encode("a", specials=False)
        except BaseException as error:  # a damaged tokenizer stumbles over anything, and only when it is used
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:SHOWN]
            raise ModelError(f"the tokenizer cannot encode a text: {reason}") from error
        self._front = len(one) - len(plain) - self._specials_behind(one, plain)
        self._behind = self._specials_behind(one, plain)

    @staticmethod
    def _specials_behind(one: list[int], plain: list[int]) -> int:
        extra = len(one) - len(plain)
        return next((extra - k for k in range(extra + 1) if one[k : k + len(plain)] == plain), 0)

    def _encode(self, text: str, specials: bool = True) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=specials)["input_ids"])

    def _clean(self, text: str) -> str:
        while self._bos_text and text.startswith(self._bos_text):  # method 5.13: never two BOS
            text = text[len(self._bos_text) :]
        return text

    def prompt(self, text: str) -> list[int]:
        """Ids of a prompt with the tokenizer's leading specials, none behind; trailing space removed."""
        ids = self._encode(self._clean(text).rstrip(" "))
        return ids[: len(ids) - self._behind]

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """`prompt` for many texts, in one call of the tokenizer."""
        rows = self.tokenizer([self._clean(text).rstrip(" ") for text in texts], verbose=False)["input_ids"]
        return [list(row[: len(row) - self._behind]) for row in rows]

    def answer(self, text: str) -> list[int]:
        """Ids of one space and the answer, as they continue a text; no specials (method 1.1, 5.15, 5.16)."""
        text = " " + text.strip()
        before, joint = self._encode("a", specials=False), self._encode("a" + text, specials=False)
        if joint[: len(before)] == before:
            return joint[len(before) :]
        return self._encode(text, specials=False)

    def locate(self, prompt: str, subject: str, prefix: str = "") -> Prompt:
        """The prompt, behind `prefix`, with its subject filled in, and the subject's last token.

        Raises SubjectNotFound if the prompt has no single `{}`, or a token spans the subject's end.
        """
        if prompt.count("{}") != 1:
            raise SubjectNotFound(f"prompt {printable(prompt)} must have '{{}}' exactly once, where the subject stands")
        before, behind = (self._clean(part) for part in prompt.split("{}"))
        before = prefix + before
        text = (before + subject + behind).rstrip(" ")
        ids = self.prompt(text)
        by_prefix = len(self.prompt(before + subject)) - 1
        decisive = self._by_offsets(text, len(before), len(before) + len(subject.rstrip()))
        decisive = by_prefix if decisive is None else decisive
        if decisive != by_prefix or self.prompt(before + subject) != ids[: decisive + 1]:
            raise SubjectNotFound(
                f"subject {printable(subject)} in {printable(text)}: a token spans the end of the subject, so no token "
                "is its last. Put a space or a comma behind the subject."
            )
        return Prompt(tuple(ids), decisive)

    def _by_offsets(self, text: str, start: int, end: int) -> int | None:
        if not getattr(self.tokenizer, "is_fast", False):
            return None
        encoding = self.tokenizer(text, return_offsets_mapping=True)
        spans = encoding["offset_mapping"][self._front :]
        inside = [i for i, (left, right) in enumerate(spans) if left < end and right > start and right > left]
        return self._front + inside[-1] if inside else None

    def site(self, facts: Sequence[Fact], contexts: Contexts) -> Site:
        """Every fact as tokens. Raises UnusableFacts listing all that cannot be located or are too long."""
        places, problems = [], []
        for i, fact in enumerate(facts):
            try:
                places.append(self._place(fact, contexts))
            except SubjectNotFound as error:
                problems.append(Problem(i, f"cannot be used: {error}"))
                continue
            tokens = places[-1].length
            if self.positions is not None and tokens > self.positions:
                problems.append(
                    Problem(
                        i,
                        f"has {tokens} tokens with its longest context and its target; the model has positions for "
                        f"at most {self.positions}. Shorten its prompt.",
                    )
                )
        if problems:
            raise UnusableFacts(problems)
        return Site(tuple(facts), contexts, tuple(places))

    def _place(self, fact: Fact, contexts: Contexts) -> FactSite:
        # Plain replacement, not str.format: prompts and generated text may hold braces (method 1.3).
        prompts = (template.replace("{}", fact.prompt, 1) for template in contexts.templates)
        return FactSite(
            prompts=tuple(self.locate(prompt, fact.subject) for prompt in prompts),
            essence=self.locate(ESSENCE, fact.subject),
            target=tuple(self.answer(fact.target_new)),
        )


def is_panic(error: BaseException) -> bool:
    """Whether code in Rust (tokenizers, safetensors) gave up; what it then raises is no Exception."""
    return type(error).__name__ == "PanicException"
