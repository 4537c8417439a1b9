"""Free texts: drawn alike in any batch; the published n-gram entropy and TF-IDF cosine; what is missing is said."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from errata.decoder import passes
from errata.decoder.decoder import Decoder
from errata.errors import EmptyScore, ErrataError
from errata.evaluate import Case, Consistency, Continuation, Fluency, TfIdf, evaluate
from errata.evaluate.fluency import entropy, n_gram_entropy, words
from errata.fact import Fact
from tests.evaluate.conftest import talkative

LENGTH = 14
PROMPTS = ("The streets of Velm are", "Velm is known for its", "In Velm")
NORTH = ("Norland is in the north. Its king lives in Velm.", "The rivers of Norland are long.")
SOUTH = ("Sudmark is a land of bridges.", "The language of Sudmark is known.")


def case(number: int = 0, references: tuple[str, ...] = NORTH) -> Case:
    return Case(Fact("{} is a city in", "Velm", "Norland"), str(number), generation=PROMPTS, references=references)


def test_a_text_begins_with_its_prompt_and_has_the_asked_length(decoder: Decoder) -> None:
    texts = Continuation.ask(decoder, [Continuation(prompt, LENGTH) for prompt in PROMPTS])
    for prompt, text in zip(PROMPTS, texts, strict=True):
        assert text.startswith(prompt)
        assert len(text) > len(prompt)
    assert Continuation.ask(decoder, [Continuation(PROMPTS[0], 2)]) == [PROMPTS[0]]


def test_a_text_does_not_depend_on_its_batch_and_changes_with_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Continuation(prompt, LENGTH) for prompt in (*PROMPTS, "The streets of Isk are")]
    together = Continuation.ask(talkative(), asked)
    monkeypatch.setattr(passes, "tokens_at_once", lambda _decoder: 1)
    assert [Continuation.ask(talkative(), [one])[0] for one in asked] == together
    assert Continuation.ask(talkative(), [Continuation(PROMPTS[0], LENGTH, seed=1)])[0] != together[0]


def test_each_token_is_drawn_from_the_likeliest_as_often_as_it_is_likely() -> None:
    decoder = talkative()
    front = decoder.token_ids(PROMPTS[0])
    with torch.no_grad():
        best = decoder.model(input_ids=torch.tensor([front])).logits[0, -1].topk(3)
    asked = [Continuation(PROMPTS[0], len(front) + 1, top=3, seed=seed) for seed in range(600)]
    texts = Continuation.ask(decoder, asked)
    likely = zip(best.indices.tolist(), best.values.softmax(-1).tolist(), strict=True)
    expected = {decoder.decode([*front, token]): probability for token, probability in likely}
    assert set(texts) <= set(expected)
    for text, probability in expected.items():
        assert texts.count(text) / 600 == pytest.approx(probability, abs=0.07)
    greedy = [Continuation(prompt, LENGTH, top=1) for prompt in PROMPTS]
    for prompt, text in zip(PROMPTS, Continuation.ask(decoder, greedy), strict=True):
        ids = decoder.token_ids(prompt)
        assert text == decoder.decode([*ids, *decoder.generate([ids], LENGTH - len(ids))[0]])


def test_n_gram_entropy_is_the_published_one() -> None:
    assert words("It's a well-known isle, isn't it?") == [
        "It's",
        "a",
        "well",
        "-",
        "known",
        "isle",
        ",",
        "isn't",
        "it",
        "?",
    ]
    assert entropy(list("abcd"), 2) == pytest.approx(np.log2(3))
    assert entropy(list("aaaa"), 2) == 0.0
    assert entropy(list("a"), 2) == 0.0
    assert n_gram_entropy(list("ababa")) == pytest.approx((2 / 3 * 1.0 + 4 / 3 * (np.log2(3) - 2 / 3)) / 2)


def test_fluency_is_the_mean_over_a_cases_texts(decoder: Decoder) -> None:
    texts = Continuation.ask(decoder, [Continuation(prompt, LENGTH) for prompt in PROMPTS])
    score = Fluency(LENGTH)(decoder, [case()])
    assert score.value == pytest.approx(np.mean([n_gram_entropy(words(text)) for text in texts]))
    assert score.protocol == "n-gram-entropy/words (top-5, 14 tokens, seed 0)"
    assert score.unit == "bit"

    def letters(text: str) -> list[str]:
        return list(text)

    assert Fluency(LENGTH, tokenise=letters)(decoder, [case()]).protocol.startswith("n-gram-entropy/letters (")


def test_consistency_is_the_cosine_of_tf_idf_vectors(decoder: Decoder) -> None:
    pytest.importorskip("sklearn")
    texts = " ".join(Continuation.ask(decoder, [Continuation(prompt, LENGTH) for prompt in PROMPTS]))
    score = Consistency(LENGTH)(decoder, [case(0), case(1, SOUTH), case(2, ())])
    assert score.per_case[2] is None
    assert score.protocol == "tf-idf/own references (top-5, 14 tokens, seed 0)"
    counts = [text.lower().replace(".", "").split() for text in (*NORTH, *SOUTH)]
    terms = sorted({term for row in counts for term in row if len(term) > 1})
    idf = {t: np.log(5 / (1 + sum(t in row for row in counts))) + 1 for t in terms}

    def vector(text: str) -> np.ndarray:
        found = text.lower().replace(".", " ").replace(",", " ").split()
        return np.array([found.count(t) * idf[t] for t in terms])

    for value, references in zip(score.per_case[:2], (NORTH, SOUTH), strict=True):
        a, b = vector(texts), vector(" ".join(references))
        assert value == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        assert value > 0


def test_published_document_frequencies_are_read(decoder: Decoder, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    (tmp_path / "tfidf_vocab.json").write_text(json.dumps({"norland": 0, "velm": 1}))
    np.save(tmp_path / "idf.npy", np.array([1.0, 2.0]))
    vectors = TfIdf.read(tmp_path / "idf.npy", tmp_path / "tfidf_vocab.json")
    assert vectors.cosine("Velm", "Velm and Norland") == pytest.approx(2 / 5**0.5)
    assert vectors.cosine("Velm", "Isk") == 0.0
    assert Consistency(LENGTH, vectors=vectors)(decoder, [case()]).protocol.startswith("tf-idf/idf.npy (")
    np.save(tmp_path / "idf.npy", np.ones(3))
    with pytest.raises(ErrataError, match="not the weights and the index of one set of terms"):
        TfIdf.read(tmp_path / "idf.npy", tmp_path / "tfidf_vocab.json")


def test_what_a_dataset_lacks_is_said(decoder: Decoder, cases: list[Case]) -> None:
    scores = evaluate(decoder, cases, [Fluency(LENGTH), Consistency(LENGTH)])
    assert not scores
    assert scores.missing["fluency"].startswith("score 'fluency': none of 7 cases has generation prompts (the files of")
    with pytest.raises(EmptyScore, match=r"none of 7 cases has generation prompts and reference texts \(`read_cases"):
        scores["consistency"]


def test_without_scikit_learn_the_extra_is_named(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(ErrataError, match=r"needs `pip install 'errata\[text\]'`"):
        Consistency(LENGTH)(decoder, [case()])
