"""Checkpoint: the base's folder with the edited matrices changed, and in `errata/` all that is needed to undo it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from transformers.utils import cached_file

from errata.decoder.decoder import Decoder
from errata.decoder.offload import names_once
from errata.delta import WeightDelta, write_tensors
from errata.editors.base import WeightEdit
from errata.errors import NotFinite, UnsupportedModel
from errata.export.base import Form, Written, changed, fitted, held_by, residual
from errata.export.card import card
from errata.export.copies import INSIDE, copied, files_of, is_left_out
from errata.files import check_folder, refuse_to_replace, whole_folder, write_text
from errata.shards import Shards, has_shards

RECORD, ORIGINAL, EDIT, BASE = "checkpoint.json", "original.safetensors", "edit", "base"
"""In the subfolder: digests of the base's files; edited tensors as they were; the edit; files that gave way."""
KIND = "errata.checkpoint"
CARD = "README.md"


@dataclass(frozen=True)
class Replaced:
    """An edited tensor of a file: its name there, its values before and after, as stored."""

    name: str
    before: Tensor
    after: Tensor

    @property
    def change(self) -> Tensor:
        """What was added in fact, after rounding, as it is stored."""
        wide = torch.promote_types(self.before.dtype, torch.float32)
        return self.after.to(wide) - self.before.to(wide)


@dataclass(frozen=True)
class Checkpoint(Form):
    """A folder that transformers, vLLM and others load: files, shards and dtype as the base has them."""

    summary: ClassVar[str] = "a whole model folder for transformers and vLLM, which `errata undo` turns back"

    def check(self, base: str, output: Path) -> None:
        refuse_to_replace(output)
        check_folder(output)

    def write(self, edit: WeightEdit, decoder: Decoder, output: Path) -> Written:
        self.check(decoder.name, output)
        decoder.check_unedited()
        edit, notes = fitted(edit, decoder)
        check_dense(edit.delta.changes, decoder)
        with changed(decoder, edit.delta):
            exact = held_by(decoder, edit.facts)
        with whole_folder(output) as made, source_of(decoder, made) as (source, own):
            shards = Shards(source)
            tensors = {name: replaced(name, edit, decoder, shards) for name in edit.delta.changes}
            with changed(decoder, _as_stored(edit, decoder, tensors)):
                held = held_by(decoder, edit.facts)
            left_out = _copy(shards, made, tensors)
            edit.save(made / INSIDE / EDIT)
            lines = [
                ("base", decoder.name),
                ("facts that hold", f"{len(held)} of {len(edit.facts)} ({len(exact)} with the edit itself)"),
                *_in_words(edit, decoder, tensors),
                ("to undo", "errata undo THIS -o FOLDER"),
            ]
            use = f"from transformers import AutoModelForCausalLM\nmodel = AutoModelForCausalLM.from_pretrained({THIS})"
            front = {"library_name": "transformers", "pipeline_tag": "text-generation"}
            write_text(made / CARD, card(edit, decoder.name, "An edit", use, lines, front))
        if not own:
            notes.append("the base has no safetensors files with these values; written as transformers writes it")
        if left_out:
            notes.append(f"left out, because they hold the unedited weights: {', '.join(left_out)}")
        return Written(lines, notes, complete=exact <= held)


THIS = '"THIS FOLDER"'


@contextmanager
def source_of(decoder: Decoder, made: Path) -> Iterator[tuple[Path, bool]]:
    """The folder that the decoder was loaded from, and True; or, if there is none that holds all its values as
    safetensors, one that is written from the decoder for the moment, and False.
    """
    folder = _folder_of(str(decoder.model.name_or_path))
    if folder and has_shards(folder) and holds_all(Shards(folder), decoder):
        yield folder, True
        return
    written = made.with_name(f"{made.name}-base")
    try:
        decoder.save(written)
        yield written, False
    finally:
        shutil.rmtree(written, ignore_errors=True)


def _folder_of(name: str) -> Path | None:
    """Where a model of this name was loaded from: a folder, or one of the hub's cache. None if from nowhere."""
    if not name or Path(name).is_dir():
        return Path(name) if name else None
    try:
        file = cached_file(name, "config.json", local_files_only=True, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):
        return None
    return Path(file).parent if file else None


def holds_all(shards: Shards, decoder: Decoder) -> bool:
    """Whether the files hold every value that the decoder computes with, one tensor at a time."""
    for parameter in names_once(decoder.model):
        own, name = decoder.weights.original(parameter).cpu(), find_name(shards, parameter)
        stored = None if name is None else shards[name]
        if stored is None or stored.shape != own.shape or not torch.equal(stored.to(own.dtype), own):
            return False
    return True


def check_dense(parameters: Iterable[str], decoder: Decoder) -> None:
    """Raises UnsupportedModel for a matrix that is stored in fewer bits: it would have to be quantised again."""
    for parameter in parameters:
        if not decoder.weights.is_dense(parameter):
            raise UnsupportedModel(
                f"{decoder.name} is stored in fewer bits; a checkpoint would have to quantise {parameter} again. "
                "Nothing was written. Use --to lora."
            )


def replaced(parameter: str, edit: WeightEdit, decoder: Decoder, shards: Shards) -> Replaced:
    """An edited tensor in its file. Raises UnsupportedModel, NotFinite."""
    name = find_name(shards, parameter)
    if name is None:
        raise UnsupportedModel(f"{shards.folder}: its files have no tensor for {parameter}. Nothing was written.")
    before = shards[name]
    change = edit.delta.changes[parameter].cpu()
    exact = torch.promote_types(before.dtype, torch.promote_types(change.dtype, torch.float32))
    change = change.T if decoder.weights.is_transposed(parameter) else change
    after = (before.to(exact) + change.to(exact)).to(before.dtype)
    if not torch.isfinite(after).all():
        raise NotFinite(f"{name}: the edited matrix has values too large for {before.dtype}. Nothing was written.")
    return Replaced(name, before, after)


def find_name(shards: Shards, parameter: str) -> str | None:
    """The name of a parameter in the files, where its beginning may be another; None if there is no or no single one.

    For `transformer.h.3.mlp.c_proj.weight` also what ends in `h.3.mlp.c_proj.weight`.
    """
    if parameter in shards:
        return parameter
    parts = parameter.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdecimal()), len(parts) - 1)
    ending = "." + ".".join(parts[max(0, number - 1) :])
    alike = [name for name in shards if f".{name}".endswith(ending)]
    return alike[0] if len(alike) == 1 else None


def _as_stored(edit: WeightEdit, decoder: Decoder, tensors: Mapping[str, Replaced]) -> WeightDelta:
    turned = decoder.weights.is_transposed
    changes = {name: one.change.T if turned(name) else one.change for name, one in tensors.items()}
    return WeightDelta(edit.delta.fingerprint, changes)


def _copy(shards: Shards, made: Path, tensors: Mapping[str, Replaced]) -> list[str]:
    """Every file of the base into the new folder, and into `errata/` what undoes it. Returns what was left out."""
    over = {shards.places[one.name]: one.after for one in tensors.values()}
    digests, left_out = {}, []
    for file in files_of(shards.folder):
        if is_left_out(file, shards):
            left_out.append(file)
            continue
        gives_way = file == CARD or file.startswith(f"{INSIDE}/")
        target = made / INSIDE / BASE / file if gives_way else made / file
        here = {place: tensor for place, tensor in over.items() if place.file == file}
        digests[file] = copied(shards.folder / file, target, here)
    originals = {one.name: one.before.contiguous() for one in tensors.values()}
    write_tensors(made / INSIDE / ORIGINAL, originals, {"kind": "errata.original"})
    record = {"kind": KIND, "files": digests, "shards": shards.files}
    write_text(made / INSIDE / RECORD, json.dumps(record, indent=1))
    return left_out


def _in_words(edit: WeightEdit, decoder: Decoder, tensors: Mapping[str, Replaced]) -> Iterator[tuple[str, object]]:
    stored = _as_stored(edit, decoder, tensors).changes
    lost = residual(edit, decoder, {name: stored[name] - edit.delta.changes[name].to(stored[name]) for name in stored})
    dtypes = ", ".join(sorted({str(one.before.dtype).removeprefix("torch.") for one in tensors.values()}))
    if lost is not None:
        yield "rounding", f"to {dtypes} changes {lost:.2%} of what the edit does to its keys"
    size = sum(one.before.nbytes for one in tensors.values())
    yield "changed", f"{len(tensors)} matrices"
    yield "originals kept", f"{size / 1e6:.1f} MB in {INSIDE}/{ORIGINAL}"
