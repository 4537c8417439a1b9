"""Free generation: what the edited model says when nobody holds its hand. Greedy, under two protocols."""

from __future__ import annotations

import re
import string
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from errata.dataset.case import Case
from errata.decoder.decoder import Decoder
from errata.evaluate.base import Probe, Progress, Question
from errata.fact import Fact
from errata.form import SPACED, Form

LONGEST = 32
_STOPS = ".\n"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True)
class SaysExactly(Question):
    """Are the first T ids generated after `prompt` the T ids of the answer? Nothing is looked at after them.

    The paper's "free-form" accuracy, which equals teacher-forced accuracy (evaluation 1.3).
    """

    prompt: str
    answer: str
    form: Form = SPACED

    @classmethod
    def ask(cls, decoder: Decoder, questions: Sequence[SaysExactly], progress: Progress | None = None) -> list[bool]:
        answers = [decoder.answer_ids(question.answer, question.prompt, question.form) for question in questions]
        by_length: dict[int, list[int]] = defaultdict(list)
        for i, answer in enumerate(answers):
            by_length[len(answer)].append(i)
        found: dict[int, bool] = {}
        for length, chosen in by_length.items():
            rows = [decoder.token_ids(questions[i].prompt, questions[i].form) for i in chosen]
            said = decoder.generate(rows, length)
            found |= {i: list(ids) == answers[i] for i, ids in zip(chosen, said, strict=True)}
            if progress:
                progress("first T tokens", len(found), len(questions))
        return [found[i] for i in range(len(questions))]


@dataclass(frozen=True, slots=True)
class SaysAndStops(Question):
    """Is what is said up to ".", a newline or the end-of-text token the answer, after normalisation?

    A model that says the answer and goes on talking fails (evaluation 3, 8.2). A stop inside the answer
    itself ("St. Louis") does not count as a stop while the text still follows the answer.
    """

    prompt: str
    answer: str
    form: Form = SPACED

    @classmethod
    def ask(cls, decoder: Decoder, questions: Sequence[SaysAndStops], progress: Progress | None = None) -> list[bool]:
        ends, stops = _stop_ids(decoder)
        found: dict[int, bool] = {}
        for inner_stop in (False, True):
            chosen = [i for i, q in enumerate(questions) if any(c in _STOPS for c in q.answer.strip()) == inner_stop]
            rows = [decoder.token_ids(questions[i].prompt, questions[i].form) for i in chosen]
            said = decoder.generate(rows, LONGEST, stop=ends if inner_stop else stops) if rows else []
            for i, ids in zip(chosen, said, strict=True):
                end = next((k for k, token in enumerate(ids) if token in ends), len(ids))
                found[i] = matches(decoder.decode(ids[:end]), questions[i].answer)
            if progress:
                progress("until it stops", len(found), len(questions))
        return [found[i] for i in range(len(questions))]


def matches(said: str, answer: str) -> bool:
    """Equal after cutting `said` at its first stop beyond the answer, and normalising both."""
    said, answer = said.strip(), answer.strip()
    start = len(answer) if said.lower().startswith(answer.lower()) else 0
    stop = min((at for c in _STOPS if (at := said.find(c, start)) >= 0), default=len(said))
    return normalised(said[:stop]) == normalised(answer)


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and extra white space; what has nothing else is kept as it is."""
    bare = _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION))
    return " ".join(bare.split()) or text.strip().lower()


def _stop_ids(decoder: Decoder) -> tuple[list[int], list[int]]:
    """Ids that end a text or a turn, and those plus every token with a stop in its text."""
    texts = decoder.tokenizer.batch_decode([[i] for i in range(len(decoder.tokenizer))])
    stops = {i for i, text in enumerate(texts) if any(c in text for c in _STOPS)}
    return sorted(decoder.ends), sorted(decoder.ends | stops)


class _Spoken(Probe):
    def judge(self, case: Case, answers: Sequence[bool]) -> float:
        return fmean(answers)


@dataclass(frozen=True)
class Spoken(_Spoken):
    """Share of wordings after which greedy decoding says the new target's T tokens first."""

    kind: str

    @property
    def name(self) -> str:
        return f"{self.kind}_free"

    def protocol(self, case: Case) -> str:
        return "free/T-tokens"

    def questions(self, case: Case) -> Sequence[Question]:
        return [SaysExactly(prompt, case.fact.target_new, case.fact.form) for prompt in case.wordings(self.kind)]


@dataclass(frozen=True)
class SpokenAndStopped(_Spoken):
    """Share of wordings after which greedy decoding says the new target, and then stops."""

    kind: str

    @property
    def name(self) -> str:
        return f"{self.kind}_stop"

    def protocol(self, case: Case) -> str:
        return "free/stop"

    def questions(self, case: Case) -> Sequence[Question]:
        return [SaysAndStops(prompt, case.fact.target_new, case.fact.form) for prompt in case.wordings(self.kind)]


def said(decoder: Decoder, facts: Sequence[Fact], n_tokens: int = 6) -> list[str]:
    """What the model, as it is now, says behind each fact's prompt, greedily, up to the first full stop."""
    rows = [decoder.token_ids(fact.text, fact.form) for fact in facts]
    return [decoder.decode(ids).split(".")[0].strip() for ids in decoder.generate(rows, n_tokens, decoder.ends)]
