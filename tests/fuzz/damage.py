"""Ways to break a file: its bytes, its text, its JSON, its tensors, its place in the file system.

`damage_file` and `damage_folder` change what is at a path and say in words what they did. All choices come from the
generator they are given.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import safetensors
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file

DEEP = 100_000
"""Brackets inside each other: more than any parser's stack holds."""

LONG = 200_000
"""Characters: more than a cell of a CSV file may have."""

TEXTS = (
    "",
    " ",
    "{}",
    "{} {}",
    "{0}",
    "\ud800",
    "a\udfff b",
    "\u2028",
    "\u0000",
    "\x1b[31m\x1b]0;title\x07",
    "=1+1",
    "<script>alert(1)</script>",
    "[red]",
    "ﷺ",
    "\U0001f600" * 50,
    "../../outside",
    "/absent/folder",
    "nan",
    "1e999",
    "x" * 5000,
)
NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3.5, 1e-300, 1e300, float("nan"), float("inf"), -float("inf")),
    *(2**31, -(2**63), 2**64, 10**40),
)
DIGITS = "9" * 5000
"""Written without its quotes where it is a value: a whole number that Python's own parser refuses."""
VALUES: tuple[Any, ...] = (
    *TEXTS,
    *NUMBERS,
    DIGITS,
    None,
    True,
    False,
    [],
    {},
    [[]],
    [{}],
    {"": ""},
    [None],
    ["a", 1],
    {"a": [1]},
)
SNIPPETS = (
    *(b"\xff", b"\x00", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\r", b"\n", b'"', b"'", b"{", b"}", b"[", b"]", b",", b":"),
    *(b"NaN", b"Infinity", b"1e999", b"\\ud800", b"\\u0000", b"9" * 5000, b"[" * DEEP, b'{"a":' * DEEP, b"\x1b[31m"),
    *(
        b"- ",
        b"&a *a",
        b"!!python/object:os.system x",
        b"x" * LONG,
        b"\xef\xbb\xbf",
        b";",
        b"\t",
        b"=cmd|' /C calc'!A0",
    ),
)


def _pieces(data: bytes, rng: Random) -> tuple[bytes, bytes, bytes]:
    first, last = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    last = min(last, first + max(1, len(data) // 4))
    return data[:first], data[first:last], data[last:]


def _flip(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _insert(data: bytes, rng: Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice(SNIPPETS) + data[place:]


def _cut(data: bytes, rng: Random) -> bytes:
    before, _, after = _pieces(data, rng)
    return before + after


def _repeat(data: bytes, rng: Random) -> bytes:
    before, piece, after = _pieces(data, rng)
    return before + piece * rng.choice((2, 3, 50)) + after


def _recode(data: bytes, rng: Random) -> bytes:
    encoding = rng.choice(("utf-16", "utf-16-le", "utf-32", "latin-1", "utf-8-sig", "cp500"))
    return data.decode("utf-8", errors="replace").encode(encoding, errors="replace")


BYTES: dict[str, Callable[[bytes, Random], bytes]] = {
    "bytes flipped": _flip,
    "bytes inserted": _insert,
    "a piece cut out": _cut,
    "a piece repeated": _repeat,
    "truncated": lambda data, rng: data[: rng.randrange(len(data) + 1)],
    "emptied": lambda data, rng: b"",
    "in another encoding": _recode,
    "random bytes": lambda data, rng: rng.randbytes(rng.choice((1, 8, 100, 5000))),
    "lines in another order": lambda data, rng: b"\n".join(rng.sample(lines := data.split(b"\n"), len(lines))),
    "other line ends": lambda data, rng: data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b"\0"))),
}


def _nodes(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value, itself excepted."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from _nodes(inner, (*path, key))


def damage_value(value: Any, rng: Random) -> tuple[Any, str]:
    """A JSON value with one value inside it changed, removed, renamed, wrapped or repeated."""
    paths = list(_nodes(value))
    if not paths:
        return rng.choice(VALUES), "replaced as a whole"
    depth = rng.choice(sorted({len(path) for path in paths}))  # so that the few outer ones are met as often
    path = rng.choice([path for path in paths if len(path) == depth])
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    key = path[-1]
    where = ".".join(map(str, path))
    way = rng.choice(("replaced", "replaced", "replaced", "removed", "renamed", "wrapped", "repeated", "other type"))
    if way == "removed":
        del holder[key]
    elif way == "renamed" and isinstance(holder, dict):
        holder[rng.choice((str(key).upper(), f"{key}x", f" {key}", "", "\ud800"))] = holder.pop(key)
    elif way == "wrapped":
        holder[key] = rng.choice(([holder[key]], {"value": holder[key]}, [[holder[key]], holder[key]]))
    elif way == "repeated" and isinstance(holder, list):
        holder.extend([holder[key]] * rng.choice((1, 100)))
    elif way == "other type":
        old = holder[key]
        holder[key] = str(old) if not isinstance(old, str) else rng.choice((len(old), [old], list(old)[:50], True))
    else:
        way, holder[key] = "replaced", rng.choice(VALUES)
    return value, f"{where[:60]} {way}"


def _json_text(value: Any, rng: Random) -> bytes:
    text = json.dumps(value, ensure_ascii=rng.random() < 0.7).replace(f'"{DIGITS}"', DIGITS)
    return text.encode("utf-8", errors="surrogatepass")


def damage_json(data: bytes, rng: Random) -> tuple[bytes, str]:
    """A JSON document, or one line of JSON lines."""
    lines = data.decode().split("\n")
    try:
        value, how = damage_value(json.loads(data), rng)
        return _json_text(value, rng), how
    except ValueError:
        number = rng.choice([i for i, line in enumerate(lines) if line.strip()])
        value, how = damage_value(json.loads(lines[number]), rng)
        coded = [line.encode() for line in lines]
        coded[number] = _json_text(value, rng)
        return b"\n".join(coded), f"line {number + 1}: {how}"


def damage_yaml(data: bytes, rng: Random) -> tuple[bytes, str]:
    value, how = damage_value(yaml.safe_load(data), rng)
    if rng.random() < 0.5:
        return _json_text(value, rng), how
    return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", errors="surrogatepass"), how


def damage_tensors(path: Path, rng: Random) -> str:
    """A safetensors file: one tensor or one word of the metadata changed, or the header as JSON."""
    if rng.random() < 0.3:
        data = path.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        header, how = damage_json(data[8:end].strip(), rng)
        path.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])
        return f"header: {how}"
    with safetensors.safe_open(path, "pt") as opened:
        metadata = opened.metadata() or {}
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    if metadata and rng.random() < 0.4:
        name = rng.choice(sorted(metadata))
        if rng.random() < 0.4:
            del metadata[name]
        else:
            metadata[name] = rng.choice([text for text in TEXTS if "\ud800" not in text and "\udfff" not in text])
        save_file(tensors, path, metadata or None)
        return f"metadata {name} changed"
    name = rng.choice(sorted(tensors))
    tensor = tensors.pop(name)
    ways: dict[str, Callable[[], Any]] = {
        "removed": lambda: {},
        "renamed": lambda: {rng.choice((f"{name}x", "", "1000", "-1", "layer")): tensor},
        "of another shape": lambda: {name: tensor.reshape(-1) if tensor.dim() > 1 else tensor[None]},
        "shortened": lambda: {name: tensor[..., : tensor.shape[-1] // 2].contiguous() if tensor.dim() else tensor},
        "empty": lambda: {name: tensor.new_zeros((0, *tensor.shape[1:]))},
        "whole numbers": lambda: {name: torch.ones(tensor.shape, dtype=torch.int64)},
        "half precision": lambda: {name: tensor.half()},
        "NaN": lambda: {name: torch.full(tensor.shape, float("nan"))},
        "infinite": lambda: {name: torch.full(tensor.shape, float("inf"))},
        "huge": lambda: {name: torch.full(tensor.shape, 3e38)},
    }
    way = rng.choice(sorted(ways))
    save_file(tensors | ways[way](), path, metadata or None)
    return f"tensor {name} {way}"


def damage_place(path: Path, rng: Random) -> str:
    """The file missing, a folder in its place, unreadable, or a link that leads nowhere."""
    way = rng.choice(("missing", "a folder", "unreadable", "a link to itself", "a link to nowhere"))
    if way == "unreadable":
        path.chmod(0)
        return way
    _remove(path)
    if way == "a folder":
        path.mkdir()
    elif way.startswith("a link"):
        path.symlink_to(path if way.endswith("itself") else path.parent / "nowhere")
    return way


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


STRUCTURED = {".json": damage_json, ".jsonl": damage_json, ".yaml": damage_yaml, ".yml": damage_yaml}


def damage_file(path: Path, rng: Random) -> str:
    """Break one file in a way that suits its kind; most often its structure, seldom its place."""
    draw = rng.random()
    if draw < 0.05:
        return f"{path.name}: {damage_place(path, rng)}"
    if path.suffix == ".safetensors" and draw < 0.7:
        try:
            return f"{path.name}: {damage_tensors(path, rng)}"
        except (ValueError, SafetensorError, OverflowError):  # broken already
            pass
    data = path.read_bytes()
    try:
        changed, how = STRUCTURED[path.suffix if draw < 0.7 else ""](data, rng)
    except (KeyError, ValueError, yaml.YAMLError):  # of no structure, or broken already
        how = rng.choice(sorted(BYTES))
        changed = BYTES[how](data, rng)
    path.write_bytes(changed)
    return f"{path.name}: {how}"


def damage_folder(folder: Path, rng: Random) -> str:
    """Break one file of a folder, now and then two."""
    done = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        files = sorted(path for path in folder.rglob("*") if path.is_file() and os.access(path, os.R_OK))
        if files:
            done.append(damage_file(rng.choice(files), rng))
    return "; ".join(done)
