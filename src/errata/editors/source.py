"""Source: which sample of text the key statistics of a model come from, and why that one (method 1.6)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from errata.store import Store

SELF_WRITTEN = "self-written"
OWN_PER_DIMENSION, OWN_SHRINKAGE = 2, 0.1
"""Tokens that a model writes for each entry of a key, at most, and the least shrinkage of the moment of so few."""
Reason = Literal["named", "given", "earlier", "stored", "self-written"]
"""`named` by the user or the recipe; `given` as tensors; those of the `earlier` edit; or, where no corpus is named,
`stored` for this model already, else from text that the model writes itself."""


@dataclass(frozen=True)
class Source:
    """A corpus by its name, the size of the sample, and the tokens at which each text is cut; 0 tokens: all of it."""

    corpus: str
    tokens: int
    max_length: int | None
    reason: Reason
    instead_of: str | None = None
    """The earlier edit's, where that is not to be had."""

    @classmethod
    def self_written(cls, seed: int, tokens: int, max_length: int | None) -> Source:
        """Text of the model's own."""
        return cls(f"{SELF_WRITTEN}: seed {seed}, {tokens} tokens", tokens, max_length, "self-written")

    @classmethod
    def of(cls, made_of: Mapping[str, Any], reason: Reason) -> Source:
        """From what `made_of` gives. Raises KeyError."""
        return cls(made_of["corpus"], made_of["tokens"], made_of["max_length"], reason)

    def made_of(self, model: Mapping[str, str], layer: int | Sequence[int]) -> dict[str, object]:
        """What the statistics of a layer, or of several, are made of."""
        sample = {"corpus": self.corpus, "tokens": self.tokens, "max_length": self.max_length}
        return {"model": dict(model), "layer": layer, **sample}

    @property
    def seed(self) -> int | None:
        """With which the model wrote it; None if it did not."""
        found = re.match(rf"{SELF_WRITTEN}: seed (-?\d+),", self.corpus)
        return int(found[1]) if found else None

    @property
    def least_shrinkage(self) -> float:
        """What the moment of this sample is shrunk by at least: text that the model writes is short."""
        return 0.0 if self.seed is None else OWN_SHRINKAGE

    def same_text(self, other: Source) -> bool:
        """Whether both are the same sample, whatever the reasons."""
        return (self.corpus, self.tokens, self.max_length) == (other.corpus, other.tokens, other.max_length)

    @property
    def note(self) -> str | None:
        """One line for the user where no corpus was named; else None."""
        taken = {
            "self-written": f"text that the model writes itself ({self}); --corpus FILE takes ordinary text",
            "stored": f"those in the store, of {self}",
            "earlier": f"those of the earlier edit, of {self}",
        }.get(self.reason)
        if taken is None:
            return None
        gone = f"; those of the earlier edit are not in the store, of {self.instead_of}" if self.instead_of else ""
        return f"key statistics: no corpus was named, so {'from ' * (self.reason == 'self-written')}{taken}{gone}"

    def __str__(self) -> str:
        if self.seed is not None:
            return self.corpus
        return f"{self.tokens:,} tokens of {self.corpus}" if self.tokens else f"all of {self.corpus}"


def stored_sources(store: Store, model: Mapping[str, str], layers: Sequence[int]) -> dict[Source, int]:
    """The samples from which the store holds statistics of all these layers, and their tokens, the largest first."""
    held: dict[Source, set[int]] = defaultdict(set)
    for made_of in store.descriptions("statistics"):
        if made_of.get("model") == dict(model) and isinstance(layer := made_of.get("layer"), int):
            held[Source.of(made_of, "stored")].add(layer)
    sizes = {source: _size(store, source.made_of(model, layers[0])) for source in held if held[source] >= set(layers)}
    return dict(sorted(sizes.items(), key=lambda entry: (-entry[1], entry[0].corpus)))


def _size(store: Store, made_of: Mapping[str, object]) -> int:
    """Tokens of a sample: of text that ends early or is read as a whole, as many as were counted."""
    held = store.get("statistics", made_of)
    return 0 if held is None else int(held["count"])
