"""Records that repeat or contradict each other, and records of several facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from errata.dataset import Check, RecordWarning, read_cases, read_facts
from errata.errors import UnknownName, UnusableFacts
from tests.dataset.test_formats import PLAIN, written


def fact(subject: str, target: str) -> dict[str, Any]:
    return PLAIN | {"subject": subject, "target_new": target}


def multi(number: int, question: str, **targets: str) -> dict[str, Any]:
    """A record of several facts, each subject with its target, and a question that rests on all of them."""
    rewrites = [
        {"prompt": "{} is in", "subject": subject, "target_new": {"str": target}} for subject, target in targets.items()
    ]
    return {"case_id": number, "requested_rewrite": rewrites, "questions": [question], "new_answer": "Sig"}


CONFLICTING = [fact("A", "x"), fact("B", "x"), fact("A", "x"), fact("B", "y"), fact("C", "z")]


def test_records_that_conflict_are_refused_with_counts_and_the_way_out(tmp_path: Path) -> None:
    path = written(tmp_path, *CONFLICTING)
    for read in (read_facts, read_cases):
        with pytest.raises(UnusableFacts, match=r"2 problem\(s\) with the facts") as error:
            read(path)
        assert "fact 2 repeats fact 0" in str(error.value)
        assert "fact 3 contradicts fact 1" in str(error.value)
        assert "--on-conflict first" in str(error.value)


@pytest.mark.parametrize(
    ("on_conflict", "ids", "targets"), [("first", "014", ["x", "x", "z"]), ("last", "234", ["x", "y", "z"])]
)
def test_the_first_or_the_last_of_conflicting_records_is_kept_and_told(
    on_conflict: Any, ids: str, targets: list[str], tmp_path: Path
) -> None:
    path = written(tmp_path, *CONFLICTING)
    notes: list[str] = []
    cases = read_cases(path, on_conflict=on_conflict, note=notes.append)
    assert "".join(case.id for case in cases) == ids
    assert [case.fact.target_new for case in cases] == targets
    kept = {"first": "earlier", "last": "later"}[on_conflict]
    assert notes == [
        f"left out, because they contradict {kept} records: 1 of 5 records",
        f"left out, because they repeat {kept} facts: 1 facts of 5 records",
    ]
    with pytest.warns(RecordWarning):
        assert read_facts(path, on_conflict=on_conflict) == [case.fact for case in cases]


def test_an_unknown_way_to_settle_conflicts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'first'"):
        read_facts(written(tmp_path, PLAIN), on_conflict="frist")  # type: ignore[arg-type]


def test_all_facts_of_a_record_are_edited_and_the_limit_counts_records(tmp_path: Path) -> None:
    path = written(tmp_path, multi(7, "Who?", A="x", B="y"), multi(8, "Where?", C="z"))
    assert [case.id for case in read_cases(path)] == ["7.1", "7.2", "8"]
    assert [case.fact.subject for case in read_cases(path, limit=1)] == ["A", "B"]


@pytest.mark.parametrize("on_conflict", ["first", "last"])
def test_the_first_n_cases_hold_no_question_whose_facts_are_not_among_them(on_conflict: Any, tmp_path: Path) -> None:
    needs = {"one": "AB", "two": "BC", "three": "A", "four": "CD"}
    path = written(
        tmp_path,
        multi(0, "one", A="x", B="y"),
        multi(1, "two", B="y", C="z"),
        multi(2, "three", A="x"),
        multi(3, "four", C="z", D="w"),
    )
    cases = read_cases(path, on_conflict=on_conflict, note=lambda _: None)
    assert sorted(case.fact.subject for case in cases) == list("ABCD")
    seen: set[str] = set()
    asked = []
    for case in cases:
        seen.add(case.fact.subject)
        for check in case.portability:
            assert set(needs[check.prompt]) <= seen
            asked.append(check.prompt)
    assert sorted(asked) == sorted(needs)


def test_a_record_that_contradicts_another_is_left_out_whole_with_its_questions(tmp_path: Path) -> None:
    path = written(
        tmp_path, multi(0, "one", A="x"), multi(1, "two", A="y", B="z"), multi(2, "three", C="w", A="x", D="v")
    )
    cases = read_cases(path, on_conflict="first", note=lambda _: None)
    assert [case.id for case in cases] == ["0", "2.1", "2.3"]
    assert [case.portability for case in cases] == [
        (Check("multi_hop", "one", "Sig"),),
        (),
        (Check("multi_hop", "three", "Sig"),),
    ]


def test_a_record_that_contradicts_itself_is_refused_or_left_out(tmp_path: Path) -> None:
    record = multi(0, "one", A="x")
    record["requested_rewrite"].append(record["requested_rewrite"][0] | {"target_new": {"str": "y"}})
    path = written(tmp_path, record, multi(1, "two", B="z"))
    with pytest.raises(UnusableFacts, match="fact 1 contradicts fact 0"):
        read_facts(path)
    assert [f.subject for f in read_facts(path, on_conflict="last", note=lambda _: None)] == ["B"]
