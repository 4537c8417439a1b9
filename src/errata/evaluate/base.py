"""Question and Probe: what is asked of a model about a case. evaluate: ask it once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter

from errata.dataset.case import Case
from errata.decoder.decoder import Decoder
from errata.errors import EmptyScore
from errata.evaluate.score import Score, Scores
from errata.fleet import SOLO, Fleet

Progress = Callable[[str, int, int], None]
"""Called as (what is asked, prompts done, prompts in all)."""


class Question(ABC):
    """One thing to ask a model. A frozen dataclass: equal questions of all cases and probes are asked once."""

    @classmethod
    def reader(cls, decoder: Decoder) -> type[Question]:
        """Whose `ask` answers questions of this kind. Kinds with one reader are asked together."""
        return cls

    @classmethod
    def answer_type(cls) -> Any:
        """The type of an answer: something that JSON can carry from one process to another."""
        return get_args(get_type_hints(cls.ask)["return"])[0]

    @classmethod
    @abstractmethod
    def ask(cls, decoder: Decoder, questions: Sequence[Any], progress: Progress | None = None) -> list[Any]:
        """The answers, in the order of the questions, computed in batches."""


class Probe(ABC):
    """What is asked about a case, and how the answers are judged. It knows nothing of who edited."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The score's name."""

    @property
    def higher_is_better(self) -> bool | None:
        """None for what only describes."""
        return True

    @property
    def unit(self) -> str:
        """What the value counts."""
        return "share"

    @property
    def needs(self) -> str:
        """What a case must have for this probe, in words."""
        return "prompts for it"

    @abstractmethod
    def protocol(self, case: Case) -> str:
        """The name of the definition this case is scored by; it stands beside every number."""

    @abstractmethod
    def questions(self, case: Case) -> Sequence[Question]:
        """Empty if the case has no prompts for this probe."""

    @abstractmethod
    def judge(self, case: Case, answers: Sequence[Any]) -> float:
        """The case's value from the answers to `questions(case)`."""

    def weight(self, case: Case) -> float:
        """What the case counts in the mean."""
        return 1.0

    def applies(self, cases: Sequence[Case]) -> list[bool]:
        """Which of the cases this probe is about."""
        return [True] * len(cases)

    def __call__(self, decoder: Decoder, cases: Sequence[Case]) -> Score:
        """This probe alone. Raises EmptyScore if no case has prompts for it."""
        return self.score(cases, _answers(decoder, cases, [self], None))

    def score(self, cases: Sequence[Case], answers: dict[Question, Any]) -> Score:
        """All cases from the answers to everybody's questions. Raises EmptyScore."""
        values: list[float | None] = []
        protocols: dict[str, None] = {}
        for case, applies in zip(cases, self.applies(cases), strict=True):
            questions = self.questions(case) if applies else ()
            values.append(self.judge(case, [answers[q] for q in questions]) if questions else None)
            if questions:
                protocols[self.protocol(case)] = None
        if not protocols:
            raise EmptyScore(f"score {self.name!r}: none of {len(cases)} cases has {self.needs}")
        weights = tuple(self.weight(case) for case in cases)
        return Score(
            name=self.name,
            protocol=" and ".join(protocols),
            per_case=tuple(values),
            higher_is_better=self.higher_is_better,
            unit=self.unit,
            weights=() if set(weights) == {1.0} else weights,
        )


def evaluate(
    decoder: Decoder,
    cases: Sequence[Case],
    probes: Sequence[Probe],
    progress: Progress | None = None,
    fleet: Fleet = SOLO,
) -> Scores:
    """The scores of the model at hand, as edited. Work that probes share is done once.

    The ranks of a `fleet` take the cases in turn; every one is given the scores of all.

    A probe that no case has prompts for gives no score; `Scores.missing` says which, and what the cases lack.

    The unedited model's own scores (always worth printing beside, evaluation 7.15):

        with decoder.unedited():
            before = evaluate(decoder, cases, probes)
    """
    answers = _answers(decoder, cases, probes, progress, fleet)
    scores, missing = [], {}
    for probe in probes:
        try:
            scores.append(probe.score(cases, answers))
        except EmptyScore as error:
            missing[probe.name] = str(error)
    return Scores(scores, missing)


def _answers(
    decoder: Decoder,
    cases: Sequence[Case],
    probes: Sequence[Probe],
    progress: Progress | None,
    fleet: Fleet = SOLO,
) -> dict[Question, Any]:
    readers: dict[type[Question], dict[Question, int]] = {}
    for probe in probes:
        for i, (case, applies) in enumerate(zip(cases, probe.applies(cases), strict=True)):
            for question in probe.questions(case) if applies else ():
                readers.setdefault(question.reader(decoder), {}).setdefault(question, i)
    answers: dict[Question, Any] = {}
    for reader, questions in readers.items():
        answers |= zip(questions, _asked(reader, decoder, questions, progress, fleet), strict=True)
    return answers


def _asked(
    reader: type[Question], decoder: Decoder, questions: dict[Question, int], progress: Progress | None, fleet: Fleet
) -> list[Any]:
    """The answers to questions, each with the first case that asks it: a case's questions share work, and a rank."""
    if fleet.size == 1:
        return reader.ask(decoder, list(questions), progress)
    mine = {i: question for i, (question, case) in enumerate(questions.items()) if case % fleet.size == fleet.rank}
    answers = reader.ask(decoder, list(mine.values()), progress) if mine else []
    forms: dict[type[Question], TypeAdapter[Any]] = {
        kind: TypeAdapter(kind.answer_type()) for kind in {type(question) for question in questions}
    }
    told = {
        i: forms[type(question)].dump_python(answer, mode="json")
        for (i, question), answer in zip(mine.items(), answers, strict=True)
    }
    every = zip(questions, fleet.gather(told), strict=True)
    return [forms[type(question)].validate_python(answer) for question, answer in every]
