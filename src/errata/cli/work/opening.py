"""What a command line names: the model, its recipe, texts, and cases to train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from errata import pocket
from errata.cli.console import warn
from errata.dataset import OnConflict, named_cases
from errata.decoder.corpus import Corpus
from errata.decoder.decoder import Decoder
from errata.decoder.layout import DecoderLayout
from errata.errors import BadRecord
from errata.evaluate import Case
from errata.method import Method
from errata.methods import METHODS
from errata.plugins import read_plugin
from errata.pocket.cases import cases as pocket_cases
from errata.recipe import Recipe, parse_window, recipe_for

PRACTISED = 200
"""How many cases of the pocket model's tuning half a method is trained on."""


def open_decoder(
    model: str,
    dtype: str | None = None,
    device: str | None = None,
    trust: bool = False,
    layout: Path | None = None,
) -> Decoder:
    """The model named on the command line; `layout` is the file of one that errata does not know."""
    parts = None if layout is None else DecoderLayout.read(layout)
    transformers_logging.disable_progress_bar()
    if model != "pocket":
        where: dict[str, Any] = {"device_map": "auto"} if device == "auto" else {"device": device}
        return Decoder.from_pretrained(model, dtype=dtype, **where, layout=parts, trust_remote_code=trust)
    # Stored in bf16 to be small, run in float32: CPUs without bf16 units are tens of times slower in it.
    decoder = Decoder.from_pretrained(
        pocket.path(), dtype=dtype or "float32", device=None if device == "auto" else device, layout=parts
    )
    decoder.name = "pocket"
    return decoder


def table_of(plugin: Path | None) -> Mapping[str, Method]:
    """The published methods, and those of a file of the user's own. Raises BadPlugin."""
    return METHODS if plugin is None else {**METHODS, **read_plugin(plugin, METHODS)}


def recipe_of(decoder: Decoder, name: str | None, window: str | None) -> Recipe:
    """The recipe to use, with the window replaced if one is given."""
    recipe = recipe_for(decoder, name)
    return recipe.with_window(parse_window(window)) if window else recipe


def corpus_of(model: str, name: str | None) -> Corpus | None:
    """The corpus named, or the pocket model's own."""
    if name is not None:
        return Corpus.named(name)
    return Corpus.of(pocket.corpus()) if model == "pocket" else None


def in_form(cases: Sequence[Case], chat: bool, system: str | None, end: bool) -> Sequence[Case]:
    """The cases as they are to be asked: as they are written, or as the user's turn of a chat. Raises BadRecord."""
    if chat:
        turns = (("system", system),) if system is not None else ()
        return [case.asked_as_chat(turns, end) for case in cases]
    if system is not None:
        raise BadRecord("--system is for facts that are asked in a chat; give --chat too")
    return [replace(case, fact=replace(case.fact, end=True)) for case in cases] if end else cases


def practice_of(model: str, name: str | None, on_conflict: OnConflict = "refuse") -> Sequence[Case]:
    """The cases named, or for the pocket model those of its tuning half; empty if there are none."""
    if name is not None:
        return named_cases(name, on_conflict=on_conflict, note=warn)
    return pocket_cases(PRACTISED, split="tuning") if model == "pocket" else ()
