"""Facts of one file that repeat or contradict each other: refused, or the first or the last of them kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from errata.dataset.case import Case, Check
from errata.errors import UnknownName, UnusableFacts
from errata.fact import Asking, problems_of

OnConflict = Literal["refuse", "first", "last"]


@dataclass(frozen=True)
class Exam:
    """What one record gives: the cases of its facts, and the questions that rest on all of them together."""

    cases: tuple[Case, ...]
    questions: tuple[Check, ...] = ()


@dataclass
class _Kept:
    """A case with its place in the file, and the questions put to it besides its own."""

    place: tuple[int, int]
    case: Case
    questions: list[Check] = field(default_factory=list)


def settle(exams: Sequence[Exam], on_conflict: OnConflict) -> tuple[list[Case], list[str]]:
    """The cases that can be edited together, in the order of the file, and what was left out, in words.

    A record that contradicts one already kept is left out whole; a fact that repeats a kept one is left out alone.
    The questions of a record are put to the last of its facts, so that the first n cases, for any n, hold no
    question whose facts are not among them.

    Raises UnusableFacts if there is a conflict and `on_conflict` is "refuse"; UnknownName.
    """
    if on_conflict not in get_args(OnConflict):
        raise UnknownName("way to settle conflicts", on_conflict, get_args(OnConflict))
    if on_conflict == "refuse":
        _refuse(exams)
    known: dict[Asking, _Kept] = {}
    agreeing, repeated = [], 0
    numbered = list(enumerate(exams))
    for i, exam in reversed(numbered) if on_conflict == "last" else numbered:
        if _contradicts(exam, known):
            continue
        agreeing.append(exam)
        for k, case in enumerate(exam.cases):
            repeated += case.fact.asked in known
            known.setdefault(case.fact.asked, _Kept((i, k), case))
    for exam in agreeing:
        last = max((known[case.fact.asked] for case in exam.cases), key=lambda kept: kept.place)
        last.questions += exam.questions
    ordered = sorted(known.values(), key=lambda kept: kept.place)
    return [_asked(kept) for kept in ordered], _notes(len(exams), len(exams) - len(agreeing), repeated, on_conflict)


def _contradicts(exam: Exam, known: Mapping[Asking, _Kept]) -> bool:
    """Whether a fact has another target than the kept fact of its prompt and subject, or than one of its own record."""
    own: dict[Asking, Case] = {}
    for case in exam.cases:
        asked = case.fact.asked
        other = known[asked].case if asked in known else own.setdefault(asked, case)
        if not case.fact.agrees(other.fact):
            return True
    return False


def _asked(kept: _Kept) -> Case:
    every = dict.fromkeys((*kept.case.portability, *kept.questions))
    return replace(kept.case, portability=tuple(every)) if kept.questions else kept.case


def _refuse(exams: Sequence[Exam]) -> None:
    if problems := problems_of([case.fact for exam in exams for case in exam.cases]):
        raise UnusableFacts(
            problems, "--on-conflict first (or on_conflict='first') keeps the earlier record of each, `last` the later"
        )


def _notes(records: int, contradicting: int, repeated: int, on_conflict: OnConflict) -> list[str]:
    kept = "earlier" if on_conflict == "first" else "later"
    notes = []
    if contradicting:
        notes.append(f"left out, because they contradict {kept} records: {contradicting} of {records} records")
    if repeated:
        notes.append(f"left out, because they repeat {kept} facts: {repeated} facts of {records} records")
    return notes
