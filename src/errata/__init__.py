"""errata changes what a language model believes by editing its weights."""

from errata.decoder.contexts import generate_contexts
from errata.decoder.corpus import Corpus
from errata.decoder.decoder import Decoder
from errata.decoder.layout import DecoderLayout
from errata.decoder.site import Contexts
from errata.delta import WeightDelta
from errata.editor import Editor
from errata.editors.base import Edit, Ledger, Outcome, WeightEdit
from errata.editors.saved import load_edit
from errata.editors.side_memory import SideMemory
from errata.errors import ErrataError
from errata.fact import Fact, read_facts
from errata.fleet import Fleet
from errata.methods import METHODS
from errata.recipe import Recipe, recipe_for
from errata.statistics import KeyStatistics
from errata.store import Store

__all__ = [
    "METHODS",
    "Contexts",
    "Corpus",
    "Decoder",
    "DecoderLayout",
    "Edit",
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
    "WeightDelta",
    "WeightEdit",
    "generate_contexts",
    "load_edit",
    "read_facts",
    "recipe_for",
]
