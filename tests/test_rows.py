"""Rows of files: every form that is read, and every broken file refused in one line that says where."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from errata.errors import BadRecord
from errata.rows import read_rows

PAIR = [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def rows_of(folder: Path, text: str | bytes, name: str) -> list[Any]:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return [row for _, row in read_rows(path)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("f.json", json.dumps(PAIR)),
        ("f.json", json.dumps(PAIR, indent=1)),
        ("f.jsonl", "\n".join(map(json.dumps, PAIR)) + "\n\n"),
        ("f.json", "\n".join(map(json.dumps, PAIR))),
        ("f.txt", json.dumps(PAIR)),
        ("f.csv", "a,b\n1,2\n3,4\n"),
        ("f.csv", "\ufeffa;b\r\n1;2\r\n\r\n3;4\r\n;\r\n"),
        ("f.csv", ' A ,"b"\n1, "2"\n3,4\n'),
        ("f.tsv", "a\tb\n1\t2\n3\t4"),
        ("f.txt", "a|b\n1|2\n3|4"),
    ],
)
def test_json_lists_json_lines_and_tables_of_every_separator_give_the_same_rows(
    name: str, text: str, tmp_path: Path
) -> None:
    assert rows_of(tmp_path, text, name) == PAIR


def test_one_object_over_several_lines_is_one_row(tmp_path: Path) -> None:
    assert rows_of(tmp_path, json.dumps(PAIR[0], indent=2), "f.json") == PAIR[:1]
    assert rows_of(tmp_path, json.dumps(PAIR[0]), "f.jsonl") == PAIR[:1]


def test_line_breaks_commas_and_unicode_separators_stay_inside_their_texts(tmp_path: Path) -> None:
    text = "one\u2028two, three"
    assert rows_of(tmp_path, json.dumps({"a": text}, ensure_ascii=False), "f.jsonl") == [{"a": text}]
    assert rows_of(tmp_path, f'a,b\n"{text}\nfour","say ""x"""\n', "f.csv") == [{"a": f"{text}\nfour", "b": 'say "x"'}]


def test_numbers_keep_the_digits_they_are_written_with(tmp_path: Path) -> None:
    assert rows_of(tmp_path, '{"a": 1969, "b": 1.50}', "f.json") == [{"a": "1969", "b": "1.50"}]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("f.csv", "a,b\n1,2\n1,2,3\n4\n", r"^f.csv: 2 of 3 rows do not have the header's 2 cells; the first is line 3"),
        ("f.csv", 'a,b\n"x\ny",2\n1\n', r"is line 4 with 1: '1'\. Put double quotes"),
        ("f.csv", 'a,"b" \n1,2\n', r"f.csv:1: not a row of a table \(',' expected after"),
        ("f.csv", "a,a\n1,2\n", "the header names 'a' twice"),
        ("f.csv", "a, A\n1,2\n", "the header names 'a' twice"),
        ("f.csv", "a,,b\n1,2,3\n", "column 2 of the header has no name"),
        ("f.csv", "a,b\n", "no records in it"),
        ("f.csv", f"a,b\n{'x' * 200_000},2\n", r"f.csv:2: not a row of a table \(field larger than field limit"),
        ("f.csv", 'a,b\n1,2\n"open,2\n1,2\n', r"f.csv:3: not a row .* is a double quote left open\?"),
        ("f.csv", "a,b\n1,\0\n", "f.csv:2: field 'b' holds a NUL character"),
        ("f.json", '{"a": "x\\u0000"}', r"f.json:1: field 'a' holds a NUL character in 'x\\x00'"),
        (
            "f.json",
            '[{"a": "b"}, {"a": {"c": ["A\\ud800"]}}]',
            r"f.json\[1\]: field 'a' holds half a character \('\\ud",
        ),
        ("f.json", '[{"\\ud800": 1}]', r"f.json\[0\]: the name of a field holds half a character"),
        ("f.jsonl", '{"a": "b"}\n{"a": "\\udc00 x"}', "f.jsonl:2: field 'a' holds half a character"),
        ("f.json", "[" * 100_000, "f.json: brackets are nested too deeply"),
        ("f.json", '{"a":' * 100_000, "brackets are nested too deeply"),
        ("f.json", "[" * 500 + "]" * 500, r"f.json\[0\]: brackets are nested too deeply"),
        ("f.jsonl", '{"a": 1}\n' + "[" * 100_000, "f.jsonl:2: brackets are nested too deeply"),
        ("f.json", '{"a": ' + "1" * 5_000 + "}", "f.json: a number of 5000 digits"),
        ("f.jsonl", '{"a": 1}\n{"a": ' + "1" * 5_000 + "}", "f.jsonl:2: a number of 5000 digits"),
        ("f.json", '[{"a": 1, "a": 2}]', "f.json: field 'a' stands twice in one object"),
        ("f.json", '[{"a": 1},\n{"a" 2}]', r"f.json:2: not valid JSON \(Expecting ':' delimiter, column 6\)"),
        ("f.jsonl", '{"a": 1}\n{"a": ', "f.jsonl:2: not valid JSON"),
        ("f.json", "", "the file is empty"),
        ("f.json", " \n ", "the file is empty"),
        ("f.json", "[]", "no records in it"),
        ("f.json", b'[{"a": "\xff"}]', "not UTF-8 text .*; save it as UTF-8"),
        ("f.csv", "a,b\n1,2\n".encode("utf-16"), "not UTF-8 text"),
    ],
)
def test_a_broken_file_is_refused_in_one_short_line_that_says_where(
    name: str, text: str | bytes, message: str, tmp_path: Path
) -> None:
    with pytest.raises(BadRecord, match=message) as error:
        rows_of(tmp_path, text, name)
    assert len(str(error.value)) < 400
    assert str(error.value).isprintable()


def test_what_is_no_readable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadRecord, match=r"absent\.json: no such file"):
        read_rows(tmp_path / "absent.json")
    with pytest.raises(BadRecord, match="is a folder"):
        read_rows(tmp_path)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(BadRecord, match="is a pipe or a device"):
        read_rows(tmp_path / "pipe.json")
    with pytest.raises(BadRecord, match=r"could not be read: .*null"):
        read_rows("a\0b.json")
    (tmp_path / "secret.json").write_text("[]")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Not permitted")))
    with pytest.raises(BadRecord, match="could not be read: Not permitted"):
        read_rows(tmp_path / "secret.json")
