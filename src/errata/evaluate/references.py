"""TF-IDF vectors, by which a free text is compared with reference texts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from errata.errors import ErrataError


@dataclass(frozen=True)
class TfIdf:
    """Term vectors of texts, from scikit-learn. `source` says where the document frequencies are from."""

    source: str
    vectoriser: Any = field(repr=False)

    @classmethod
    def fit(cls, texts: Iterable[str]) -> TfIdf:
        """Document frequencies of these texts."""
        return cls("own references", _vectoriser()().fit(list(texts)))

    @classmethod
    def read(cls, idf: str | Path, vocabulary: str | Path) -> TfIdf:
        """The published arrays: `idf.npy` [term], and `tfidf_vocab.json`, term -> index. Raises ErrataError."""
        try:
            terms = json.loads(Path(vocabulary).read_text(encoding="utf-8"))
            weights = np.load(idf, allow_pickle=False)
            made = _vectoriser()(vocabulary=terms)
            made.idf_ = weights
        except (OSError, ValueError) as error:
            raise ErrataError(
                f"{idf}, {vocabulary}: not the weights and the index of one set of terms: {error}"
            ) from error
        return cls(Path(idf).name, made)

    def cosine(self, one: str, other: str) -> float:
        """0 where either text has none of the terms."""
        a, b = self.vectoriser.transform([one, other])
        return float(a.multiply(b).sum())  # both have length 1, or 0


def _vectoriser() -> Any:
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError:
        raise ErrataError("consistency compares TF-IDF vectors: it needs `pip install 'errata[text]'`") from None
    return TfidfVectorizer
