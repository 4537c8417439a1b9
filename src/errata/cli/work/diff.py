"""The parts of errata diff: opening two sides, comparing them, and what is printed."""

from __future__ import annotations

import filecmp
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils import cached_file

from errata import pocket
from errata.difference import BROAD, IDENTICAL, SURGICAL, Difference, difference
from errata.editors.base import WeightEdit
from errata.editors.folder import CARD, is_edit
from errata.editors.saved import load_edit
from errata.editors.supplies import Progress
from errata.errors import StoreError, WrongEdit
from errata.export.copies import INSIDE, files_of
from errata.record.tables import Table
from errata.shards import INDEX, Shards

SHOWN = 20
"""Tensors printed, those that changed most."""

MEANING = {
    IDENTICAL: "every tensor has the same values",
    SURGICAL: "few matrices changed, each slightly and in few ranks",
    BROAD: "many tensors changed, or some of them much or in many ranks",
}


@dataclass(frozen=True)
class Sides:
    """What is compared, tensor by tensor; `files`: files other than weights that differ between two checkpoints."""

    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    files: list[str]
    unit: str = "tensors"


def sides(first: str, second: str) -> Sides:
    """Two checkpoints, or two edits. Raises StoreError, or WrongEdit for one of each."""
    edits = [is_edit(Path(name)) for name in (first, second)]
    if all(edits):
        return _edits(first, second)
    if any(edits):
        edit = first if edits[0] else second
        raise WrongEdit(
            f"{edit} is an edit and the other a checkpoint; only like can be compared with like. "
            "Write the edit as a checkpoint first: errata apply MODEL EDIT -o FOLDER."
        )
    folders = _folder(first), _folder(second)
    return Sides(Shards(folders[0]), Shards(folders[1]), _differing(*folders))


def _edits(first: str, second: str) -> Sides:
    """Their changes; where only one of them changes a matrix, the other's change is zero."""
    one, other = load_edit(first), load_edit(second)
    if not isinstance(one, WeightEdit) or not isinstance(other, WeightEdit):
        raise WrongEdit("only edits that change weights can be compared; one of these is a side memory.")
    if one.delta.fingerprint != other.delta.fingerprint:
        raise WrongEdit(
            f"these edits are of different weights: {one.delta.fingerprint} and {other.delta.fingerprint}. "
            "Only edits of one model can be compared."
        )
    ours, theirs = dict(one.delta.changes), dict(other.delta.changes)
    zeros = {name: torch.zeros_like(change) for name, change in {**theirs, **ours}.items()}
    return Sides({**zeros, **ours}, {**zeros, **theirs}, [], "changed matrices")


def _folder(name: str) -> Path:
    """A checkpoint's folder. Raises StoreError for what is neither a folder nor a model in the hub's cache."""
    if name == "pocket":
        return Path(pocket.path())
    if Path(name).is_dir():
        return Path(name)
    if Path(name).exists():
        raise StoreError(f"{name} is a file, expected a folder with safetensors files, or a saved edit.")
    file = None
    for wanted in ("config.json", INDEX):
        file = file or _cached(name, wanted)
    if file is None:
        raise StoreError(f"{name}: there is no such folder, and no model of this name has been downloaded.")
    return Path(file).parent


def _cached(name: str, file: str) -> str | None:
    try:
        path: str | None = cached_file(name, file, local_files_only=True, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError):
        return None
    return path


def _differing(first: Path, second: Path) -> list[str]:
    """Files on both sides, no weights, whose bytes differ. What errata adds to a checkpoint is not counted."""
    theirs = set(files_of(second))
    shared = [file for file in files_of(first) if file in theirs and not file.startswith(f"{INSIDE}/")]
    plain = [file for file in shared if not file.endswith((".safetensors", ".bin", INDEX)) and file != CARD]
    return [file for file in plain if not filecmp.cmp(first / file, second / file, shallow=False)]


def compared(pair: Sides, tell: Progress) -> Difference:
    return difference(pair.first, pair.second, lambda done, total: tell("comparing tensors", done, total))


def difference_table(result: Difference) -> Table:
    """The tensors that changed most, the largest first."""
    most = sorted(result.changes, key=lambda change: -(change.relative or float("inf")))[:SHOWN]
    rows = [
        [
            change.name,
            f"{change.size:.3g}",
            "-" if change.relative is None else f"{change.relative:.2%}",
            "-" if change.rank is None else f"{change.rank} of {change.ranks}",
        ]
        for change in most
    ]
    return Table.plain(["tensor", "change", "of its size", "ranks"], rows)


def in_words(result: Difference, pair: Sides) -> list[tuple[str, object]]:
    """Names and values to print."""
    layers = f", in layers {', '.join(map(str, result.layers))}" if result.layers else ""
    rows: list[tuple[str, object]] = [
        ("changed", f"{len(result.changes)} of {result.compared} {pair.unit}{layers}"),
    ]
    for name, tensors in (
        ("only in the first", result.removed),
        ("only in the second", result.added),
        ("of another shape", result.reshaped),
        ("equal, in another dtype", result.retyped),
    ):
        if tensors:
            rows.append((name, f"{len(tensors)} tensors, such as {tensors[0]}"))
    if pair.files:
        rows.append(("other files that differ", ", ".join(pair.files)))
    return [*rows, ("verdict", f"{result.verdict}: {MEANING[result.verdict]}")]
