"""Fluency and consistency: is a free text about the subject still varied, and is it about what the fact implies?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import log2
from statistics import fmean
from typing import Any

from errata.dataset.case import Case
from errata.evaluate.base import Probe, Question
from errata.evaluate.continuation import Continuation
from errata.evaluate.references import TfIdf
from errata.evaluate.score import Score

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
_WEIGHTS = ((2, 2 / 3), (3, 4 / 3))  # n of the n-grams, weight of their entropy


def words(text: str) -> list[str]:
    """Words and single punctuation marks."""
    return _WORD.findall(text)


def entropy(tokens: Sequence[str], n: int) -> float:
    """Of the frequencies of the n-grams, in bits; 0 for a text that has none."""
    counts = Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
    total = counts.total()
    return -sum(count / total * log2(count / total) for count in counts.values()) + 0.0


def n_gram_entropy(tokens: Sequence[str]) -> float:
    """(2/3 H2 + 4/3 H3) / 2: bigram and trigram entropy, in bits. Source: evaluation 2 (GE, there x100)."""
    return fmean(weight * entropy(tokens, n) for n, weight in _WEIGHTS)


class _FreeText(Probe):
    length: int
    top: int
    seed: int

    @property
    def drawn(self) -> str:
        """How the texts come about, for the protocol."""
        return f"top-{self.top}, {self.length} tokens, seed {self.seed}"

    def questions(self, case: Case) -> Sequence[Question]:
        return [Continuation(prompt, self.length, self.top, self.seed) for prompt in case.generation]


@dataclass(frozen=True)
class Fluency(_FreeText):
    """Mean weighted n-gram entropy of a free text from each generation prompt. Repetition makes it small.

    `tokenise` cuts a text into words. The published figures use NLTK's `word_tokenize`, which needs its data
    files; give that function to have it. The protocol names the one that was used.
    """

    length: int = 100
    top: int = 5
    seed: int = 0
    tokenise: Callable[[str], list[str]] = words
    name = "fluency"
    unit = "bit"
    needs = "generation prompts (the files of CounterFact's authors have them, flattened ones do not)"

    def protocol(self, case: Case) -> str:
        return f"n-gram-entropy/{self.tokenise.__name__} ({self.drawn})"

    def judge(self, case: Case, answers: Sequence[str]) -> float:
        return fmean(n_gram_entropy(self.tokenise(text)) for text in answers)


@dataclass(frozen=True)
class Consistency(_FreeText):
    """Cosine of the TF-IDF vectors of a case's free texts, joined, and of its reference texts, joined.

    Source: evaluation 2 (RS). `vectors` None fits the document frequencies on the reference texts of the
    cases at hand; `TfIdf.read` takes the published ones. Needs scikit-learn (`errata[text]`).
    """

    length: int = 100
    top: int = 5
    seed: int = 0
    vectors: TfIdf | None = None
    name = "consistency"
    unit = "cosine"
    needs = "generation prompts and reference texts (`read_cases(..., references=attribute_snippets.json)`)"

    def protocol(self, case: Case) -> str:
        return f"tf-idf/{self.vectors.source if self.vectors else 'own references'} ({self.drawn})"

    def questions(self, case: Case) -> Sequence[Question]:
        return super().questions(case) if case.references else ()

    def judge(self, case: Case, answers: Sequence[str]) -> float:
        assert self.vectors is not None, "document frequencies are those of all cases: ask `score`"
        return self.vectors.cosine(" ".join(answers), " ".join(case.references))

    def score(self, cases: Sequence[Case], answers: dict[Question, Any]) -> Score:
        if self.vectors is None and (texts := _distinct(cases)):
            return replace(self, vectors=TfIdf.fit(texts)).score(cases, answers)
        return super().score(cases, answers)


def _distinct(cases: Iterable[Case]) -> list[str]:
    return list(dict.fromkeys(text for case in cases if case.generation for text in case.references))
