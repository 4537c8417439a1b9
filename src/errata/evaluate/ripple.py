"""Ripples: does what follows from the fact follow it (portability), and does what does not stay (locality)?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import Any

from errata.dataset.case import Case, Check
from errata.decoder.decoder import Decoder
from errata.evaluate.base import Probe, Progress, Question
from errata.evaluate.places import tokens_of
from errata.evaluate.recall import Reading, Recall
from errata.form import SPACED, Form

PORTABILITY = ("reasoning", "subject_aliasing", "logical_generalization", "one_hop", "multi_hop", "personas")
LOCALITY = ("relation_specificity", "forgetfulness", "neighborhood")


@dataclass(frozen=True, slots=True)
class Unmoved(Question):
    """Share of the answer's places where the edited model's argmax is the unedited model's.

    Both read the answer after `prompt`; whether either says it does not matter, the answer only fixes the places
    (evaluation 3).
    """

    prompt: str
    answer: str
    form: Form = SPACED

    @classmethod
    def ask(cls, decoder: Decoder, questions: Sequence[Unmoved], progress: Progress | None = None) -> list[float]:
        with decoder.unedited():
            before = _first_choices(decoder, questions)
        after = _first_choices(decoder, questions) if decoder.is_edited else before
        if progress:
            progress("locality", len(questions), len(questions))
        return [fmean(a == b for a, b in zip(*pair, strict=True)) for pair in zip(before, after, strict=True)]


def _first_choices(decoder: Decoder, questions: Sequence[Unmoved]) -> list[list[int]]:
    """The argmax at each place of each answer, teacher-forced."""
    sought = tokens_of(decoder, questions)
    rows = [prompt + answer[:-1] for prompt, answer in sought]
    positions = [range(len(prompt) - 1, len(row)) for (prompt, _), row in zip(sought, rows, strict=True)]
    found = [[-1] * len(places) for places in positions]
    for row, place, logits in decoder.logits(rows, positions):
        for r, k, token in zip(row.tolist(), place.tolist(), logits.argmax(dim=-1).tolist(), strict=True):
            found[r][k] = token
    return found


@dataclass(frozen=True)
class _Ripple(Probe):
    """A mean over the prompts of a kind, then over the kinds a case has; `kind` None: over all of them."""

    kind: str | None = None
    family = ""

    @property
    def name(self) -> str:
        return f"{self.family}_{self.kind}" if self.kind else self.family

    @property
    def needs(self) -> str:
        return f"{self.family} prompts with answers{f' of kind {self.kind!r}' if self.kind else ''}"

    def checks(self, case: Case) -> list[Check]:
        """The case's prompts of this kind. Those without an answer are not asked (evaluation 3)."""
        every: tuple[Check, ...] = getattr(case, self.family)
        return [check for check in every if check.answer.strip() and self.kind in (None, check.kind)]

    def mean(self, case: Case, values: Sequence[float]) -> float:
        """Over the prompts of each kind, then over kinds."""
        by_kind: dict[str, list[float]] = defaultdict(list)
        for check, value in zip(self.checks(case), values, strict=True):
            by_kind[check.kind].append(value)
        return fmean(fmean(each) for each in by_kind.values())


@dataclass(frozen=True)
class Portability(_Ripple):
    """Share of answer tokens that are the argmax, teacher-forced, on what follows from the new fact.

    EasyEdit's `token_em` (evaluation 3), on joined ids and without padding. Of an answer with aliases the one that
    the model comes nearest to counts.
    """

    family = "portability"

    def protocol(self, case: Case) -> str:
        return "easyedit/token-em"

    def questions(self, case: Case) -> Sequence[Question]:
        return [Recall(check.prompt, answer, case.fact.form) for check in self.checks(case) for answer in check.answers]

    def judge(self, case: Case, answers: Sequence[Reading]) -> float:
        shares = iter([answer.share for answer in answers])
        return self.mean(case, [max(islice(shares, len(check.answers))) for check in self.checks(case)])


@dataclass(frozen=True)
class Locality(_Ripple):
    """Share of answer places where the argmax is what it was before the edit, on what must not change.

    EasyEdit's locality (evaluation 3). An unedited model has 1 by definition.
    """

    family = "locality"

    def protocol(self, case: Case) -> str:
        return "easyedit/same-tokens"

    def questions(self, case: Case) -> Sequence[Question]:
        return [Unmoved(check.prompt, check.answer, case.fact.form) for check in self.checks(case)]

    def judge(self, case: Case, answers: Sequence[Any]) -> float:
        return self.mean(case, answers)
