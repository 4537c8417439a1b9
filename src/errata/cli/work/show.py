"""The parts of errata show: a saved edit described as JSON types, and printed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from errata.cli.console import write_out
from errata.editors.base import WeightEdit
from errata.editors.folder import LEDGER, VERDICT, is_edit
from errata.editors.saved import load_edit
from errata.editors.side_memory import SideMemory
from errata.errors import StoreError
from errata.export.checkpoint import EDIT
from errata.export.copies import INSIDE
from errata.record.tables import Table
from errata.record.verdict import Verdict

SHOWN = 10
"""Facts printed."""
KEPT = ("method", "model", "dtype", "window", "notes", "taken_back", "versions")
"""What of a manifest is shown as it is."""


def edit_in(folder: Path) -> Path:
    """The folder of the edit: itself, or within a checkpoint that errata wrote. Raises StoreError."""
    inside = folder / INSIDE / EDIT
    if not is_edit(folder) and is_edit(inside):
        return inside
    return folder


def described(folder: Path) -> dict[str, Any]:
    """A saved edit in JSON types. Raises StoreError."""
    edit = load_edit(folder)
    said = {key: edit.manifest[key] for key in KEPT if key in edit.manifest}
    facts = [{"prompt": fact.text, "target": fact.target_new} for fact in edit.facts]
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    matrices, base = [], ""
    if isinstance(edit, WeightEdit):
        base = edit.delta.fingerprint
        for name, change in edit.delta.changes.items():
            matrices.append({"name": name, "shape": list(change.shape), "size": float(change.double().norm())})
    elif isinstance(edit, SideMemory):
        base = edit.fingerprint
    return {
        "folder": str(folder),
        "kind": type(edit).__name__,
        **said,
        "fingerprint": base,
        "facts": facts,
        "matrices": matrices,
        "verdict": _verdict(folder),
        "left": _left(folder),
        "combined": len(_listed(edit.manifest.get("combined"))),
        "bytes": size,
    }


def in_words(said: Mapping[str, Any]) -> list[tuple[str, object]]:
    """Names and values to print."""
    kinds = {
        "WeightEdit": "a change of weights",
        "SideMemory": "a side memory, which leaves all weights as they are",
    }
    versions = said.get("versions")
    version = versions.get("errata") if isinstance(versions, Mapping) else None
    rows: list[tuple[str, object]] = [
        ("edit", f"{said['folder']}, {kinds.get(said['kind'], said['kind'])}, {said['bytes'] / 1e6:.1f} MB"),
        ("method", said.get("method", "-")),
        ("base", f"{said.get('model', '-')} in {said.get('dtype', '-')}"),
        ("fingerprint", said["fingerprint"]),
        ("layers", _layers(said.get("window"))),
        ("facts", len(said["facts"])),
    ]
    if version:
        rows.append(("made with", f"errata {version}"))
    if said["combined"]:
        rows.append(("combined from", f"{said['combined']} edits"))
    if said["verdict"]:
        rows += [("verdict", part) for part in said["verdict"]["line"].split("; ")]
    rows += [("left of the way", f"{said['left']:.2f} after the last layer")] if said["left"] is not None else []
    return rows + [("note", note) for note in _listed(said.get("notes"))]


def fact_table(said: Mapping[str, Any]) -> Table:
    """Facts, and whether each was seen to hold, where that was kept."""
    rows = [[fact["prompt"], fact["target"]] for fact in said["facts"][:SHOWN]]
    if said["verdict"] is None:
        return Table.plain(["prompt", "continued by"], rows, 2)
    held = {(fact["prompt"], fact["wanted"]): fact["holds"] for fact in said["verdict"]["facts"]}
    words = {True: "holds", False: "missed", None: "-"}
    return Table.plain(["prompt", "continued by", ""], [[*row, words[held.get(tuple(row))]] for row in rows], 3)


def matrix_table(said: Mapping[str, Any]) -> Table:
    rows = [[one["name"], " x ".join(map(str, one["shape"])), f"{one['size']:.3g}"] for one in said["matrices"]]
    return Table.plain(["changed matrix", "shape", "|dW|"], rows, 1)


def print_json(said: object) -> None:
    """In ASCII: what a terminal would obey, of whatever script, is escaped as JSON escapes it."""
    write_out(json.dumps(said, indent=2))


def _listed(value: object) -> list[Any]:
    """A list of a manifest; empty if it is none, because anybody may have written it."""
    return value if isinstance(value, list) else []


def _layers(window: object) -> str:
    return ", ".join(map(str, window)) if isinstance(window, Sequence) and not isinstance(window, str) else "-"


def _verdict(folder: Path) -> dict[str, Any] | None:
    """What the edited model was seen to say when the edit was made; None if it was not kept. Raises StoreError."""
    path = folder / VERDICT
    if not path.is_file():
        return None
    try:
        return Verdict.from_json(json.loads(path.read_text(encoding="utf-8"))).to_json()
    except (OSError, ValueError, RecursionError, StoreError) as error:
        raise StoreError(f"{path}: could not be read ({str(error)[:200]}). Delete it to see the rest.") from None


def _left(folder: Path) -> float | None:
    """What the ledger says is left of the way to the targets after the last step; None without one."""
    try:
        ledgers = json.loads((folder / LEDGER).read_text(encoding="utf-8"))
        rows = next(iter(ledgers.values()))["rows"]
        return float(list(rows[-1]["remaining"].values())[-1])
    except (OSError, ValueError, LookupError, StopIteration, TypeError, AttributeError, RecursionError):
        return None
