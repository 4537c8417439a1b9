"""errata changes what a language model believes by editing its weights.

Names are loaded when they are first used, so that `import errata` does not wait for torch and transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from errata.dataset.read import read_facts
    from errata.decoder.contexts import generate_contexts
    from errata.decoder.corpus import Corpus
    from errata.decoder.decoder import Decoder
    from errata.decoder.layout import DecoderLayout
    from errata.decoder.site import Contexts
    from errata.delta import WeightDelta
    from errata.editor import Editor, take
    from errata.editors.base import Edit, Ledger, Outcome, WeightEdit, combine
    from errata.editors.saved import load_edit
    from errata.editors.side_memory import SideMemory
    from errata.errors import ErrataError
    from errata.fact import Fact
    from errata.fleet import Fleet
    from errata.methods import METHODS
    from errata.recipe import Recipe, recipe_for
    from errata.record.path import EditPath
    from errata.record.verdict import Verdict
    from errata.statistics import KeyStatistics
    from errata.store import Store

__all__ = [
    "METHODS",
    "Contexts",
    "Corpus",
    "Decoder",
    "DecoderLayout",
    "Edit",
    "EditPath",
    "Editor",
    "ErrataError",
    "Fact",
    "Fleet",
    "KeyStatistics",
    "Ledger",
    "Outcome",
    "Recipe",
    "SideMemory",
    "Store",
    "Verdict",
    "WeightDelta",
    "WeightEdit",
    "combine",
    "generate_contexts",
    "load_edit",
    "read_facts",
    "recipe_for",
    "take",
]

_HOMES = {
    "dataset.read": ("read_facts",),
    "decoder.contexts": ("generate_contexts",),
    "decoder.corpus": ("Corpus",),
    "decoder.decoder": ("Decoder",),
    "decoder.layout": ("DecoderLayout",),
    "decoder.site": ("Contexts",),
    "delta": ("WeightDelta",),
    "editor": ("Editor", "take"),
    "editors.base": ("Edit", "Ledger", "Outcome", "WeightEdit", "combine"),
    "editors.saved": ("load_edit",),
    "editors.side_memory": ("SideMemory",),
    "errors": ("ErrataError",),
    "fact": ("Fact",),
    "fleet": ("Fleet",),
    "methods": ("METHODS",),
    "recipe": ("Recipe", "recipe_for"),
    "record.path": ("EditPath",),
    "record.verdict": ("Verdict",),
    "statistics": ("KeyStatistics",),
    "store": ("Store",),
}
_HOME = {name: f"errata.{module}" for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'errata' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
