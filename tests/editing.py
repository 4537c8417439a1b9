"""Tiny decoders ready to edit, of both orientations: Linear with BOS and Conv1D without."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

from transformers import PreTrainedModel

from errata import Contexts, Corpus, Decoder, Editor, Recipe, Store
from errata.method import Method
from errata.targets import AnchorSettings
from tests.models import FAMILIES, TINY_GROUPS, tiny_corpus, tokenizer_of

BOTH = ("llama", "gpt2")
CONTEXTS = Contexts(TINY_GROUPS)
ANCHOR = AnchorSettings(learning_rate=0.3, steps=6)
RECIPE = Recipe("tiny", (1, 2, 3), anchor=ANCHOR, solvers={"least_squares": {"weight": 1.0, "ridge": 0.01}})


@cache
def _built(family: str) -> PreTrainedModel:
    return FAMILIES[family]()


def decoder_of(family: str) -> Decoder:
    """A new float64 decoder of five blocks."""
    return Decoder(deepcopy(_built(family)), tokenizer_of(family))


def editor_of(decoder: Decoder, method: str | Method, **options: Any) -> Editor:
    """An editor with the tiny recipe, contexts and corpus, and a store of its own unless one is given."""
    defaults: dict[str, Any] = {
        "recipe": RECIPE,
        "contexts": CONTEXTS,
        "corpus": Corpus.of(tiny_corpus()),
        "store": Store.nowhere(),
    }
    return Editor(decoder, method, **(defaults | options))
