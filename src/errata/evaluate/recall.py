"""Recall: how a model reads an answer after a prompt, teacher-forced. Every answer that is scored is scored here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp
from typing import ClassVar

import torch
from torch import Tensor

from errata.dataset.case import Case
from errata.decoder.decoder import Decoder
from errata.evaluate.places import Places, Seen
from errata.form import SPACED, Form


@dataclass(frozen=True, slots=True)
class Reading:
    """Per token of the answer: its log probability, and whether it is the argmax."""

    log_probabilities: tuple[float, ...]
    hits: tuple[bool, ...]

    @property
    def nll(self) -> float:
        """-(1/T) sum_j log P(y_j | p, y_<j). Source: evaluation 1."""
        return -sum(self.log_probabilities) / len(self.log_probabilities)

    @property
    def probability(self) -> float:
        """exp(-nll), the geometric mean of the tokens' probabilities."""
        return exp(-self.nll)

    @property
    def share(self) -> float:
        """Share of tokens that are the argmax."""
        return sum(self.hits) / len(self.hits)

    @property
    def exact(self) -> bool:
        """Every token is the argmax: greedy decoding would say exactly this (evaluation 1.3)."""
        return all(self.hits)


@dataclass(frozen=True, slots=True)
class Recall(Places):
    """`answer` after `prompt`."""

    prompt: str
    answer: str
    form: Form = SPACED
    told: ClassVar[str] = "recall"

    @classmethod
    def read(cls, decoder: Decoder, logits: Tensor, seen: Sequence[Seen]) -> list[tuple[float, bool]]:
        """Log probability of each place's token, and whether it is the argmax."""
        at, token = torch.tensor([(place.at, place.token) for place in seen], device=logits.device).T
        log_probabilities = logits[at, token] - logits.logsumexp(dim=-1)[at]
        hits = logits.argmax(dim=-1)[at] == token  # the first of equal maxima: the lower token id
        return list(zip(log_probabilities.tolist(), hits.tolist(), strict=True))

    @classmethod
    def whole(cls, values: Sequence[tuple[float, bool]]) -> Reading:
        return Reading(*map(tuple, zip(*values, strict=True)))


def retokenised(decoder: Decoder, cases: Sequence[Case]) -> list[str]:
    """Ids of cases where tokenising prompt and answer as one string gives other ids than joining them.

    The published code tokenises jointly; errata joins ids. Where this list is empty the two agree.
    """
    return [
        case.id
        for case in cases
        if any(
            decoder.tokens.is_apart(answer, prompt, case.fact.form)
            for kind in ("efficacy", "generalisation", "novel")
            for prompt in case.wordings(kind)
            for answer in filter(None, (case.fact.target_new, case.target_true))
        )
    ]
