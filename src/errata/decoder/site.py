"""Site: where each fact sits in its prompts. Token ids, the decisive token, and context prefixes.

The decisive token is the last sub-token of the subject. It is found by character offsets and checked against
the prefix-length rule of method 1.2; the two disagree exactly if a token spans the subject's end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from errata.decoder.chat import Chat
from errata.errors import ModelError, SubjectNotFound, UnusableFacts, printable
from errata.fact import Fact, Problem
from errata.form import AS_WRITTEN, SPACED, Form, joined

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
    spans: bool = False
    """Whether the decisive token also holds what follows the subject."""

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

    @property
    def spanning(self) -> list[int]:
        """Facts whose decisive token also holds what follows the subject (method 1.2)."""
        return [i for i, place in enumerate(self.places) if any(prompt.spans for prompt in place.prompts)]

    @property
    def stems(self) -> list[list[int]]:
        """The facts in groups whose prompts are alike, in every context, up to and with the decisive token.

        Facts of one group have one key and one state in every layer (method 5.31). Most are alone in theirs.
        """
        groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for i, place in enumerate(self.places):
            groups.setdefault(tuple(prompt.stem.ids for prompt in place.prompts), []).append(i)
        return list(groups.values())


class Tokens:
    """Text to ids by rules of our own: BOS exactly once, answers as they continue a prompt, no padding anywhere."""

    def __init__(self, tokenizer: Any, positions: int | None = None) -> None:
        """`positions`: tokens that the model can read of one text, None if there is no limit."""
        self.tokenizer, self.positions, self.chat = tokenizer, positions, Chat(tokenizer)
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
        """Without a BOS text where the tokenizer puts one in front: never two (method 5.13)."""
        while self._front and self._bos_text and text.startswith(self._bos_text):
            text = text[len(self._bos_text) :]
        return text

    def prompt(self, text: str, form: Form = AS_WRITTEN) -> list[int]:
        """Ids of a prompt with the tokenizer's leading specials, none behind; spaces at its end belong to the answer.

        In a chat, those of the conversation up to the answer, as the template writes it. Raises ModelError.
        """
        if form.chat is not None:
            return self._encode(self.chat.asked(form.chat, text), specials=False)
        return self._plain(text.rstrip(" "))

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """`prompt` for many texts, in one call of the tokenizer."""
        rows = self.tokenizer([self._clean(text).rstrip(" ") for text in texts], verbose=False)["input_ids"]
        return [list(row[: len(row) - self._behind]) for row in rows]

    def answer(self, text: str, prompt: str = "", form: Form = SPACED) -> list[int]:
        """Ids of an answer as it continues a prompt, and of what ends it where the form has an end (method 1.1).

        Those that it has in the text of both where the prompt's own ids begin that text; else those behind a letter.
        Raises ModelError.
        """
        ending = self._ending(form) if form.end else []
        text, whole = self._continued(text, prompt, form)
        ids = None if _is_spaced(form) else self._behind_prompt(whole, self.prompt(prompt, form), form)
        return [*(self._behind_letter(text) if ids is None else ids), *ending]

    def is_apart(self, text: str, prompt: str, form: Form) -> bool:
        """Whether the ids of prompt and answer are not those of the two as one text: where a token spans the place
        at which the answer begins, there are no such ids."""
        _, whole = self._continued(text, prompt, form)
        return self._whole(whole, form) != [
            *self.prompt(prompt, form),
            *self.answer(text, prompt, replace(form, end=False)),
        ]

    def _continued(self, answer: str, prompt: str, form: Form) -> tuple[str, str]:
        """The answer with what stands in front of it, and the whole text."""
        if form.chat is None:
            begun, answer = joined(prompt, answer, form.join)
            return answer, begun + answer
        answer = (self.chat.space if form.join is None else form.join) + answer.strip(" ")
        return answer, self.chat.asked(form.chat, prompt) + answer

    def _behind_prompt(self, whole: str, before: list[int], form: Form) -> list[int] | None:
        """Ids of a text behind those of the prompt that begins it; None if a token spans the prompt's end."""
        ids = self._whole(whole, form)
        return ids[len(before) :] if ids[: len(before)] == before and len(ids) > len(before) else None

    def _whole(self, text: str, form: Form) -> list[int]:
        """Ids of prompt and answer as one text."""
        return self._plain(text) if form.chat is None else self._encode(text, specials=False)

    def _plain(self, text: str) -> list[int]:
        ids = self._encode(self._clean(text))
        return ids[: len(ids) - self._behind]

    def _behind_letter(self, text: str) -> list[int]:
        """Ids of a text behind a letter, which gives sentencepiece the right first piece; else its own."""
        before, joint = self._encode("a", specials=False), self._encode("a" + text, specials=False)
        if joint[: len(before)] == before:
            return joint[len(before) :]
        return self._encode(text, specials=False)

    @property
    def end(self) -> int | None:
        """The id that ends a text; None if the tokenizer has none."""
        return getattr(self.tokenizer, "eos_token_id", None)

    def _ending(self, form: Form) -> list[int]:
        end = self.end if form.chat is None or self.chat.end is None else self.chat.end
        if end is None:
            raise ModelError("the tokenizer has no token that ends a text, so answers cannot be taught to end there")
        return [end]

    def locate(self, prompt: str, subject: str, prefix: str = "", form: Form = AS_WRITTEN) -> Prompt:
        """The prompt, behind `prefix`, with its subject filled in, and the token with the subject's last character.

        Raises SubjectNotFound if the prompt has no single `{}`, or a token spans the subject's end and the tokenizer
        does not say which; ModelError.
        """
        if prompt.count("{}") != 1:
            raise SubjectNotFound(f"prompt {printable(prompt)} must have '{{}}' exactly once, where the subject stands")
        before, behind = prompt.split("{}")
        specials = form.chat is None
        if form.chat is None:
            before, behind = prefix + self._clean(before), behind.rstrip(" ")
        else:
            before, behind = self._in_chat(prefix + before, subject, behind, form)
        text, end = before + subject + behind, (before + subject).rstrip(" ")
        ids, beginning = (
            self._plain(part.rstrip(" ")) if specials else self._encode(part, specials) for part in (text, end)
        )
        last = self._by_offsets(text, len(before), len(before) + len(subject.rstrip()), specials)
        if last is not None:
            return Prompt(tuple(ids), *last)
        if beginning != ids[: len(beginning)]:
            raise SubjectNotFound(
                f"subject {printable(subject)} in {printable(text)}: a token spans the end of the subject, and this "
                "tokenizer does not say which. Put a space or a comma behind the subject."
            )
        return Prompt(tuple(ids), len(beginning) - 1)

    def _in_chat(self, before: str, subject: str, behind: str, form: Form) -> tuple[str, str]:
        """What stands before and behind the subject once the template has written the conversation."""
        assert form.chat is not None
        turn = before + subject + behind
        whole = self.chat.asked(form.chat, turn)
        start = whole.rfind(turn.strip()) + len(before) - (len(turn) - len(turn.lstrip()))
        if turn.strip() not in whole or whole[start : start + len(subject)] != subject:
            raise SubjectNotFound(
                f"the model's chat template does not write {printable(turn)} as it is, so the subject "
                f"{printable(subject)} has no place in it. Write the fact as a plain prompt."
            )
        return whole[:start], whole[start + len(subject) :]

    def _by_offsets(self, text: str, start: int, end: int, specials: bool = True) -> tuple[int, bool] | None:
        """The last token with a character of text[start:end], and whether it reaches beyond; None if none is known."""
        if not getattr(self.tokenizer, "is_fast", False):
            return None
        encoding = self.tokenizer(text, add_special_tokens=specials, return_offsets_mapping=True)
        front = self._front if specials else 0
        spans = encoding["offset_mapping"][front:]
        inside = [i for i, (left, right) in enumerate(spans) if left < end and right > start and right > left]
        return (front + inside[-1], spans[inside[-1]][1] > end) if inside else None

    def site(self, facts: Sequence[Fact], contexts: Contexts) -> Site:
        """Every fact as tokens. Raises UnusableFacts listing all that cannot be located or are too long."""
        places, problems = self._located(facts, contexts)
        if problems:
            raise UnusableFacts(problems)
        return Site(tuple(facts), contexts, tuple(places))

    def problems(self, facts: Sequence[Fact], contexts: Contexts) -> list[Problem]:
        """Why some of the facts have no place; empty if all have one."""
        return self._located(facts, contexts)[1]

    def _located(self, facts: Sequence[Fact], contexts: Contexts) -> tuple[list[FactSite], list[Problem]]:
        places, problems = list[FactSite](), list[Problem]()
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
        return places, problems

    def _place(self, fact: Fact, contexts: Contexts) -> FactSite:
        # Plain replacement, not str.format: prompts and generated text may hold braces (method 1.3).
        prompts = (template.replace("{}", fact.prompt, 1) for template in contexts.templates)
        return FactSite(
            prompts=tuple(self.locate(prompt, fact.subject, form=fact.form) for prompt in prompts),
            essence=self.locate(ESSENCE, fact.subject),
            target=tuple(self.answer(fact.target_new, fact.text, fact.form)),
        )


def is_panic(error: BaseException) -> bool:
    """Whether code in Rust (tokenizers, safetensors) gave up; what it then raises is no Exception."""
    return type(error).__name__ == "PanicException"


def _is_spaced(form: Form) -> bool:
    """Whether an answer's ids are those behind any letter, whatever the prompt."""
    return form.chat is None and form.join == SPACED.join
