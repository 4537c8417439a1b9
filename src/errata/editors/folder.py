"""The folder of a saved edit: what it holds, how it is known, when it may be replaced, and its card to read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from errata.delta import read_tensors
from errata.errors import StoreError, in_words
from errata.fact import Fact
from errata.files import recover, whole_folder, write_text
from errata.visible import code, markdown

DELTA, KEYS, MEMORY = "edit.safetensors", "keys.safetensors", "memory.safetensors"
ANCHORS = "anchors.safetensors"
MANIFEST, CARD, LEDGER, VERDICT = "manifest.json", "README.md", "ledger.json", "verdict.json"
FILES = {DELTA, KEYS, ANCHORS, MEMORY, MANIFEST, CARD, LEDGER, VERDICT}
"""All that the folder of an edit can hold."""
KIND = "errata.edit"
"""What the manifest of an edit says it is: other programs have manifests too."""
_FACTS = TypeAdapter(list[Fact])
ON_CARD = 20
"""Facts shown on the card; all of them are in the manifest."""


@contextmanager
def edit_folder(
    folder: str | Path, manifest: Mapping[str, Any], ledgers: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """A folder with a manifest, and a ledger by method if there is one, to put an edit's other files into; whole or
    not at all. Raises StoreError.

    It takes the place of an earlier edit, and of nothing else.
    """
    with whole_folder(folder, check_replaceable) as made:
        text = json.dumps({"kind": KIND, **manifest}, indent=2, ensure_ascii=False)
        write_text(made / MANIFEST, text)
        if ledgers is not None:
            write_text(made / LEDGER, json.dumps(ledgers, indent=1))
        yield made


def amend(folder: Path, **entries: object) -> None:
    """Add entries to the manifest of a saved edit. Raises StoreError."""
    manifest = {"kind": KIND, **read_manifest(folder), **entries}
    write_text(folder / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False))


def check_replaceable(folder: Path) -> None:
    """Raises StoreError if the folder is anything but a saved edit, or holds anything else too."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StoreError(f"{folder} is a file; nothing was written. Choose another folder for the edit.")
    held = sorted(path.name for path in folder.iterdir())
    if held and not is_edit(folder):
        raise StoreError(f"{folder} exists and is not an edit; nothing was written. Choose another folder.")
    if foreign := [name for name in held if name not in FILES]:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise StoreError(
            f"{folder} is an edit but also holds {foreign[0]!r}{more}, which replacing it would delete; nothing was "
            "written. Move that away or choose another folder."
        )


def is_edit(folder: Path) -> bool:
    """Whether the folder has the manifest of an edit."""
    try:
        read_manifest(folder)
    except StoreError:
        return False
    return True


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the manifest of a saved edit says. Raises StoreError if there is none."""
    recover(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        raise StoreError(f"{folder}: not a saved edit: {MANIFEST} could not be read ({reason})") from error
    if not isinstance(manifest, dict) or manifest.pop("kind", None) != KIND:
        raise StoreError(f'{folder}: not a saved edit: its {MANIFEST} does not say "kind": "{KIND}"')
    return manifest


def facts_in(manifest: Mapping[str, Any], folder: str | Path = "an edit") -> list[Fact]:
    """The facts that a manifest lists. Raises StoreError if they are not facts."""
    try:
        return _FACTS.validate_python(manifest.get("facts", []))
    except ValidationError as error:
        raise StoreError(f"{folder}: the facts in {MANIFEST} cannot be read: {in_words(error.errors()[0])}") from None


def matrices_by_layer(path: Path, rows: int) -> dict[int, Tensor]:
    """Layer -> matrix of numbers, with a row per fact. Raises StoreError for a file that holds anything else."""
    tensors = read_tensors(path)[0]
    for name, matrix in tensors.items():
        if not name.isdecimal() or matrix.ndim != 2 or not matrix.is_floating_point():
            raise StoreError(f"{path}: holds {name!r} {list(matrix.shape)}; expected a matrix for each layer's number")
        if not torch.isfinite(matrix).all():
            raise StoreError(f"{path}: layer {name} holds NaN or infinite values; the edit is damaged")
        if rows and len(matrix) != rows:
            raise StoreError(f"{path}: layer {name} has {len(matrix)} rows; the manifest lists {rows} facts")
    return {int(name): matrix for name, matrix in tensors.items()}


def anchors_at(path: Path) -> dict[str, Tensor]:
    """Anchors as `errata.editors.anchors.to_tensors` gives them; none without a file. Raises StoreError."""
    if not path.exists():
        return {}
    tensors = read_tensors(path)[0]
    names, states, parts = (tensors.get(name) for name in ("names", "states", "parts"))
    whole = (
        names is not None and states is not None and parts is not None
        and names.dtype == torch.uint8 and names.shape[1:] == (16,)
        and states.is_floating_point() and states.ndim == 2
        and parts.is_floating_point() and parts.shape[1:] == (4,)
        and len(names) == len(states) == len(parts)
    )  # fmt: skip
    if not whole or not torch.isfinite(tensors["states"]).all() or not torch.isfinite(tensors["parts"]).all():
        raise StoreError(f"{path}: does not hold a name, a finite state and its loss for each anchor; it is damaged")
    return tensors


def check_widths(changes: Mapping[str, Tensor], keys: Mapping[int, Tensor], anchors: Mapping[str, Tensor]) -> None:
    """Raises StoreError for keys and anchors of another width than the changed matrices [model, inner] have."""
    models, inners = ({change.shape[side] for change in changes.values() if change.ndim == 2} for side in (0, 1))
    if odd := [layer for layer, rows in keys.items() if rows.shape[1] not in inners]:
        raise StoreError(f"the keys of layer {odd[0]} are {keys[odd[0]].shape[1]} wide; the changes take {inners}")
    if anchors and anchors["states"].shape[1] not in models:
        raise StoreError(f"the anchors are {anchors['states'].shape[1]} wide; the changes give {models}")


def card(manifest: Mapping[str, Any], facts: Sequence[Fact], fingerprint: str) -> str:
    """An edit in words, as Markdown. What it quotes is shown as it is and is never markup, whoever wrote it."""
    model, versions = manifest.get("model"), manifest.get("versions")
    version = versions.get("errata") if isinstance(versions, Mapping) else None
    rows = "\n".join(f"| {markdown(fact.text)} | {markdown(fact.target_new)} |" for fact in facts[:ON_CARD])
    more = f"\n\n... and {len(facts) - ON_CARD} more in `{MANIFEST}`." if len(facts) > ON_CARD else ""
    return (
        f"# An edit of {markdown(model)}\n\n"
        f"{len(facts)} facts, method {code(manifest.get('method'))}, layers {markdown(manifest.get('window'))}, "
        f"errata {markdown(version)}.\n"
        f"For weights with fingerprint {code(fingerprint)} and no others.\n\n"
        "```python\nimport errata\n\n"
        f"decoder = errata.Decoder.from_pretrained({str(model)!r})\n"
        'edit = errata.WeightEdit.load("THIS FOLDER")\n'
        "edit.put_on(decoder)   # edit.take_off(decoder) undoes it\n```\n\n"
        f"| prompt | continued by |\n|---|---|\n{rows}{more}\n"
    )
