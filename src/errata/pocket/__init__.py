"""A language model of a few megabytes that knows a few thousand real facts, with the facts and their wordings.

`path()` is an ordinary Hugging Face checkpoint (LlamaForCausalLM with its tokenizer); the rest is data. Importing
this costs no torch. In the repository, `python -m tools.pocket.build` builds the checkpoint again and
`python -m tools.pocket.quality` measures what it knows.
"""

from __future__ import annotations

from pathlib import Path

from errata.pocket.counterfactuals import Counterfactual, counterfactual
from errata.pocket.facts import PocketFact, Split, corpus, facts, far, neighbours, objects, relations

__all__ = [
    "Counterfactual",
    "PocketFact",
    "Split",
    "corpus",
    "counterfactual",
    "facts",
    "far",
    "neighbours",
    "objects",
    "path",
    "relations",
]


def path() -> Path:
    """The folder of the shipped checkpoint, for `from_pretrained`."""
    return Path(__file__).parent / "model"
