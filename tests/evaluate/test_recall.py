"""Batched scores are those of one record at a time, run plainly; and the definitions are the published ones."""

from __future__ import annotations

from math import exp

import pytest
import torch

from errata.decoder import passes
from errata.decoder.decoder import Decoder
from errata.errors import EmptyScore, UnusableFacts
from errata.evaluate import (
    Accuracy,
    AmongSubjects,
    Case,
    Difference,
    Recall,
    Success,
    evaluate,
    probes,
    retokenised,
)
from errata.fact import Fact
from tests.evaluate.conftest import answer_of
from tests.models import FAMILIES, tiny_tokenizer


def plainly(decoder: Decoder, prompt: str, answer: str) -> tuple[float, list[bool]]:
    """NLL and hits of one answer by one unpadded forward pass of the transformers model."""
    front = decoder.tokenizer(prompt)["input_ids"]
    target = decoder.tokenizer(" " + answer, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = decoder.model(input_ids=torch.tensor([front + target])).logits[0]
    table = logits[len(front) - 1 : -1].log_softmax(-1)
    picked = [float(row[token]) for row, token in zip(table, target, strict=True)]
    return -sum(picked) / len(picked), [int(row.argmax()) == t for row, t in zip(table, target, strict=True)]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def expected(decoder: Decoder, case: Case) -> dict[str, float]:
    """Evaluation 1.1, 1.2 and 2, written out for one record."""
    new, true, found = case.fact.target_new, case.target_true, {}
    asked = {
        "efficacy": [case.fact.text],
        "generalisation": list(case.paraphrases if true else case.paraphrases[:1]),
        "novel": list(case.novel),
    }
    for kind, prompts in asked.items():
        if not prompts:
            continue
        of_new = [plainly(decoder, prompt, new) for prompt in prompts]
        found[f"{kind}_accuracy"] = mean([float(all(hits)) for _, hits in of_new])
        if true:
            of_true = [plainly(decoder, prompt, true) for prompt in prompts]
            pairs = list(zip(of_new, of_true, strict=True))
            found[f"{kind}_success"] = mean([float(n[0] < t[0]) for n, t in pairs])
            found[f"{kind}_diff"] = mean([exp(-n[0]) - exp(-t[0]) for n, t in pairs])
        else:
            found[f"{kind}_success"] = mean([sum(hits) / len(hits) for _, hits in of_new])
    near = list(zip(case.neighbourhood, case.neighbourhood_answers or [true] * 99, strict=False))
    near = [pair for pair in near if pair[1]][: None if true else 1]
    if near:
        right = [plainly(decoder, *pair) for pair in near]
        found["neighbourhood_accuracy"] = mean([float(all(hits)) for _, hits in right])
        if true:
            wrong = [plainly(decoder, prompt, new) for prompt, _ in near]
            pairs = list(zip(right, wrong, strict=True))
            found["neighbourhood_success"] = mean([float(r[0] < w[0]) for r, w in pairs])
            found["neighbourhood_diff"] = mean([exp(-r[0]) - exp(-w[0]) for r, w in pairs])
        else:
            found["neighbourhood_success"] = mean([sum(hits) / len(hits) for _, hits in right])
    return found


@pytest.mark.parametrize("budget", [1, 40, 8192])
def test_batched_scores_are_those_of_one_record_at_a_time(
    decoder: Decoder, cases: list[Case], budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "tokens_at_once", lambda _decoder: budget)
    scores = evaluate(decoder, cases, probes("belief", "neighbourhood"))
    one_by_one = [expected(decoder, case) for case in cases]
    assert set(scores) == {name for found in one_by_one for name in found}
    for name, score in scores.items():
        for got, found in zip(score.per_case, one_by_one, strict=True):
            assert got == (pytest.approx(found[name], abs=1e-9) if name in found else None), name
        assert score.value == pytest.approx(mean([found[name] for found in one_by_one if name in found]))
    assert 0 < scores["efficacy_accuracy"].value < 1


@pytest.mark.parametrize(("family", "bos"), [("gpt2", False), ("gemma2", True)])
def test_readings_of_other_families_and_tokenizers_match_plain_ones(family: str, bos: bool) -> None:
    model = Decoder(FAMILIES[family](), tiny_tokenizer(bos=bos))
    asked = [Recall("Velm is a city in", "Norland"), Recall("Velm is", "a"), Recall("Velm is", "a city in Isk")]
    for question, reading in zip(asked, Recall.ask(model, asked), strict=True):
        nll, hits = plainly(model, question.prompt, question.answer)
        assert reading.nll == pytest.approx(nll, abs=1e-9)
        assert list(reading.hits) == hits


def test_answers_that_share_a_beginning_share_a_row(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[list[int]] = []
    logits = decoder.logits
    monkeypatch.setattr(decoder, "logits", lambda r, p: rows.extend(r) or logits(r, p))
    one = ["Velm", "Quill", "Sig"]
    assert all(len(decoder.answer_ids(answer)) == 1 for answer in one)
    Recall.ask(decoder, [Recall("Una was born in", answer) for answer in [*one, "Marrow Bay"]])
    assert len(rows) == 1


def test_a_tie_between_the_two_answers_is_a_failure(decoder: Decoder) -> None:
    case = Case(Fact("{} is a city in", "Velm", "Norland"), "0", "Norland")
    assert Success("efficacy")(decoder, [case]).value == 0
    assert Difference("efficacy")(decoder, [case]).value == 0


def test_of_equal_logits_the_lower_token_id_is_the_argmax(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder.model.lm_head.weight.data.zero_()
    monkeypatch.setattr(decoder, "answer_ids", lambda answer, *_: [int(answer)])
    zero, one = Recall.ask(decoder, [Recall("Velm is", "0"), Recall("Velm is", "1")])
    assert zero.log_probabilities == one.log_probabilities
    assert (zero.exact, one.exact) == (True, False)


def test_the_protocol_follows_from_the_case_and_stands_beside_the_number(decoder: Decoder, cases: list[Case]) -> None:
    mcf, zsre = [c for c in cases if c.target_true], [c for c in cases if not c.target_true]
    assert Success("efficacy")(decoder, mcf).protocol == "mcf/teacher-forced"
    assert Success("efficacy")(decoder, zsre).protocol == "zsre/token-accuracy"
    assert Success("efficacy")(decoder, cases).protocol == "mcf/teacher-forced and zsre/token-accuracy"
    assert "efficacy_diff" not in evaluate(decoder, zsre, [Difference("efficacy")])
    with pytest.raises(EmptyScore, match="'efficacy_diff': none of 3 cases has prompts"):
        Difference("efficacy")(decoder, zsre)


def test_efficacy_splits_by_unique_and_repeated_subject(decoder: Decoder, cases: list[Case]) -> None:
    whole = Accuracy("efficacy")(decoder, cases)
    once, often = (AmongSubjects(Accuracy("efficacy"), repeated)(decoder, cases) for repeated in (False, True))
    repeated = [case.fact.subject == "Una" for case in cases]
    assert often.per_case == tuple(v if r else None for v, r in zip(whole.per_case, repeated, strict=True))
    assert once.per_case == tuple(None if r else v for v, r in zip(whole.per_case, repeated, strict=True))
    assert (once.name, often.name) == ("efficacy_accuracy_unique", "efficacy_accuracy_repeated")


def test_the_unedited_models_scores_are_had_inside_unedited(decoder: Decoder, cases: list[Case]) -> None:
    after = evaluate(decoder, cases, probes("belief"))
    with decoder.unedited():
        before = evaluate(decoder, cases, probes("belief"))
    assert evaluate(decoder, cases, probes("belief")) == after
    decoder.restore()
    assert evaluate(decoder, cases, probes("belief")) == before
    assert before["efficacy_accuracy"].value < after["efficacy_accuracy"].value


def test_progress_is_told_and_ends_at_the_whole(decoder: Decoder, cases: list[Case]) -> None:
    told: list[tuple[str, int, int]] = []
    evaluate(decoder, cases, probes(), lambda *step: told.append(step))
    last = {what: (done, whole) for what, done, whole in told}
    assert set(last) == {"recall", "specificity", "first T tokens", "until it stops"}
    assert all(done == whole > 0 for done, whole in last.values())


def test_an_answer_without_tokens_is_refused(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "answer_ids", lambda *_: [])
    with pytest.raises(UnusableFacts, match=r"'Isk' has no tokens: nothing to score"):
        Recall.ask(decoder, [Recall("Velm is", "Isk")])


def test_joining_ids_is_tokenising_jointly_for_byte_level_bpe(decoder: Decoder, cases: list[Case]) -> None:
    assert retokenised(decoder, cases) == []
    assert answer_of(decoder, cases[0].fact.text, 1) == cases[0].fact.target_new
