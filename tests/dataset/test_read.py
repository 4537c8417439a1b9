"""Reading facts and cases: one reader for both doors, whatever the file's form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import errata
from errata.dataset import RecordWarning, read_cases, read_facts
from errata.errors import BadRecord, UnknownName
from errata.fact import Fact
from tests.dataset.test_formats import LOADED, PLAIN, written

FACT = Fact("{} is a city in", "Velm", "Isk")


@pytest.mark.parametrize("name", LOADED)
def test_the_public_reader_takes_every_format_and_gives_the_facts_of_the_cases(name: str, tmp_path: Path) -> None:
    row, *expected = LOADED[name]
    assert errata.read_facts is read_facts
    assert read_facts(written(tmp_path, row)) == [case.fact for case in expected]


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        [PLAIN],
        {"facts": [PLAIN]},
        {"version": "2", "authors": ["me"], "data": [PLAIN]},
    ],
)
def test_one_object_a_list_and_an_object_with_a_list_are_read(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(content, indent=1))
    assert read_facts(path) == [FACT]


def test_a_mistake_in_a_list_inside_an_object_is_named_by_its_place(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps({"facts": [PLAIN, {}]}))
    with pytest.raises(BadRecord, match=r"facts.json:facts\[1\] \(id 1\): field 'prompt'"):
        read_facts(path)


@pytest.mark.parametrize(
    "text",
    [
        "prompt;subject;target_new\n{} is a city in;Velm;Isk\n",
        "Prompt, Subject , TARGET_NEW\n{} is a city in, Velm , Isk\n",
        'prompt, subject, target_new\n"{} is a city in", "Velm", "Isk"\n',
        "subject\ttarget_new\tprompt\nVelm\tIsk\t{} is a city in\n",
    ],
)
def test_tables_are_read_with_any_separator_and_header(text: str, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(text)
    [fact] = read_facts(tmp_path / "f.csv")
    assert (fact.prompt, fact.subject, fact.target_new.strip()) == ("{} is a city in", "Velm", "Isk")


def test_a_number_as_target_is_read_as_it_is_written_and_told(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text('[{"prompt": "{} is", "subject": "Velm", "target_new": 1969}, ' + json.dumps(PLAIN) + "]")
    with pytest.warns(RecordWarning, match=r"number 'target_new' of .*\[0\] is read as the text '1969'$"):
        assert read_facts(path)[0].target_new == "1969"
    notes: list[str] = []
    read_cases(path, note=notes.append)
    assert len(notes) == 1
    with pytest.raises(BadRecord, match="'target_new': expected text, found True"):
        read_facts(written(tmp_path, PLAIN | {"target_new": True}))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"a": 1},
            r"facts.json\[0\]: fields 'a' fit no format. Nearest is 'errata', which also needs 'prompt' or 'messages'",
        ),
        ({**PLAIN, "target_new": None, "target_nwe": "x"}, r"which also needs 'target_new' \(is it 'target_nwe'\?\)"),
        ({"requested_rewrites": {}, "case_id": 1}, r"fields 'requested_rewrites', 'case_id' fit no format\. Nearest"),
        ([5], r"facts.json\[0\]: expected an object with named fields such as .*, found \['5'\]"),
        (PLAIN | {"target_new": ["\x1b[2J" + "x" * 10_000, 1]}, None),
        (PLAIN | {"prompt": "\x1b[2J" + "x" * 10_000}, r"field 'subject': expected it to occur in the prompt '\\x1b"),
        (PLAIN | {"prompt": "\x1b[2J {} {}" + "x" * 10_000}, "has 2 '{}'"),
        (PLAIN | {"id": "\x1b[2J" + "x" * 10_000, "subject": []}, r"\(id '\\x1b\[2Jx"),
    ],
)
def test_messages_about_records_are_short_and_show_no_control_codes(
    row: Any, message: str | None, tmp_path: Path
) -> None:
    path = written(tmp_path, row)
    if message is None:
        read_facts(path)
        return
    with pytest.raises(BadRecord, match=message) as error:
        read_facts(path)
    assert len(str(error.value)) < 600
    assert "\x1b" not in str(error.value)


def test_a_field_that_is_nearly_one_of_the_formats_is_told(tmp_path: Path) -> None:
    notes: list[str] = []
    row = PLAIN | {"paraphrase": ["Velm lies in"], "Locality_checks": [], "remark": "mine", "id": 1}
    read_cases(written(tmp_path, row), note=notes.append)
    assert notes == [
        "the field 'paraphrase' is not read; is it 'paraphrases'?",
        "the field 'Locality_checks' is not read; is it 'locality_checks'?",
    ]
    read_cases(written(tmp_path, LOADED["fe"][0] | {"paraphrase_prompt": "x"}), note=notes.append)
    assert len(notes) == 2


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit: int, tmp_path: Path) -> None:
    path = written(tmp_path, PLAIN)
    for read in (read_facts, read_cases):
        with pytest.raises(BadRecord, match=f"a limit of {limit} records; expected at least 1"):
            read(path, limit=limit)


def test_an_unknown_format_is_answered_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"unknown record format 'romee'. Did you mean 'rome'"):
        read_facts(written(tmp_path, PLAIN), format="romee")
