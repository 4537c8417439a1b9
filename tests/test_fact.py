from __future__ import annotations

import pytest

from errata.errors import UnusableFacts
from errata.fact import Fact, check_facts, problems_of

GOOD = Fact("{} is in", "Velm", "Sudmark")


def test_text_puts_the_subject_in_its_place() -> None:
    assert GOOD.text == "Velm is in"


def test_all_unusable_facts_are_listed_at_once() -> None:
    facts = [
        GOOD,
        Fact("no slot", "Velm", "x"),
        Fact("{} and {}", "Velm", "x"),
        Fact("{} was", " ", "x"),
        Fact("{} was", "Velm", ""),
    ]
    with pytest.raises(UnusableFacts) as caught:
        check_facts(facts)
    assert [problem.fact for problem in caught.value.problems] == [1, 2, 3, 4]  # type: ignore[attr-defined]
    assert "write the subject's place as '{}', once" in str(caught.value)


def test_contradictory_facts_name_each_other() -> None:
    with pytest.raises(UnusableFacts, match=r"fact 1 contradicts fact 0: 'Velm is in' -> 'Estria' and 'Sudmark'"):
        check_facts([GOOD, Fact("{} is in", "Velm", "Estria")])


def test_a_fact_given_twice_is_refused() -> None:
    with pytest.raises(UnusableFacts, match="fact 1 repeats fact 0"):
        check_facts([GOOD, GOOD])


def test_no_facts_are_refused() -> None:
    with pytest.raises(UnusableFacts, match="there are no facts"):
        check_facts([])


def test_each_problem_names_the_fact_it_is_about() -> None:
    other = Fact("{} is in", "Velm", "Estria")
    problems = problems_of([GOOD, Fact("no slot", " ", "x"), GOOD, other])
    assert [problem.fact for problem in problems] == [1, 1, 2, 3]
    assert problems[1].reason == "cannot be used: the subject is empty"
    with pytest.raises(UnusableFacts) as caught:
        check_facts([GOOD, GOOD, other])
    assert caught.value.problems == problems_of([GOOD, GOOD, other])


def test_a_message_about_many_long_facts_stays_short_and_shows_no_control_codes() -> None:
    facts = [Fact("no slot " + "x" * 10_000, "\x1b[2J", "y") for _ in range(100)]
    with pytest.raises(UnusableFacts) as caught:
        check_facts(facts)
    assert len(str(caught.value)) < 4_000
    assert str(caught.value).endswith("... and 189 more")
    assert "\x1b" not in str(caught.value)
