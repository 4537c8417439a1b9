"""Neighbourhood: do other subjects keep their true answers? The classical measure, which needs those answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from errata.dataset.case import MCF, Case
from errata.evaluate.base import Probe, Question
from errata.evaluate.recall import Reading, Recall


def known(case: Case) -> list[tuple[str, str]]:
    """Neighbourhood prompts with their true answers; for ZsRE the first only (evaluation 1.2)."""
    if case.neighbourhood_answers:
        pairs = [p for p in zip(case.neighbourhood, case.neighbourhood_answers, strict=True) if p[1]]
        return pairs if case.protocol == MCF else pairs[:1]
    return [(prompt, case.target_true) for prompt in case.neighbourhood] if case.target_true else []


class _Neighbours(Probe):
    def protocol(self, case: Case) -> str:
        return case.protocol

    def questions(self, case: Case) -> Sequence[Question]:
        """Alternately the true answer and, for MCF, the fact's new target."""
        new = [case.fact.target_new] if case.protocol == MCF else []
        return [Recall(prompt, answer, case.fact.form) for prompt, true in known(case) for answer in (true, *new)]


@dataclass(frozen=True)
class NeighbourhoodSuccess(_Neighbours):
    """NS. MCF: [nll(true) < nll(new)], a tie is a failure. ZsRE: share of answer tokens that are the argmax.

    Source: evaluation 2.
    """

    name = "neighbourhood_success"

    def judge(self, case: Case, answers: Sequence[Reading]) -> float:
        if case.protocol == MCF:
            return fmean(true.nll < new.nll for true, new in zip(answers[::2], answers[1::2], strict=True))
        return fmean(answer.share for answer in answers)


@dataclass(frozen=True)
class NeighbourhoodAccuracy(_Neighbours):
    """[argmax at every answer position == token of the true answer], strict. Source: evaluation 2."""

    name = "neighbourhood_accuracy"

    def questions(self, case: Case) -> Sequence[Question]:
        return [Recall(prompt, true, case.fact.form) for prompt, true in known(case)]

    def judge(self, case: Case, answers: Sequence[Reading]) -> float:
        return fmean(answer.exact for answer in answers)


@dataclass(frozen=True)
class NeighbourhoodDifference(_Neighbours):
    """exp(-nll(true)) - exp(-nll(new)), MCF only. Source: evaluation 2 (NM)."""

    name = "neighbourhood_diff"
    unit = "probability"

    def questions(self, case: Case) -> Sequence[Question]:
        return super().questions(case) if case.protocol == MCF else ()

    def judge(self, case: Case, answers: Sequence[Reading]) -> float:
        pairs = zip(answers[::2], answers[1::2], strict=True)
        return fmean(true.probability - new.probability for true, new in pairs)
