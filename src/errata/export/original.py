"""The original: what a checkpoint that errata wrote was before, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ValidationError

from errata.delta import read_tensors
from errata.errors import StoreError
from errata.export.base import Written
from errata.export.checkpoint import BASE, CARD, KIND, ORIGINAL, RECORD
from errata.export.copies import INSIDE, copied, digest_of, files_of
from errata.files import whole_folder
from errata.shards import Shards


class Record(BaseModel):
    """What `checkpoint.json` says: the digest of each file of the base, and which of them hold the weights."""

    kind: str
    files: dict[str, str]
    shards: list[str]


def read_record(checkpoint: Path) -> Record:
    """Raises StoreError if the folder is not a checkpoint that errata wrote."""
    path = checkpoint / INSIDE / RECORD
    try:
        record = Record.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, ValidationError) as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}"
        raise StoreError(
            f"{checkpoint}: not a checkpoint that errata wrote: {INSIDE}/{RECORD} could not be read ({reason}). Only "
            "those of `errata apply` and `errata export --to checkpoint` keep what undoes them."
        ) from None
    if record.kind != KIND:
        raise StoreError(f'{path}: does not say "kind": "{KIND}"; this is no checkpoint that errata wrote.')
    return record


def write_original(checkpoint: Path, output: Path) -> Written:
    """Write the base of a checkpoint to a new folder. Raises StoreError if its weights would not be the base's."""
    record, shards = read_record(checkpoint), Shards(checkpoint)
    originals, _ = read_tensors(checkpoint / INSIDE / ORIGINAL)
    if strange := [name for name, tensor in originals.items() if not _fits(shards, name, tensor.shape)]:
        raise StoreError(
            f"{checkpoint}: {strange[0]} of {INSIDE}/{ORIGINAL} is not in the checkpoint. Nothing written."
        )
    over = {shards.places[name]: tensor for name, tensor in originals.items()}
    differing = []
    with whole_folder(output) as made:
        for file, source in _files(checkpoint).items():
            copied(source, made / file, {place: tensor for place, tensor in over.items() if place.file == file})
            if file in record.files and digest_of(made / file) != record.files[file]:
                differing.append(file)
        _check(checkpoint, made, record, differing)
    notes = [f"changed since, and copied as it is now: {file}" for file in differing]
    added = [file for file in _files(checkpoint) if file not in record.files]
    notes += [f"not in the base, and copied as it is: {file}" for file in added]
    same = len(record.files) - len(differing)
    return Written(
        [("restored", f"{len(originals)} matrices"), ("as in the base", f"{same} files, bit for bit")], notes
    )


def _fits(shards: Shards, name: str, shape: Sequence[int]) -> bool:
    return name in shards and shards.places[name].shape == tuple(shape)


def _files(checkpoint: Path) -> dict[str, Path]:
    """Name in the base -> file that becomes it."""
    found = {}
    for file in files_of(checkpoint):
        parts = PurePosixPath(file).parts
        if parts[:2] == (INSIDE, BASE):
            found["/".join(parts[2:])] = checkpoint / file
        elif parts[0] != INSIDE and file != CARD:
            found[file] = checkpoint / file
    return found


def _check(checkpoint: Path, made: Path, record: Record, differing: Sequence[str]) -> None:
    """Raises StoreError unless every file of the base is there and its weights are the base's."""
    for file in record.files:
        if not (made / file).is_file():
            raise StoreError(f"{checkpoint}: {file} of the base is no longer there. Nothing was written.")
    if changed := [file for file in differing if file in record.shards]:
        raise StoreError(
            f"{checkpoint}: {changed[0]} was changed by something else since errata wrote it, so that its original "
            "cannot be restored. Nothing was written."
        )
