"""Gguf: an edit written into the GGUF file of the model that it was made for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from errata.decoder.decoder import Decoder
from errata.decoder.gguf import SUFFIX, check_installed, open_gguf, types_in
from errata.editors.base import WeightEdit
from errata.errors import ModelError, StoreError, UnknownName
from errata.export.base import Form, Written, changed, fitted, held_by
from errata.fact import Fact
from errata.files import check_file

if TYPE_CHECKING:
    from errata.export.rounding import Rounded


@dataclass(frozen=True)
class Gguf(Form):
    """A GGUF file that is the base's but for the edited matrices.

    `type`: how these are stored, `same` for as the file has them. None: the smallest type, but none smaller than what
    the file has, with which every fact holds that holds with the exact edit.
    """

    type: str | None = None
    summary: ClassVar[str] = "the base's GGUF file with the edited matrices changed, for llama.cpp, Ollama, LM Studio"

    def check(self, base: str, output: Path) -> None:
        """Raises StoreError, UnknownName, or ModelError for a base that is no GGUF file."""
        if not base.lower().endswith(SUFFIX):
            raise ModelError(f"{base}: not a GGUF file. Name the file that the edit is to be written into: --base FILE")
        check_installed(base)
        from errata.export.rounding import SAME, WRITABLE

        if self.type is not None and self.type not in (SAME, *WRITABLE):
            raise UnknownName("type", self.type, (SAME, *WRITABLE))
        if os.path.lexists(output):
            same = os.path.exists(base) and os.path.exists(output) and os.path.samefile(base, output)
            state = "is the base itself" if same else "exists"
            raise StoreError(f"{output} {state}; nothing was written. Choose another name for the edited file.")
        check_file(output)

    def write(self, edit: WeightEdit, decoder: Decoder, output: Path) -> Written:
        from errata.export.rounding import rounded, smallest, tensors_of, types_to_try
        from errata.export.stored import check_written, write_with

        self.check(decoder.name, output)
        decoder.check_unedited()
        edit, notes = fitted(edit, decoder)
        reader = open_gguf(decoder.name)
        tensors = tensors_of(edit, decoder, reader)
        with changed(decoder, edit.delta):
            exact = held_by(decoder, edit.facts)
        types = [self.type] if self.type else types_to_try(tensors)
        tried = [rounded(edit, decoder, tensors, type) for type in types]
        chosen = smallest(tried, exact)
        replaced = {tensors[parameter].name: matrix for parameter, matrix in chosen.matrices.items()}
        write_with(reader, replaced, output)
        check_written(output, reader, replaced)
        again = held_by(Decoder.from_pretrained(output, dtype=decoder.dtype, device=decoder.device), edit.facts)
        lost = exact - again
        notes += [
            f"lost by storing it as {chosen.types}: {fact.text} {fact.target_new}" for fact in facts_of(edit, lost)
        ]
        lines = [
            ("base", f"{decoder.name} ({types_in(reader)})"),
            ("exact edit", f"{len(exact)} of {len(edit.facts)} facts hold"),
            *((f"in {one.types}", _in_words(one, exact)) for one in tried if one.matrices),
            ("written", _places(chosen, list(replaced))),
            ("read back", f"{len(again)} of {len(edit.facts)} facts hold"),
        ]
        return Written(lines, notes, complete=not lost)


def facts_of(edit: WeightEdit, some: frozenset[Fact]) -> list[Fact]:
    """Some of an edit's facts, in its order."""
    return [fact for fact in edit.facts if fact in some]


def _in_words(one: Rounded, exact: frozenset[Fact]) -> str:
    """`17 of these hold; rounding takes 12.3% of what the edit adds at its keys; 2.8 MB for the edited matrices`."""
    takes = "" if one.residual is None else f"; rounding takes {one.residual:.1%} of what the edit adds at its keys"
    return f"{len(exact & one.held)} of these {len(exact)} hold{takes}; {one.size / 1e6:.1f} MB"


def _places(chosen: Rounded, names: Sequence[str]) -> str:
    if not names:
        return "an exact copy of the base, because the edit changes nothing"
    more = "" if len(names) == 1 else f" to {names[-1]}"
    return f"{names[0]}{more} in {chosen.types}, all else as in the base"
