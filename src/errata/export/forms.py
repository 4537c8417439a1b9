"""The forms in which an edit can be exported, by the names that `errata export --to` knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from errata.errors import UnfitParts, UnknownName
from errata.export.base import Form
from errata.export.checkpoint import Checkpoint
from errata.export.gguf import Gguf
from errata.export.gguf_lora import GgufLora
from errata.export.lora import Lora

FORMS: dict[str, type[Form]] = {
    "checkpoint": Checkpoint,
    "gguf": Gguf,
    "gguf-lora": GgufLora,
    "lora": Lora,
}


def form_of(name: str, options: Mapping[str, Any]) -> Form:
    """A form with its options; those that are None are left at their default.

    Raises UnknownName for a form that is not in the table, UnfitParts for an option that it does not have.
    """
    if name not in FORMS:
        raise UnknownName("form", name, FORMS, see="`errata export --help`")
    given = {option: value for option, value in options.items() if value is not None}
    taken = {field.name for field in fields(FORMS[name])}  # type: ignore[arg-type]
    for option in given:
        if option not in taken:
            others = [other for other, kind in FORMS.items() if option in {f.name for f in fields(kind)}]  # type: ignore[arg-type]
            raise UnfitParts(f"--{option} is an option of {' and '.join(others)}, not of {name}. Nothing was written.")
    return FORMS[name](**given)
