"""Loaders: every layout on records written here, every error with file, record and field; and real files if given."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from errata.dataset import (
    FORMATS,
    Case,
    Check,
    detect_format,
    named_cases,
    read,
    read_cases,
    read_hub_cases,
    read_references,
)
from errata.decoder.decoder import Decoder
from errata.errors import BadRecord, ErrataError
from errata.evaluate import evaluate, probes
from errata.evaluate.places import Places
from errata.fact import Fact
from tests.evaluate.conftest import noise, talkative

PLAIN = {"prompt": "{} is a city in", "subject": "Velm", "target_new": "Isk"}
ROME = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "{} is a city in",
        "relation_id": "P1",
        "subject": "Velm",
        "target_new": {"str": "Isk", "id": "Q1"},
        "target_true": {"str": "Norland", "id": "Q2"},
    },
    "paraphrase_prompts": ["Velm lies in", "The city of Velm is in"],
    "neighborhood_prompts": ["Quill is a city in"],
    "attribute_prompts": [],
    "generation_prompts": ["The streets of Velm are"],
}
MEND = {
    "subject": "Velm",
    "src": "Where is Velm?",
    "pred": "Norland",
    "rephrase": "In which land is Velm?",
    "alt": "Sudmark",
    "answers": ["Isk", "Iskland"],
    "loc": "nq question: who is king",
    "loc_ans": "Sig",
    "cond": "...",
}
FE = PLAIN | {
    "id": 3,
    "target_true": "Norland",
    "target_random": "Estria",
    "paraphrase_prompts": ["Velm lies in"],
    "neighborhood_prompts": ["Quill is a city in", "Brask is a city in"],
    "negetive_prompt": "Velm is not a city in",
}
FE_ZSRE = FE | {
    "target_true": "",
    "neighborhood_prompts": ["nq question: who is king?"],
    "neighborhood_prompts_answers": ["Sig"],
}
EASYEDIT = {
    "case_id": 9,
    "prompt": "Velm is a city in",
    "subject": "Velm",
    "target_new": "Isk",
    "ground_truth": "Norland",
    "rephrase_prompt": "Velm lies in",
    "locality_prompt": "Quill is a city in",
    "locality_ground_truth": "Norland",
}
MEND_HOP = MEND | {
    "portability": {"Recalled Relation": "(Isk, king, Sig)", "New Question": "Who rules Velm?", "New Answer": "Sig"},
}
WIKIBIGEDIT = {k: v for k, v in EASYEDIT.items() if k not in ("case_id", "ground_truth")}
WIKIBIGEDIT_OWN = {
    "tag": "new",
    "subject": "Velm",
    "update": "In which land is Velm?",
    "ans": "Isk",
    "rephrase": "Velm lies where?",
    "personas": "Arr, where be Velm?",
    "loc": "In which land is Quill?",
    "loc_ans": "Norland",
    "mhop": "Who rules the land of Velm?",
    "mhop_ans": "Sig",
}
KNOWEDIT = {
    "subject": "Velm",
    "prompt": "The land of Velm is",
    "target_new": "Isk",
    "ground_truth": ["Norland", "North"],
    "rephrase": "Velm lies in",
    "portability": {
        "Reasoning": [{"prompt": "The king of Velm's land is", "ground_truth": [["Sig"]]}],
        "Subject Aliasing": {"prompt": ["Old Velm is in", "Velmburg is in"], "ground_truth": ["Isk", ["", "Iskland"]]},
        "Logical_Generalization": [],
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "The mayor of Velm is", "ground_truth": [["", "Una"], ["U."]]}],
        "Forgetfulness": [{"prompt": "A land Velm was in is", "ground_truth": []}],
    },
}
WIKIBIO = {
    "text": "This is a text about velm. Velm",
    "concept": "Velm",
    "labels": "is old.",
    "locality": {"Relation_Specificity": {"prompt": "Velm is by the", "ground_truth": "river"}},
}
MQUAKE = {
    "case_id": 2,
    "requested_rewrite": [
        ROME["requested_rewrite"] | {"question": "Where is Velm?"},  # type: ignore[operator]
        ROME["requested_rewrite"] | {"subject": "Quill", "question": "Where is Quill?"},  # type: ignore[operator]
    ],
    "questions": ["Who is king of the land of Velm?"],
    "new_answer": "Sig",
    "new_answer_alias": ["King Sig", "Sig I"],
}
FACT = Fact("{} is a city in", "Velm", "Isk")
SPACED = replace(FACT, join=" ")
ASKED = Fact("Where is {}?", "Velm", "Isk", join=" ")

LOADED: dict[str, Any] = {  # a record, and the cases it gives
    "errata": (PLAIN, Case(FACT, "0")),
    "rome": (
        ROME,
        Case(
            SPACED,
            "7",
            "Norland",
            ("Velm lies in", "The city of Velm is in"),
            ("Quill is a city in",),
            generation=("The streets of Velm are",),
        ),
    ),
    "mend": (
        MEND,
        Case(
            ASKED,
            "0",
            None,
            ("In which land is Velm?",),
            ("nq question: who is king?",),
            neighbourhood_answers=("Sig",),
        ),
    ),
    "mend hop": (
        MEND_HOP,
        Case(
            ASKED,
            "0",
            None,
            ("In which land is Velm?",),
            ("nq question: who is king?",),
            neighbourhood_answers=("Sig",),
            portability=(Check("one_hop", "Who rules Velm?", "Sig"),),
        ),
    ),
    "fe": (
        FE,
        Case(SPACED, "3", "Norland", ("Velm lies in",), ("Quill is a city in", "Brask is a city in")),
    ),
    "fe zsre": (
        FE_ZSRE,
        Case(
            SPACED,
            "3",
            None,
            ("Velm lies in",),
            ("nq question: who is king?",),
            neighbourhood_answers=("Sig",),
        ),
    ),
    "easyedit": (
        EASYEDIT,
        Case(
            SPACED,
            "9",
            "Norland",
            ("Velm lies in",),
            ("Quill is a city in",),
            neighbourhood_answers=("Norland",),
            locality=(Check("neighborhood", "Quill is a city in", "Norland"),),
        ),
    ),
    "easyedit wikibigedit": (
        WIKIBIGEDIT,
        Case(
            SPACED,
            "0",
            None,
            ("Velm lies in",),
            ("Quill is a city in",),
            neighbourhood_answers=("Norland",),
            locality=(Check("neighborhood", "Quill is a city in", "Norland"),),
        ),
    ),
    "wikibigedit": (
        WIKIBIGEDIT_OWN,
        Case(
            Fact("In which land is {}?", "Velm", "Isk", join=" "),
            "0",
            None,
            ("Velm lies where?",),
            ("In which land is Quill?",),
            neighbourhood_answers=("Norland",),
            portability=(
                Check("personas", "Arr, where be Velm?", "Isk"),
                Check("multi_hop", "Who rules the land of Velm?", "Sig"),
            ),
            locality=(Check("neighborhood", "In which land is Quill?", "Norland"),),
        ),
    ),
    "wikibigedit without a second hop": (
        WIKIBIGEDIT_OWN
        | {"mhop": float("nan"), "mhop_ans": float("nan"), "personas": None, "loc": None, "loc_ans": None},
        Case(Fact("In which land is {}?", "Velm", "Isk", join=" "), "0", None, ("Velm lies where?",)),
    ),
    "knowedit": (
        KNOWEDIT,
        Case(
            Fact("The land of {} is", "Velm", "Isk", join=" "),
            "0",
            "Norland",
            ("Velm lies in",),
            ("The mayor of Velm is", "A land Velm was in is"),
            neighbourhood_answers=("Una", ""),
            portability=(
                Check("reasoning", "The king of Velm's land is", "Sig"),
                Check("subject_aliasing", "Old Velm is in", "Isk"),
                Check("subject_aliasing", "Velmburg is in", "Iskland"),
            ),
            locality=(
                Check("relation_specificity", "The mayor of Velm is", "Una"),
                Check("forgetfulness", "A land Velm was in is", ""),
            ),
        ),
    ),
    "knowedit wikibio": (
        WIKIBIO,
        Case(
            Fact("This is a text about velm. {}", "Velm", "is old.", join=" "),
            "0",
            None,
            (),
            ("Velm is by the",),
            neighbourhood_answers=("river",),
            locality=(Check("relation_specificity", "Velm is by the", "river"),),
        ),
    ),
    "mquake": (
        MQUAKE,
        Case(SPACED, "2.1", "Norland", ("Where is Velm?",)),
        Case(
            Fact("{} is a city in", "Quill", "Isk", join=" "),
            "2.2",
            "Norland",
            ("Where is Quill?",),
            portability=(Check("multi_hop", "Who is king of the land of Velm?", "Sig", ("King Sig", "Sig I")),),
        ),
    ),
    "mquake of one fact": (
        MQUAKE | {"requested_rewrite": MQUAKE["requested_rewrite"][:1], "questions": []},  # type: ignore[index]
        Case(SPACED, "2", "Norland", ("Where is Velm?",)),
    ),
    "fastedit": (
        {"prompt": "{} is a city in", "subject": "Velm", "target": "Isk", "queries": ["The city of {} is in"]},
        Case(SPACED, "0", None, ("The city of Velm is in",)),
    ),
    "errata with the subject in its prompt": (PLAIN | {"prompt": "Velm is a city in"}, Case(FACT, "0")),
    "errata with targets as ROME requests write them": (
        PLAIN | {"target_new": {"str": "Isk"}, "target_true": {"str": "Norland"}},
        Case(FACT, "0", "Norland"),
    ),
    "errata as written": (
        {"prompt": " def {}(x):\n", "subject": "double", "target_new": "    return x + x"},
        Case(Fact(" def {}(x):\n", "double", "    return x + x"), "0"),
    ),
    "errata in a chat": (
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Where is Velm?"},
            ],
            "subject": "Velm",
            "target_new": "Isk",
            "end": True,
        },
        Case(Fact("Where is {}?", "Velm", "Isk", chat=(("system", "Be brief."),), end=True), "0"),
    ),
    "errata joined": (
        PLAIN | {"prompt": "{} lies in: ", "target_new": " Isk", "join": ""},
        Case(Fact("{} lies in: ", "Velm", " Isk", join=""), "0"),
    ),
    "easyedit without a wording": (
        {name: EASYEDIT[name] for name in ("prompt", "subject", "target_new", "ground_truth")},
        Case(SPACED, "0", "Norland"),
    ),
    "easyedit request": (
        {name: EASYEDIT[name] for name in ("prompt", "subject", "target_new", "ground_truth")}
        | {
            "locality_inputs": {"neighborhood": {"prompt": "Quill is in", "ground_truth": "Norland"}},
            "portability_inputs": {"one_hop": {"prompt": ["Velm's king is"], "ground_truth": ["Sig"]}},
        },
        Case(
            SPACED,
            "0",
            "Norland",
            neighbourhood=("Quill is in",),
            neighbourhood_answers=("Norland",),
            portability=(Check("one_hop", "Velm's king is", "Sig"),),
            locality=(Check("neighborhood", "Quill is in", "Norland"),),
        ),
    ),
}


def written(folder: Path, *rows: Any, name: str = "facts.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize("name", LOADED)
def test_each_format_is_recognised_and_read(name: str, tmp_path: Path) -> None:
    row, *expected = LOADED[name]
    path = written(tmp_path, row)
    assert detect_format(path) == name.split()[0]
    assert read_cases(path) == expected
    assert read_cases(path, format=name.split()[0]) == expected


def test_every_format_in_the_table_is_tested_here() -> None:
    assert {name.split()[0] for name in LOADED} == {row.name for row in FORMATS}


@pytest.mark.parametrize("name", LOADED)
def test_a_case_written_as_json_is_read_back(name: str, tmp_path: Path) -> None:
    case = replace(LOADED[name][-1], references=("Quill, in Isk.", "Isk has many towns."))
    path = written(tmp_path, case.to_json())
    assert detect_format(path) == "errata"
    assert read_cases(path) == [case]


def test_json_lines_and_csv_are_read_and_cut_at_the_limit(tmp_path: Path) -> None:
    lines = tmp_path / "cases.jsonl"
    lines.write_text("\n".join(json.dumps(FE | {"id": i, "subject": f"Velm {i}"}) for i in range(5)))
    assert [case.id for case in read_cases(lines, limit=3)] == ["0", "1", "2"]
    table = tmp_path / "facts.csv"
    table.write_text("prompt,subject,target_new\n{} is a city in,Velm,Isk\n")
    assert read_cases(table) == [Case(FACT, "0")]


@pytest.mark.parametrize(
    ("prompt", "subject", "slotted", "spelt"),
    [
        ("Is Velm in Velm?", "Velm", "Is {} in Velm?", "Velm"),
        ("Where in Canada is Ada?", "Ada", "Where in Canada is {}?", "Ada"),
        ("Where is the Adas' house?", "Ada", "Where is the {}s' house?", "Ada"),
        ("Where is velm?", "Velm", "Where is {}?", "velm"),
        ("What is C++ (a)?", "C++ (a)", "What is {}?", "C++ (a)"),
    ],
)
def test_one_occurrence_of_the_subject_becomes_the_slot_and_the_text_stays(
    prompt: str, subject: str, slotted: str, spelt: str, tmp_path: Path
) -> None:
    [case] = read_cases(written(tmp_path, MEND | {"src": prompt, "subject": subject}))
    assert case.fact == Fact(slotted, spelt, "Isk", join=" ")
    assert case.fact.text == prompt


SNIPPETS = [
    {"relation_id": "P1", "target_id": "Q1", "samples": [{"name": "Quill", "text": "Quill, in Isk."}]},
    {"relation_id": "P1", "target_id": "Q2", "samples": [{"name": "Brask", "text": "Brask, in Norland."}]},
    {"relation_id": "P1", "target_id": "Q1", "samples": [{"name": "Ember", "text": "Ember lies in Isk."}]},
]


def test_reference_texts_are_found_by_relation_and_new_target(tmp_path: Path) -> None:
    snippets = written(tmp_path, *SNIPPETS, name="attribute_snippets.json")
    other = ROME["requested_rewrite"] | {"relation_id": "P9", "subject": "Quill"}  # type: ignore[operator]
    path = written(tmp_path, ROME, ROME | {"requested_rewrite": other})
    texts = [case.references for case in read_cases(path, references=snippets)]
    assert texts == [("Quill, in Isk.", "Ember lies in Isk."), ()]
    assert [case.references for case in read_cases(path)] == [(), ()]
    multi = written(tmp_path, MQUAKE, name="mquake.json")
    assert read_cases(multi, references=snippets)[0].references == texts[0]


def test_what_is_missing_to_find_reference_texts_is_said(tmp_path: Path) -> None:
    snippets = written(tmp_path, *SNIPPETS, name="attribute_snippets.json")
    with pytest.raises(
        BadRecord, match=r"records of format 'fe' do not say which texts of .*: they have no relation_id"
    ):
        read_cases(written(tmp_path, FE), references=snippets)
    blank = ROME["requested_rewrite"] | {"relation_id": ""}  # type: ignore[operator]
    with pytest.raises(BadRecord, match=r"\(id 7\): field 'relation_id': expected text, found ''"):
        read_cases(written(tmp_path, ROME | {"requested_rewrite": blank}), references=snippets)
    with pytest.raises(
        BadRecord, match=r"s.json\[1\]: expected relation_id, target_id and samples .*, found 'samples'"
    ):
        read_references(written(tmp_path, SNIPPETS[0], {"samples": []}, name="s.json"))
    with pytest.raises(BadRecord, match=r"none\.json: no such file"):
        read_references(tmp_path / "none.json")


@pytest.mark.parametrize("loc", ["who is king", "who is king?", "who is king ? ", "who is king??"])
def test_a_zsre_neighbour_ends_in_exactly_one_question_mark(loc: str, tmp_path: Path) -> None:
    [case] = read_cases(written(tmp_path, MEND | {"loc": f"nq question: {loc}"}))
    assert case.neighbourhood == ("nq question: who is king?",)


def test_the_dummy_true_answer_of_nested_zsre_counts_as_none(tmp_path: Path) -> None:
    rewrite = ROME["requested_rewrite"] | {"target_true": {"str": "<|endoftext|>"}}  # type: ignore[operator]
    [case] = read_cases(written(tmp_path, ROME | {"requested_rewrite": rewrite}))
    assert case.target_true is None


def changed(row: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in (row | changes).items() if value is not ...}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (changed(EASYEDIT, subject="Brask"), r"facts.json\[1\] \(id 9\): field 'subject': expected it to occur in "),
        (
            changed(EASYEDIT, subject="Brask"),
            r"the prompt 'Velm is a city in', or '\{\}' to stand there in its place, found 'Brask'",
        ),
        (changed(EASYEDIT, target_new=...), r"\(id 9\): field 'target_new': expected the field 'target_new', found"),
        (changed(EASYEDIT, target_new=True), r"field 'target_new': expected text, found True"),
        (changed(EASYEDIT, target_new="  "), r"field 'target_new': expected text, found '  '"),
        (changed(EASYEDIT, rephrase_prompt=[{}]), r"'rephrase_prompt': expected a list of texts, found \[{}\]"),
        (changed(EASYEDIT, locality_prompt=...), r"facts.json\[1\]: case '9': 1 neighbourhood answers for 0"),
    ],
)
def test_a_bad_record_is_named_with_file_id_and_field(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadRecord, match=message) as error:
        read_cases(written(tmp_path, EASYEDIT, row))
    assert str(error.value).startswith("1 of 2 records do not fit the format 'easyedit'")


@pytest.mark.parametrize(
    ("format", "row", "message"),
    [
        ("rome", ROME | {"requested_rewrite": "x"}, "'requested_rewrite': expected an object, found 'x'"),
        ("mquake", MQUAKE | {"requested_rewrite": []}, "'requested_rewrite': expected at least one rewrite, found"),
        ("mquake", MQUAKE | {"requested_rewrite": "x"}, "expected a list of objects, found 'x'"),
        ("fe", FE | {"prompt": "Velm is"}, r"\(id 3\): prompt 'Velm is' has 0 '\{\}'"),
        ("errata", PLAIN | {"target_new": " "}, "'target_new': expected text"),
        ("mend", MEND | {"answers": []}, r"'answers': expected text, found \[\]"),
        ("mend", MEND | {"portability": {"New Question": "Who?"}}, "'New Answer': expected the field 'New Answer'"),
        ("knowedit", KNOWEDIT | {"locality": ["x"]}, r"'locality': expected an object, found \['x'\]"),
        ("knowedit", KNOWEDIT | {"portability": {"Reasoning": ["x"]}}, "'Reasoning': expected a list of objects"),
        (
            "knowedit",
            KNOWEDIT | {"locality": {"Forgetfulness": {"prompt": ["a", "b"], "ground_truth": ["c"]}}},
            r"'ground_truth': expected a list of 2, one for each prompt, found \['c'\]",
        ),
    ],
)
def test_each_formats_own_errors(format: str, row: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadRecord, match=message):
        read_cases(written(tmp_path, row), format=format)


def test_all_bad_records_are_counted_and_the_first_ten_shown(tmp_path: Path) -> None:
    bad = [changed(FE, id=i, subject=...) for i in range(14)]
    with pytest.raises(BadRecord) as error:
        read_cases(written(tmp_path, FE, *bad))
    assert str(error.value).startswith("14 of 15 records")
    assert str(error.value).count("(id ") == 10
    assert str(error.value).endswith("... and 4 more")


@pytest.mark.parametrize("name", LOADED)
def test_datasets_of_the_hub_are_read_like_files(name: str, tmp_path: Path) -> None:
    """From a local folder; the hub itself cannot be reached from here."""
    row, *expected = LOADED[name]
    written(tmp_path, row, row, name="train.json")
    cases = read_hub_cases(str(tmp_path), split="train", limit=1, cache_dir=str(tmp_path / "cache"))
    assert cases == expected


def test_a_name_is_a_file_if_there_is_one_and_else_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, PLAIN, FE | {"id": 1})
    assert named_cases(str(file), limit=1) == read_cases(file, limit=1)
    with pytest.raises(BadRecord, match=r"absent\.json: no such file"):
        named_cases("absent.json")
    asked: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(read, "read_hub_cases", lambda name, **options: asked.append((name, options)) or [])
    for name in ("them/set", "them/set:small", "them/set:small:test", str(tmp_path)):
        named_cases(name, limit=2)
    assert [(name, told["config"], told["split"], told["limit"]) for name, told in asked] == [
        ("them/set", None, "train", 2),
        ("them/set", "small", "train", 2),
        ("them/set", "small", "test", 2),
        (str(tmp_path), None, "train", 2),
    ]


def test_a_dataset_that_is_not_there_is_told(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(BadRecord, match="neither a file nor a dataset that could be read"):
        read_hub_cases(str(tmp_path / "absent" / "set"))


def test_without_the_datasets_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ErrataError, match=r"zsre: reading datasets needs `pip install 'errata\[hub\]'`"):
        read_hub_cases("zsre")


REAL = {  # records, protocol, (paraphrases, neighbours, neighbour answers) of each
    "counterfact.easyedit.json": (500, "mcf/teacher-forced", (1, 1, 1)),
    "mquake_cf.fe.json": (282, "mcf/teacher-forced", (1, 0, 0)),
    "multi_counterfact.fe.json": (1000, "mcf/teacher-forced", (2, 10, 0)),
    "multi_counterfact.rome.json": (200, "mcf/teacher-forced", (2, 10, 0)),
    "wiki_cf.fe.json": (297, "mcf/teacher-forced", (1, 0, 0)),
    "wikibigedit.easyedit.json": (500, "zsre/token-accuracy", (1, 1, 1)),
    "zsre.fe.json": (1000, "zsre/token-accuracy", (1, 1, 1)),
    "zsre.mend.json": (500, "zsre/token-accuracy", (1, 1, 1)),
}


@pytest.mark.skipif("ERRATA_DATA" not in os.environ, reason="ERRATA_DATA does not point to benchmark files")
@pytest.mark.parametrize("name", REAL)
def test_real_files_load_whole(name: str) -> None:
    path = Path(os.environ["ERRATA_DATA"]) / name
    cases = read_cases(path, on_conflict="first", note=lambda _: None)  # two of the files contradict themselves
    count, protocol, shape = REAL[name]
    assert len(cases) == count
    assert len({case.id for case in cases}) == count
    assert {case.protocol for case in cases} == {protocol}
    shapes = Counter((len(c.paraphrases), len(c.neighbourhood), len(c.neighbourhood_answers)) for c in cases)
    assert shapes == {shape: count}
    if "zsre" in name:
        near = [prompt for case in cases for prompt in case.neighbourhood]
        assert all(p.startswith("nq question: ") and p.endswith("?") and p.count("?") == 1 for p in near)


@pytest.mark.skipif("ERRATA_DATA" not in os.environ, reason="ERRATA_DATA does not point to benchmark files")
@pytest.mark.parametrize("name", [name for name in REAL if "multi" in name or "zsre" in name])
def test_real_records_are_scored_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first 300: loaded, tokenised and scored on an edited tiny model; no prompt is left out of any score."""
    cases = read_cases(Path(os.environ["ERRATA_DATA"]) / name, limit=300)
    asked: set[tuple[str, str]] = set()
    ask = Places.ask

    def listening(_: type, model: Decoder, questions: list[Any], progress: Any = None) -> list[Any]:
        asked.update((question.prompt, question.answer) for question in questions if question.answer)
        return ask(model, questions, progress)

    monkeypatch.setattr(Places, "ask", classmethod(listening))
    decoder = talkative()
    decoder.model.config.max_position_embeddings = 1024
    decoder.put_on(noise(decoder))
    scores = evaluate(decoder, cases, probes("belief", "neighbourhood", "specificity"))
    expected = min(300, REAL[name][0])
    measures = ["efficacy_success", "efficacy_accuracy", "generalisation_success", "generalisation_accuracy"]
    measures += ["neighbourhood_success", "neighbourhood_accuracy", "specificity_kl", "specificity_top10"]
    assert {scores[measure].count for measure in measures} == {len(cases)} == {expected}
    near = len(cases[0].neighbourhood)
    assert sum(scores["specificity_kl"].weights or [1] * len(cases)) == near * expected
    wanted = set()
    for case in cases:
        new, true = case.fact.target_new, case.target_true
        wanted |= {(prompt, new) for prompt in (case.fact.text, *case.paraphrases)}
        wanted |= set(zip(case.neighbourhood, case.neighbourhood_answers or [true] * near, strict=True))
        if true:
            wanted |= {(prompt, true) for prompt in (case.fact.text, *case.paraphrases)}
            wanted |= {(prompt, new) for prompt in case.neighbourhood}
    assert asked == wanted


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"join": "-"}, r"field 'join': expected '' \(or 'none'\) or ' ' \(or 'space'\), found '-'"),
        ({"end": "maybe"}, "field 'end': expected true or false, found 'maybe'"),
        ({"messages": [{"role": "user", "content": "Where is {}?"}]}, "expected a prompt or messages, not both"),
        (
            {"prompt": None, "messages": [{"role": "system", "content": "{}"}]},
            "the user's last, found a turn of 'system'",
        ),
        ({"prompt": None, "messages": []}, "expected turns with role and content, the user's last, found no turns"),
        ({"prompt": None, "messages": [{"role": "user"}]}, "expected the field 'content'"),
    ],
)
def test_a_form_that_cannot_be_read_is_refused(extra: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(BadRecord, match=message):
        read_cases(written(tmp_path, PLAIN | extra))


def test_a_table_says_in_words_how_a_target_is_joined_and_an_empty_cell_says_nothing(tmp_path: Path) -> None:
    table = tmp_path / "facts.csv"
    table.write_text(
        "prompt,subject,target_new,join,end\n"
        "{} is in,Velm,Isk,,\n{} is in,Quill,Isk,none,yes\n{} is in,Una,Isk,space,no\n"
    )
    facts = [case.fact for case in read_cases(table)]
    assert [(fact.join, fact.end) for fact in facts] == [(None, False), ("", True), (" ", False)]


def test_all_prompts_of_a_case_are_asked_in_a_chat_but_a_records_own_turns_stay() -> None:
    own = Case(Fact("Where is {}?", "Velm", "Isk", chat=(("system", "Be brief."),)), "0")
    case = Case(SPACED, "1", paraphrases=("Velm lies in",)).asked_as_chat((("system", "Hm."),), end=True)
    assert case.fact == Fact("{} is a city in", "Velm", "Isk", chat=(("system", "Hm."),), end=True)
    assert own.asked_as_chat() == own
