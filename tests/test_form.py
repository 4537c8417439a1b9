"""How a prompt and what follows it become one text."""

from __future__ import annotations

import pytest

from errata.errors import UnusableFacts
from errata.fact import Fact, check_facts
from errata.form import joined


@pytest.mark.parametrize(
    ("prompt", "answer", "continued"),
    [
        ("The capital is", "Rome", " Rome"),
        ("Rome has", "3 rivers", " 3 rivers"),
        ("Столица —", "Рим", "Рим"),
        ("Столица называется", "Рим", " Рим"),
        ("인구는", "9천만", " 9천만"),
        ("हिन्दी", "भाषा", " भाषा"),
        ("埃菲尔铁塔位于", "罗马", "罗马"),
        ("埃菲尔铁塔位于", "Rome", "Rome"),
        ("首都は", "ローマ", "ローマ"),
        ("เมืองหลวงคือ", "โรม", "โรม"),
        ("print(total", ")", ")"),
        ("def double(x):\n", "    return x + x", "    return x + x"),
        ("The capital:", "Rome", "Rome"),
        ("The capital is", " Rome", " Rome"),
        ("The capital is", "Rome\n", " Rome\n"),
    ],
)
def test_texts_are_joined_as_written_with_a_space_only_between_two_words(
    prompt: str, answer: str, continued: str
) -> None:
    assert joined(prompt, answer) == (prompt, continued)


def test_spaces_belong_to_the_word_behind_them() -> None:
    assert joined("The capital is ", "Rome ") == ("The capital is", " Rome")
    assert joined("x =  ", "1") == ("x =", "  1")


def test_an_explicit_join_decides() -> None:
    assert joined("The capital is", "n't known", "") == ("The capital is", "n't known")
    assert joined("The capital: ", " Rome", " ") == ("The capital:", " Rome")
    assert joined("位于", "罗马", " ") == ("位于", " 罗马")


def test_facts_agree_where_the_whole_text_does() -> None:
    fact = Fact("{} is in", "Velm", "Isk")
    assert fact.agrees(Fact("{} is in", "Velm", " Isk"))
    assert fact.agrees(Fact("{} is in", "Velm", "Isk", join=" "))
    assert not fact.agrees(Fact("{} is in", "Velm", "Isk", join=""))
    assert not Fact("def {}(x):\n", "f", "    return x").agrees(Fact("def {}(x):\n", "f", "return x"))


def test_a_question_and_a_chat_about_it_are_asked_apart() -> None:
    plain, chat = Fact("Where is {}?", "Velm", "Isk"), Fact("Where is {}?", "Velm", "Oster", chat=())
    check_facts([plain, chat])
    with pytest.raises(UnusableFacts, match="fact 1 repeats fact 0"):
        check_facts([chat, chat])


def test_a_join_that_is_none_is_refused() -> None:
    with pytest.raises(UnusableFacts, match=r"join is '-'; expected '' or ' '"):
        check_facts([Fact("{} is in", "Velm", "Isk", join="-")])
