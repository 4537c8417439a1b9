"""The decisive token, and the traps around it."""

from __future__ import annotations

import pytest

from errata.decoder.site import Contexts, Tokens
from errata.errors import SubjectNotFound, UnusableFacts
from errata.fact import Fact
from tests.models import tiny_facts, tiny_tokenizer

BARE = Contexts()


@pytest.fixture(params=[(True, False), (False, False), (True, True)], ids=["bos", "no-bos", "bos-prefix-space"])
def tokens(request: pytest.FixtureRequest) -> Tokens:
    bos, prefix_space = request.param
    return Tokens(tiny_tokenizer(bos=bos, prefix_space=prefix_space))


def test_the_decisive_token_ends_the_subject(tokens: Tokens) -> None:
    for fact in tiny_facts():
        prompt = tokens.locate(fact.prompt, fact.subject)
        decoded = tokens.tokenizer.decode(prompt.ids[: prompt.decisive + 1], skip_special_tokens=True)
        assert decoded.strip() == fact.text[: fact.text.index(fact.subject) + len(fact.subject)]


def test_bos_is_there_exactly_once_even_if_the_text_has_it() -> None:
    tokens = Tokens(tiny_tokenizer(bos=True))
    bos = tokens.tokenizer.bos_token
    ids = tokens.prompt(f"{bos}Velm is a city in")
    assert ids.count(tokens.tokenizer.bos_token_id) == 1
    assert tokens.locate(f"{bos}{{}} is a city", "Velm").ids.count(tokens.tokenizer.bos_token_id) == 1


def test_one_space_stands_before_the_answer_however_it_is_written(tokens: Tokens) -> None:
    ids = tokens.answer("Sudmark")
    assert ids == tokens.answer(" Sudmark") == tokens.answer("  Sudmark ")
    prompt = tokens.prompt("Velm is a city in ")
    assert prompt == tokens.prompt("Velm is a city in")
    assert tokens.tokenizer.decode(prompt + ids, skip_special_tokens=True).strip() == "Velm is a city in Sudmark"


def test_prompt_and_answer_concatenate_to_the_joint_text(tokens: Tokens) -> None:
    for fact in tiny_facts():
        assert tokens.prompt(fact.text) + tokens.answer(fact.target_new) == tokens.prompt(
            f"{fact.text} {fact.target_new}"
        )


def test_a_decisive_token_at_position_zero_without_bos_is_reported() -> None:
    facts = [Fact("{} is a city in", "Velm", "x"), Fact("The river of {} is", "Velm", "x")]
    sizes = [len(Tokens(tiny_tokenizer(bos=bos)).locate("{} is", "Velm").ids) for bos in (False, True)]
    without = Tokens(tiny_tokenizer(bos=False)).site(facts, BARE)
    if without.places[0].prompts[0].decisive == 0:
        assert without.at_start == [0]
    assert sizes[1] == sizes[0] + 1
    assert Tokens(tiny_tokenizer(bos=True)).site(facts, BARE).at_start == []


def test_a_token_that_spans_the_subjects_end_is_taken_and_marked(tokens: Tokens) -> None:
    prompt = tokens.locate("{}er of", "The riv")
    assert tokens.tokenizer.decode(prompt.ids[prompt.decisive]) == " river"
    assert prompt.spans
    assert not tokens.locate("{} of", "The river").spans
    assert tokens.site([Fact("{} of", "The river", "x"), Fact("{}er of", "The riv", "x")], BARE).spanning == [1]


def test_a_token_that_spans_is_refused_where_the_tokenizer_does_not_say_which() -> None:
    slow = tiny_tokenizer(bos=True)

    class Slow:
        is_fast = False

        def __call__(self, text: str, **how: object) -> object:
            return slow(text, **how)

    tokens = Tokens(Slow())
    with pytest.raises(SubjectNotFound, match="a token spans the end of the subject, and this tokenizer"):
        tokens.locate("{}er of", "The riv")


def test_facts_that_cannot_be_located_are_listed_together(tokens: Tokens) -> None:
    facts = [Fact("no slot", "a", "b"), *tiny_facts()[:1], Fact("{} {}", "a", "b")]
    with pytest.raises(UnusableFacts) as caught:
        tokens.site(facts, BARE)
    assert [problem.fact for problem in caught.value.problems] == [0, 2]  # type: ignore[attr-defined]


def test_braces_in_generated_contexts_do_not_disturb() -> None:
    tokens = Tokens(tiny_tokenizer(bos=True))
    site = tokens.site([Fact("{} is {a} city", "Velm", "x")], Contexts((("{}",), ("Here. {}",))))
    for prompt, text in zip(site.places[0].prompts, ("Velm", "Here. Velm"), strict=True):
        decode = tokens.tokenizer.decode
        assert decode(prompt.ids, skip_special_tokens=True).strip() == f"{text} is {{a}} city"
        assert decode(prompt.ids[: prompt.decisive + 1], skip_special_tokens=True).strip() == text


def test_weights_are_a_mean_in_each_group_then_of_the_groups() -> None:
    weights = Contexts((("{}",), ("a {}", "b {}", "c {}", "d {}", "e {}"))).weights
    assert weights == (0.5, 0.1, 0.1, 0.1, 0.1, 0.1)
