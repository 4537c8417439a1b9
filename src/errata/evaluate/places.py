"""Places: questions about the next token at places of a text. Those of all kinds are answered in one batched pass."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, get_type_hints

import torch
from torch import Tensor

from errata.decoder.decoder import Decoder
from errata.errors import UnusableFacts, printable
from errata.evaluate.base import Progress, Question
from errata.form import Form

Ids = tuple[int, ...]


class Asked(Protocol):
    """Anything that asks for an answer after a prompt, or, with None for it, for what comes next."""

    @property
    def prompt(self) -> str: ...
    @property
    def answer(self) -> str | None: ...
    @property
    def form(self) -> Form: ...


@dataclass(frozen=True, slots=True)
class Seen:
    """One place: the row of the logits it has, all ids up to it, and the id that is asked for behind it, if any."""

    at: int
    ids: Ids
    token: int | None


class Places(Question):
    """What a model says after `prompt`, and after each token of `answer` but the last.

    Ids of a text are those of the prompt followed by those of the answer, in the question's form (evaluation 1, 1.2).
    """

    told: ClassVar[str]
    """What progress calls it."""

    @classmethod
    def reader(cls, decoder: Decoder) -> type[Question]:
        """In half precision a kind keeps to itself: there the shape of a batch shows in the last digits, and what
        is compared with another pass over the same prompts must run in the same batches."""
        return Places if decoder.dtype in (torch.float32, torch.float64) else cls

    @classmethod
    @abstractmethod
    def read(cls, decoder: Decoder, logits: Tensor, seen: Sequence[Seen]) -> list[Any]:
        """The value of each place, from the logits [row, vocabulary] of one batch."""

    @classmethod
    def answer_type(cls) -> Any:
        return get_type_hints(cls.whole)["return"]

    @classmethod
    @abstractmethod
    def whole(cls, values: Sequence[Any]) -> Any:
        """The answer to a question, from the values of its places in order."""

    @classmethod
    def ask(cls, decoder: Decoder, questions: Sequence[Any], progress: Progress | None = None) -> list[Any]:
        """All answers in one batched pass; the questions may be of several kinds.

        The last token of an answer is predicted, never read, so a row is the prompt and the answer without it.
        A row that begins another row is answered by that other row: the two one-token answers of a record and the
        distribution after its prompt cost one row, and so do a short and a long answer whose beginnings agree.
        """
        sought = tokens_of(decoder, questions)
        texts = [prompt + answer[:-1] for prompt, answer in sought]
        rows, home = _shared(texts, [prompt for prompt, _ in sought] if decoder.grafted is not None else None)
        wanted: list[dict[int, list[tuple[int, int]]]] = [defaultdict(list) for _ in rows]
        for q, (prompt, answer) in enumerate(sought):
            for j in range(max(1, len(answer))):
                wanted[home[q]][len(prompt) - 1 + j].append((q, j))
        positions = [sorted(row) for row in wanted]

        found: list[list[Any]] = [[None] * max(1, len(answer)) for _, answer in sought]
        whole, done = Counter[type[Places]](), Counter[type[Places]]()
        for question, places in zip(questions, found, strict=True):
            whole[type(question)] += len(places)
        for row, place, logits in decoder.logits(rows, positions):
            asked: dict[type[Places], list[tuple[int, int, Seen]]] = defaultdict(list)
            for i, (r, k) in enumerate(zip(row.tolist(), place.tolist(), strict=True)):
                ids = rows[r][: positions[r][k] + 1]
                for q, j in wanted[r][positions[r][k]]:
                    token = sought[q][1][j] if sought[q][1] else None
                    asked[type(questions[q])].append((q, j, Seen(i, ids, token)))
            for kind, members in asked.items():
                values = kind.read(decoder, logits, [seen for _, _, seen in members])
                for (q, j, _), value in zip(members, values, strict=True):
                    found[q][j] = value
                done[kind] += len(members)
                if progress:
                    progress(kind.told, done[kind], whole[kind])
        return [type(question).whole(places) for question, places in zip(questions, found, strict=True)]


def tokens_of(decoder: Decoder, questions: Sequence[Asked]) -> list[tuple[Ids, Ids]]:
    """Prompt and answer of each question as ids; each text is tokenised once. Raises UnusableFacts."""
    prompts = {key: tuple(decoder.token_ids(*key)) for key in {(one.prompt, one.form) for one in questions}}
    sought = {(one.answer, one.prompt, one.form) for one in questions if one.answer is not None}
    answers: dict[tuple[str | None, str, Form], Ids] = {key: tuple(decoder.answer_ids(*key)) for key in sought}
    if empty := [key[0] for key, ids in [*prompts.items(), *answers.items()] if not ids]:
        raise UnusableFacts([f"{printable(text)} has no tokens: nothing to score" for text in dict.fromkeys(empty)])
    return [(prompts[one.prompt, one.form], answers.get((one.answer, one.prompt, one.form), ())) for one in questions]


def _shared(rows: Sequence[Ids], prompts: Sequence[Ids] | None) -> tuple[list[Ids], list[int]]:
    """The rows that begin no other row, and for each given row the index of one it begins (or is).

    With `prompts`, rows share only where their prompts are equal: a graft decides by the prompt.
    """
    if prompts is None:
        return _longest(rows)
    by_prompt: dict[Ids, list[int]] = defaultdict(list)
    for i, prompt in enumerate(prompts):
        by_prompt[prompt].append(i)
    kept: list[Ids] = []
    home = [0] * len(rows)
    for members in by_prompt.values():
        longest, at = _longest([rows[i] for i in members])
        for i, k in zip(members, at, strict=True):
            home[i] = len(kept) + k
        kept += longest
    return kept, home


def _longest(rows: Sequence[Ids]) -> tuple[list[Ids], list[int]]:
    ordered = sorted(set(rows))
    kept = [row for row, after in zip(ordered, [*ordered[1:], ()], strict=True) if after[: len(row)] != row]
    return kept, [bisect_left(kept, row) for row in rows]
