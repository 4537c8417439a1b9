"""Rows of a file: JSON, JSON lines or a table (CSV, TSV). Each row comes with its place, for messages."""

from __future__ import annotations

import csv
import io
import json
import math
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from errata.errors import BadRecord, printable

Row = tuple[str, Any]
"""Where a row stands ('facts.jsonl:17'), and the row: of a table an object with named fields, of JSON anything."""

TABLES = (".csv", ".tsv")
SUFFIXES = (".json", ".jsonl", *TABLES)
SEPARATORS = ",;\t|"
MOST_DIGITS = 400
DEEPEST = 50
_TOO_DEEP = "brackets are nested too deeply; a record is an object with named fields"

T = TypeVar("T")


class Number(str):
    """A number of a JSON file, exactly as it is written there."""

    __slots__ = ()


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a file: of a JSON list, JSON lines, one JSON object, or a table with a header.

    A `.csv` or `.tsv` file is a table; any other is JSON if it begins with a bracket or ends in `.json` or `.jsonl`.
    Raises BadRecord if the file cannot be read, is empty, or has another form. Rows of JSON may be of any type.
    """
    path = Path(path)
    text = read_text(path)
    suffix = path.suffix.lower()
    is_table = suffix in TABLES or (suffix not in SUFFIXES and not text.lstrip().startswith(("[", "{")))
    rows = _table(text, path) if is_table else _json(text, path)
    if not rows:
        raise BadRecord(f"{path}: no records in it")
    for where, row in rows:
        check_characters(where, row)
    return rows


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises BadRecord saying why it cannot be read."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise BadRecord(f"{path} is a folder, not a file")
        if not stat.S_ISREG(mode):
            raise BadRecord(f"{path} is a pipe or a device; write its content to a file first")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise BadRecord(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise BadRecord(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except (OSError, ValueError) as error:
        raise BadRecord(f"{path}: could not be read: {getattr(error, 'strerror', None) or error}") from None
    if not text.strip():
        raise BadRecord(f"{path}: the file is empty")
    return text


def check_characters(where: str, value: Any) -> None:
    """Refuse text that is no text: half a character (a lone surrogate), or NUL. Raises BadRecord."""
    for field, text in _texts(where, value):
        if "\0" in text:
            raise BadRecord(f"{where}: {field} holds a NUL character in {printable(text)}; take it out")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadRecord(
                f"{where}: {field} holds half a character ({text[error.start]!a}, a lone surrogate) in "
                f"{printable(text)}; write the character whole"
            ) from None


def _texts(where: str, value: Any) -> Iterator[tuple[str, str]]:
    """All texts in a JSON value, each with the name of its outermost field. Raises BadRecord for a bottomless one."""
    waiting: list[tuple[str, Any, int]] = [("", value, 0)]
    while waiting:
        field, value, depth = waiting.pop()
        if depth > DEEPEST:
            raise BadRecord(f"{where}: {_TOO_DEEP}")
        if isinstance(value, str):
            yield field or "the record", value
        elif isinstance(value, list):
            waiting += [(field, entry, depth + 1) for entry in value]
        elif isinstance(value, dict):
            waiting += [("the name of a field", str(name), depth + 1) for name in value]
            waiting += [(field or f"field {printable(name)}", entry, depth + 1) for name, entry in value.items()]


# -- JSON ------------------------------------------------------------------------------------------------


def _json(text: str, path: Path) -> list[Row]:
    """One JSON value if the file is one, else a value per line."""
    start = len(text) - len(text.lstrip())
    try:
        whole, end = _parsed(lambda: _DECODER.raw_decode(text, start), str(path))
        alone = not text[end:].strip()
    except _NotJson as error:
        if "\n" not in text.strip() or text.lstrip().startswith("["):
            raise BadRecord(f"{_place(path, text, error.at)}: {error}") from None
        alone = False
    if not alone:
        return [  # not splitlines: U+2028 may stand in a text
            (f"{path.name}:{i}", _line(line, f"{path.name}:{i}"))
            for i, line in enumerate(text.split("\n"), start=1)
            if line.strip()
        ]
    if isinstance(whole, list):
        return [(f"{path.name}[{i}]", row) for i, row in enumerate(whole)]
    return [(f"{path.name}:1", whole)]


def _line(line: str, where: str) -> Any:
    try:
        return _parsed(lambda: _DECODER.decode(line), where)
    except _NotJson as error:
        raise BadRecord(f"{where}: {error}") from None


class _NotJson(Exception):
    """Text that is not JSON; `at` is the position of the fault."""

    def __init__(self, error: json.JSONDecodeError) -> None:
        super().__init__(f"not valid JSON ({error.msg}, column {error.colno})")
        self.at = error.pos


def _parsed(parse: Callable[[], T], where: str) -> T:
    try:
        return parse()
    except json.JSONDecodeError as error:
        raise _NotJson(error) from None
    except RecursionError:
        raise BadRecord(f"{where}: {_TOO_DEEP}") from None
    except BadRecord as error:
        raise BadRecord(f"{where}: {error}") from None


def _place(path: Path, text: str, at: int) -> str:
    return f"{path.name}:{text.count(chr(10), 0, at) + 1}"


def _number(literal: str) -> Number:
    if len(literal) > MOST_DIGITS:
        raise BadRecord(f"a number of {len(literal)} digits; put it in quotes if it is a text")
    return Number(literal)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise BadRecord(f"field {printable(twice)} stands twice in one object; keep one")
    return row


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_number, parse_float=_number, parse_constant=lambda _: math.nan
)


# -- tables ----------------------------------------------------------------------------------------------


def _table(text: str, path: Path) -> list[Row]:
    """The rows of a table with a header; its separator is the one that gives the header most columns."""
    separator = max(SEPARATORS, key=lambda candidate: _columns(text, candidate))
    lines = _cells(text, separator, path)
    _, header = next(lines)
    names = [name.strip().lower() for name in header]
    _check_header(names, path)
    rows = [(line, cells) for line, cells in lines if any(cell.strip() for cell in cells)]
    ragged = [(line, cells) for line, cells in rows if len(cells) != len(names)]
    if ragged:
        line, cells = ragged[0]
        raise BadRecord(
            f"{path.name}: {len(ragged)} of {len(rows)} rows do not have the header's {len(names)} cells; the first is "
            f"line {line} with {len(cells)}: {printable(separator.join(cells))}. Put double quotes around a cell that "
            f"holds a {printable(separator)}"
        )
    return [(f"{path.name}:{line}", _cells_by_name(names, cells)) for line, cells in rows]


def _cells_by_name(names: list[str], cells: list[str]) -> dict[str, str]:
    """A row. An empty `join` is left out: in a table it says nothing, in JSON that no space is put there."""
    return {name: cell for name, cell in zip(names, cells, strict=True) if cell or name != "join"}


def _cells(text: str, separator: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row that is not blank, with the line it begins on. Raises BadRecord."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise BadRecord(
                f"{path.name}:{line}: not a row of a table ({error}); is a double quote left open?"
            ) from None
        if cells:
            yield line, cells


def _columns(text: str, separator: str) -> int:
    """The number of columns that the header has with this separator; 0 if it cannot be read so."""
    try:
        return len(next(csv.reader(io.StringIO(text.lstrip(), newline=""), delimiter=separator)))
    except csv.Error:
        return 0


def _check_header(names: list[str], path: Path) -> None:
    for column, name in enumerate(names, start=1):
        if not name:
            raise BadRecord(f"{path.name}: column {column} of the header has no name; name it or take it out")
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise BadRecord(f"{path.name}: the header names {printable(twice)} twice; keep one of the columns")
