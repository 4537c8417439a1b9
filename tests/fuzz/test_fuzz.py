"""A few broken inputs of every family, always the same ones; and the judge, which must be able to say no.

Thousands more: `python -m tests.fuzz --inputs 10000`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from errata import ErrataError
from errata.cli import app as cli
from tests.fuzz.families import FAMILIES, ran
from tests.fuzz.judge import LONGEST, Bench, Verdict, judged
from tests.fuzz.session import Session

INPUTS = 8

Sessions = Callable[[str], Session]


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Sessions:
    return cache(lambda family: Session(tmp_path_factory.mktemp(family), family, seed=0))


@pytest.fixture
def session(sessions: Sessions) -> Iterator[Session]:
    """One with its model whole again afterwards."""
    session = sessions("records")
    _ = session.original
    yield session
    for name, weight in session.bench.decoder.model.named_parameters():
        weight.data.copy_(session.original[name])


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_inputs_are_accepted_and_every_door_is_open(sessions: Sessions, family: str) -> None:
    session, accepting = sessions(family), set()
    doors = session.family.doors
    for number, sample in enumerate(session.samples):
        verdicts = {}
        for turn in range(len(doors)):
            door = doors[(number + turn) % len(doors)]
            verdicts[door] = session.use(sample, door)
            if verdicts[door].kind == "accepted":
                break
        accepting |= {door for door, verdict in verdicts.items() if verdict.kind == "accepted"}
        assert verdicts.keys() & accepting, (sample.name, [verdict.message for verdict in verdicts.values()])
    for door in set(doors) - accepting:
        assert any(session.use(sample, door).kind == "accepted" for sample in session.samples), door


@pytest.mark.parametrize("family", FAMILIES)
def test_broken_inputs_are_used_or_refused_in_one_clear_message(sessions: Sessions, family: str) -> None:
    failed = [(made, verdict) for made, verdict in map(sessions(family).run, range(INPUTS)) if verdict.failed]
    assert not failed


def test_an_input_is_the_same_whenever_it_is_made(sessions: Sessions) -> None:
    session = sessions("records")
    made = []
    for number in (3, 4, 3):
        (described, _), (place,) = session.run(number), session.place.iterdir()
        made.append((described, place.read_bytes()))
    assert made[0] == made[2] != made[1]


def _written_outside(bench: Bench) -> None:
    (bench.root / "work" / "stray.txt").write_text("here")


def _weight_moved(bench: Bench) -> None:
    next(bench.decoder.model.parameters()).data[0, 0] += 1e-6


def _refused_at_length(bench: Bench) -> None:
    raise ErrataError("no " * LONGEST)


def _exit_code_lies(bench: Bench) -> None:
    ran(bench, bench.out / "edit", "methods")


def _other_error(bench: Bench) -> None:
    raise KeyError("a")


def _mistake_in_one_line(bench: Bench) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "fleet_here", lambda: 1 / 0)
        bench.call("methods")


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (_written_outside, {"kind": "accepted", "outside": ["work/stray.txt"]}),
        (_weight_moved, {"kind": "accepted", "weights_changed": True}),
        (_refused_at_length, {"kind": "refused", "too_long": 3 * LONGEST}),
        (_exit_code_lies, {"kind": "refused"}),
        (_other_error, {"kind": "traceback"}),
        (_mistake_in_one_line, {"kind": "traceback"}),
    ],
)
def test_the_judge_sees_it(session: Session, use: Callable[[Bench], None], expected: dict[str, Any]) -> None:
    verdict = judged(session.bench, lambda: use(session.bench), session.original)
    assert verdict.failed
    assert {name: getattr(verdict, name) for name in expected} == expected


def test_what_takes_too_long_is_stopped_and_counted_apart(session: Session) -> None:
    verdict = judged(session.bench, lambda: time.sleep(30), session.original, patience=1)
    assert (verdict.kind, verdict.failed) == ("slow", False)


def test_a_clear_refusal_is_no_failure(session: Session) -> None:
    def use() -> None:
        raise ErrataError("expected a, found b: do c")

    assert judged(session.bench, use, session.original) == Verdict("refused", "expected a, found b: do c")
