"""Specificity: how far the edit moved the next-token distribution where it should not. Needs no answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar, Literal

import torch
from torch import Tensor

from errata.dataset.case import Case
from errata.decoder.decoder import Decoder
from errata.evaluate.base import Probe, Question
from errata.evaluate.places import Places, Seen
from errata.form import SPACED, Form

TOP = (1, 5, 10)
EPSILON = 1e-10
_HELD = 1 << 24  # logits of either model compared at a time


@dataclass(frozen=True, slots=True)
class Shift:
    """From the unedited p to the edited q at a prompt's last token, in nats; `top` are shares of overlap."""

    kl: float
    js: float
    kl_epsilon: float
    js_epsilon: float
    entropy: float
    top1: float
    top5: float
    top10: float


@dataclass(frozen=True, slots=True)
class NextToken(Places):
    """The distribution after `prompt`, by the unedited and by the edited model (evaluation 1.4)."""

    prompt: str
    form: Form = SPACED
    answer: ClassVar[None] = None
    told: ClassVar[str] = "specificity"

    @classmethod
    def read(cls, decoder: Decoder, logits: Tensor, seen: Sequence[Seen]) -> list[Shift]:
        """The edited model's logits are those of the batch; the unedited model runs the same prompts."""
        after = logits[[place.at for place in seen]].cpu()
        before = decoder.original_logits([place.ids for place in seen]) if decoder.is_edited else after
        size = max(1, _HELD // after.shape[-1])
        pieces = zip(before.split(size), after.split(size), strict=True)
        return [shift for piece in pieces for shift in shifts(*piece)]

    @classmethod
    def whole(cls, values: Sequence[Shift]) -> Shift:
        return values[0]


def shifts(before: Tensor, after: Tensor) -> list[Shift]:
    """The comparison of two models' logits [prompt, vocabulary], row by row, in float64.

    KL(p||q) = sum p (log p - log q); JS = KL(p||m)/2 + KL(q||m)/2, m = (p + q)/2; H(p) = -sum p log p.
    Source: evaluation 1.4. Equal logits give exactly 0, 0 and overlaps of exactly 1.
    """
    log_p, log_q = before.double().log_softmax(dim=-1), after.double().log_softmax(dim=-1)
    p, q = log_p.exp(), log_q.exp()
    d = torch.where(log_p == log_q, 0.0, log_q - log_p)  # 0 also where both are -inf
    p_epsilon, q_epsilon = p + EPSILON, q + EPSILON  # as in the published code: not normalised again
    m_epsilon = (p_epsilon + q_epsilon) / 2
    columns = [
        -_expected(p, d).sum(dim=-1),
        (_against_mixture(p, d) + _against_mixture(q, -d)) / 2,
        (p_epsilon * (p_epsilon / q_epsilon).log()).sum(dim=-1),
        (p_epsilon * (p_epsilon / m_epsilon).log() + q_epsilon * (q_epsilon / m_epsilon).log()).sum(dim=-1) / 2,
        -_expected(p, log_p).sum(dim=-1),
        *_overlaps(before, after),
    ]
    columns[:2] = [column.clamp(min=0) for column in columns[:2]]  # rounding
    return [Shift(*row) for row in (torch.stack(columns, dim=-1) + 0.0).tolist()]  # no -0.0


def ranked(logits: Tensor, k: int) -> Tensor:
    """The ids [row, k] of the largest logits, largest first, equal ones by lower id (topk promises no order)."""
    logits, best = logits.clone(), []
    for _ in range(min(k, logits.shape[-1])):
        best.append(logits.argmax(dim=-1, keepdim=True))  # the first of equal maxima
        logits.scatter_(-1, best[-1], -math.inf)
    return torch.cat(best, dim=-1)


def _overlaps(before: Tensor, after: Tensor) -> list[Tensor]:
    a, b = ranked(before, max(TOP)), ranked(after, max(TOP))
    same = a[:, :, None] == b[:, None, :]
    return [same[:, :k, :k].sum(dim=(1, 2)).double() / min(k, a.shape[1]) for k in TOP]


def _expected(p: Tensor, values: Tensor) -> Tensor:
    """p * values, with 0 where p is 0."""
    return torch.where(p > 0, p * values, 0.0)


def _against_mixture(p: Tensor, d: Tensor) -> Tensor:
    """KL(p || (p + q)/2) with d = log q - log p: -sum p log((1 + e^d)/2), which is exactly 0 at d = 0."""
    return -_expected(p, d.clamp(min=0) + (torch.expm1(-d.abs()) / 2).log1p()).sum(dim=-1)


Measure = Literal["kl", "js", "entropy", "top1", "top5", "top10"]


@dataclass(frozen=True)
class Specificity(Probe):
    """One number of the shift on neighbourhood (or far) prompts, all prompts pooled flat. Evaluation 1.4.

    `compatibility` adds 1e-10 to both probability vectors, as the published code does. "entropy" is that of the
    unedited distribution: a low one makes every other number here look good (evaluation 7.6).
    """

    measure: Measure
    where: Literal["specificity", "far"] = "specificity"
    compatibility: bool = False

    @property
    def name(self) -> str:
        return f"{self.where}_{self.measure}"

    @property
    def higher_is_better(self) -> bool | None:
        return None if self.measure == "entropy" else self.measure.startswith("top")

    @property
    def unit(self) -> str:
        return "share" if self.measure.startswith("top") else "nat"

    def protocol(self, case: Case) -> str:
        epsilon = self.compatibility and self.measure in ("kl", "js")
        return f"{self.where}/next-token{'+1e-10' if epsilon else ''}"

    def questions(self, case: Case) -> Sequence[Question]:
        prompts = case.far if self.where == "far" else case.neighbourhood
        return [NextToken(prompt, case.fact.form) for prompt in prompts]

    def judge(self, case: Case, answers: Sequence[Shift]) -> float:
        epsilon = self.compatibility and self.measure in ("kl", "js")
        return fmean(getattr(shift, f"{self.measure}_epsilon" if epsilon else self.measure) for shift in answers)

    def weight(self, case: Case) -> float:
        return float(len(self.questions(case)))
