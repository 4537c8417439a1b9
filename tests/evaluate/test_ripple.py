"""Portability and locality: the published definitions, kind by kind; and what has no answer is not asked."""

from __future__ import annotations

import pytest
import torch

from errata.decoder.decoder import Decoder
from errata.errors import EmptyScore
from errata.evaluate import Case, Check, Locality, Portability, evaluate, probes
from errata.fact import Fact
from tests.evaluate.conftest import answer_of

FACT = Fact("{} is a city in", "Velm", "Isk")
NEAR = (
    Check("relation_specificity", "Quill is a city in", "Sudmark"),
    Check("relation_specificity", "The river of Velm is", "long and wide"),
    Check("forgetfulness", "You can see here that Velm lies near", ""),
    Check("forgetfulness", "Velm was in", "Norland"),
)


def choices(decoder: Decoder, check: Check) -> list[int]:
    """The argmax at each place of the answer, by one unpadded pass of the transformers model."""
    front = decoder.tokenizer(check.prompt)["input_ids"]
    answer = decoder.tokenizer(" " + check.answer, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = decoder.model(input_ids=torch.tensor([front + answer])).logits[0]
    return logits[len(front) - 1 : -1].argmax(-1).tolist()


def same(one: list[int], other: list[int]) -> float:
    return sum(a == b for a, b in zip(one, other, strict=True)) / len(one)


def test_locality_is_the_share_of_first_choices_that_stayed(decoder: Decoder) -> None:
    case = Case(FACT, "0", locality=NEAR)
    score = Locality()(decoder, [case])
    with decoder.unedited():
        before = [choices(decoder, check) for check in NEAR]
        assert Locality()(decoder, [case]).value == 1.0
    stayed = [same(a, choices(decoder, check)) for a, check in zip(before, NEAR, strict=True)]
    relation, forgotten = (stayed[0] + stayed[1]) / 2, stayed[3]
    assert score.value == pytest.approx((relation + forgotten) / 2)
    assert 0 < score.value < 1
    assert Locality("relation_specificity")(decoder, [case]).value == pytest.approx(relation)
    assert Locality("forgetfulness")(decoder, [case]).value == forgotten
    assert (score.name, score.protocol) == ("locality", "easyedit/same-tokens")


def test_portability_is_the_share_of_answer_tokens_that_are_the_first_choice(decoder: Decoder) -> None:
    said = answer_of(decoder, "The king of Velm is", 2)
    ports = (
        Check("reasoning", "The king of Velm is", said),
        Check("reasoning", "The king of Velm is", "long and wide"),
        Check("subject_aliasing", "Old Velm is in", "Estria"),
        Check("subject_aliasing", "Old Velm is in", " "),
    )
    case, bare = Case(FACT, "0", portability=ports), Case(FACT, "1")
    score = Portability()(decoder, [bare, case])
    right = []
    for check in ports[:3]:
        target = decoder.tokenizer(" " + check.answer, add_special_tokens=False)["input_ids"]
        right.append(same(target, choices(decoder, check)))
    assert right[0] == 1
    assert score.per_case == (None, pytest.approx(((right[0] + right[1]) / 2 + right[2]) / 2))
    assert (score.name, score.protocol) == ("portability", "easyedit/token-em")
    assert Portability("reasoning")(decoder, [case]).value == pytest.approx((right[0] + right[1]) / 2)


def test_of_an_answer_and_its_aliases_the_nearest_counts(decoder: Decoder) -> None:
    said = answer_of(decoder, "The king of Velm is", 2)
    alone, other = Check("multi_hop", "The king of Velm is", "long and wide"), Check("multi_hop", "Old Velm is in", "a")
    named = Check("multi_hop", "The king of Velm is", "long and wide", ("Estria", said, " "))
    low, right, mixed = Portability("multi_hop")(
        decoder,
        [Case(FACT, str(i), portability=checks) for i, checks in enumerate([(alone,), (named,), (other, named)])],
    ).per_case
    assert low is not None and low < 1  # noqa: PT018
    assert right == 1
    assert mixed == pytest.approx((Portability()(decoder, [Case(FACT, "", portability=(other,))]).value + 1) / 2)


def test_a_kind_that_no_case_has_is_missing_and_named(decoder: Decoder) -> None:
    case = Case(FACT, "0", locality=NEAR)
    scores = evaluate(decoder, [case], probes("portability", "locality"))
    assert list(scores) == ["locality", "locality_relation_specificity", "locality_forgetfulness"]
    assert scores.missing["portability"] == (
        "score 'portability': none of 1 cases has portability prompts with answers"
    )
    with pytest.raises(EmptyScore, match="none of 1 cases has locality prompts with answers of kind 'neighborhood'"):
        scores["locality_neighborhood"]
