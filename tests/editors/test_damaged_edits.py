"""A saved edit that is damaged is refused in one line, whatever is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from errata import SideMemory, load_edit
from errata.editors.side_memory import Side
from errata.errors import StoreError
from tests.editing import decoder_of, editor_of
from tests.models import tiny_facts


@cache
def edit() -> Any:
    return editor_of(decoder_of("llama"), "memit").edit(tiny_facts()[:2]).edit


def rewritten(path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> None:
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, path, metadata)


def manifest(folder: Path, **changes: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


WEIGHTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut short": (lambda f: cut(f / "edit.safetensors"), "could not be read"),
    "keys cut short": (lambda f: cut(f / "keys.safetensors"), "could not be read"),
    "no base": (
        lambda f: rewritten(f / "edit.safetensors", lambda t, m: m.pop("fingerprint") and None),
        "does not say which weights it is for",
    ),
    "whole numbers": (
        lambda f: rewritten(f / "edit.safetensors", lambda t, m: t.update({n: v.int() for n, v in t.items()})),
        "is no change of a parameter",
    ),
    "keys of no layer": (
        lambda f: rewritten(f / "keys.safetensors", lambda t, m: t.update({"one": torch.ones(2, 80)})),
        "expected a matrix for each layer's number",
    ),
    "keys of other facts": (
        lambda f: rewritten(f / "keys.safetensors", lambda t, m: t.update({"1": torch.ones(5, 80)})),
        "layer 1 has 5 rows; the manifest lists 2 facts",
    ),
    "keys not finite": (
        lambda f: rewritten(f / "keys.safetensors", lambda t, m: t.update({"1": t["1"] / 0})),
        "layer 1 holds NaN or infinite values",
    ),
    "keys of another width": (
        lambda f: rewritten(f / "keys.safetensors", lambda t, m: t.update({"1": torch.ones(2, 7)})),
        "the keys of layer 1 are 7 wide",
    ),
    "anchors without names": (
        lambda f: rewritten(f / "anchors.safetensors", lambda t, m: t.update({"name": t.pop("names")})),
        "does not hold a name",
    ),
    "anchors with fewer names": (
        lambda f: rewritten(f / "anchors.safetensors", lambda t, m: t.update({"names": t["names"][:1]})),
        "does not hold a name",
    ),
    "anchors not finite": (
        lambda f: rewritten(f / "anchors.safetensors", lambda t, m: t.update({"states": t["states"] / 0})),
        "does not hold a name, a finite state",
    ),
    "anchors of another width": (
        lambda f: rewritten(f / "anchors.safetensors", lambda t, m: t.update({"states": t["states"][:, :3].clone()})),
        "the anchors are 3 wide",
    ),
    "facts no list": (lambda f: manifest(f, facts="none"), "the facts in manifest.json cannot be read"),
    "facts of numbers": (
        lambda f: manifest(f, facts=[{"prompt": "{}", "subject": 3, "target_new": "x"}]),
        "cannot be read: 0.subject",
    ),
    "facts without a target": (
        lambda f: manifest(f, facts=[{"prompt": "{}", "subject": "x"}]),
        "cannot be read: 0.target_new",
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_damaged_edit_is_refused(name: str, tmp_path: Path) -> None:
    edit().save(tmp_path / "edit")
    damage, words = WEIGHTS[name]
    damage(tmp_path / "edit")
    with pytest.raises(StoreError, match=words) as error:
        load_edit(tmp_path / "edit")
    assert len(str(error.value)) < 500


def memory(change: Callable[[dict[str, Tensor], dict[str, str]], None]) -> Callable[[Path], None]:
    return lambda folder: rewritten(folder / "memory.safetensors", change)


MEMORIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no thresholds": (memory(lambda t, m: t.pop("thresholds") is None), "holds no list of thresholds"),
    "thresholds of no number": (
        memory(lambda t, m: t.update(thresholds=torch.tensor([torch.nan, 1.0]))),
        "thresholds are not one number or more",
    ),
    "a side without a change": (memory(lambda t, m: t.pop("change.1") is None), "'change.1' is missing"),
    "a change without a side": (
        memory(lambda t, m: t.update({"change.7": torch.ones(48, 80)})),
        "'change.7' is unexpected",
    ),
    "a change that is a list": (memory(lambda t, m: t.update({"change.0": torch.ones(9)})), "no matrix of numbers"),
    "no layer": (memory(lambda t, m: m.pop("layer") and None), "lacks 'layer'"),
    "a layer in words": (memory(lambda t, m: m.update(layer="three")), "its layer is 'three'"),
    "a layer in very many words": (memory(lambda t, m: m.update(layer="x" * 9000)), "its layer is 'xxx"),
    "an unknown activation": (memory(lambda t, m: m.update(activation="swoosh")), "transformers does not know"),
    "another kind": (memory(lambda t, m: m.update(kind="other")), "expected a side memory"),
    "cut short": (lambda f: cut(f / "memory.safetensors"), "could not be read"),
}


@pytest.mark.parametrize("name", MEMORIES)
def test_a_damaged_side_memory_is_refused(name: str, tmp_path: Path) -> None:
    sides = (Side(torch.ones(48, 80), 1.0), Side(2 * torch.ones(48, 80), 2.0))
    SideMemory("base", 3, "silu", sides).save(tmp_path / "edit")
    assert isinstance(load_edit(tmp_path / "edit"), SideMemory)
    copytree(tmp_path / "edit", tmp_path / "damaged")
    damage, words = MEMORIES[name]
    damage(tmp_path / "damaged")
    with pytest.raises(StoreError, match=words) as error:
        load_edit(tmp_path / "damaged")
    assert len(str(error.value)) < 500
