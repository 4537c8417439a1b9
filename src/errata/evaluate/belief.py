"""Belief: does the model say the new target? Efficacy, generalisation and novel wordings, teacher-forced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from errata.dataset.case import MCF, Case
from errata.evaluate.base import Probe, Question
from errata.evaluate.recall import Reading, Recall


@dataclass(frozen=True)
class Success(Probe):
    """MCF: [nll(new) < nll(true)], a tie is a failure. ZsRE: share of answer tokens that are the argmax.

    Source: evaluation 1.1, 1.2. Two definitions under one published name; the protocol tells which.
    """

    kind: str

    @property
    def name(self) -> str:
        return f"{self.kind}_success"

    def protocol(self, case: Case) -> str:
        return case.protocol

    def questions(self, case: Case) -> Sequence[Question]:
        return _new_and_true(case, self.kind)

    def judge(self, case: Case, answers: Sequence[Reading]) -> float:
        if case.protocol == MCF:
            return fmean(new.nll < true.nll for new, true in _pairs(answers))
        return fmean(answer.share for answer in answers)


@dataclass(frozen=True)
class Accuracy(Probe):
    """[argmax at every answer position == token of the new target], strict. Source: evaluation 1.1, 1.2."""

    kind: str

    @property
    def name(self) -> str:
        return f"{self.kind}_accuracy"

    def protocol(self, case: Case) -> str:
        return case.protocol

    def questions(self, case: Case) -> Sequence[Question]:
        return [Recall(prompt, case.fact.target_new, case.fact.form) for prompt in case.wordings(self.kind)]

    def judge(self, case: Case, answers: Sequence[Reading]) -> float:
        return fmean(answer.exact for answer in answers)


@dataclass(frozen=True)
class Difference(Probe):
    """exp(-nll(new)) - exp(-nll(true)), MCF only. Source: evaluation 1.1 (`diff`), 2 (EM, PM)."""

    kind: str
    unit = "probability"

    @property
    def name(self) -> str:
        return f"{self.kind}_diff"

    def protocol(self, case: Case) -> str:
        return case.protocol

    def questions(self, case: Case) -> Sequence[Question]:
        return _new_and_true(case, self.kind) if case.protocol == MCF else ()

    def judge(self, case: Case, answers: Sequence[Reading]) -> float:
        return fmean(new.probability - true.probability for new, true in _pairs(answers))


@dataclass(frozen=True)
class AmongSubjects(Probe):
    """Another probe's score over the cases whose subject is edited once, or more than once.

    Facts that share a subject have similar keys and disturb each other. Source: evaluation 7.13.
    """

    probe: Probe
    repeated: bool

    @property
    def name(self) -> str:
        return f"{self.probe.name}_{'repeated' if self.repeated else 'unique'}"

    @property
    def higher_is_better(self) -> bool | None:
        return self.probe.higher_is_better

    @property
    def unit(self) -> str:
        return self.probe.unit

    def protocol(self, case: Case) -> str:
        return self.probe.protocol(case)

    def questions(self, case: Case) -> Sequence[Question]:
        return self.probe.questions(case)

    def judge(self, case: Case, answers: Sequence[Reading]) -> float:
        return self.probe.judge(case, answers)

    def weight(self, case: Case) -> float:
        return self.probe.weight(case)

    def applies(self, cases: Sequence[Case]) -> list[bool]:
        count = Counter(case.fact.subject.strip() for case in cases)
        return [(count[case.fact.subject.strip()] > 1) == self.repeated for case in cases]


def _new_and_true(case: Case, kind: str) -> list[Question]:
    """Alternately the new and the true target after each wording; only the new one where there is no other."""
    targets = [case.fact.target_new, *filter(None, [case.target_true])]
    return [Recall(prompt, target, case.fact.form) for prompt in case.wordings(kind) for target in targets]


def _pairs(answers: Sequence[Reading]) -> zip[tuple[Reading, Reading]]:
    return zip(answers[::2], answers[1::2], strict=True)
