"""The guard: what it measures, when it stops a run, and what is kept then."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from errata import Corpus, Decoder, Store, WeightEdit
from errata.dataset import Case
from errata.editors.guard import Guard, Health, Watch
from errata.errors import Collapsed
from tests.editing import BOTH, RECIPE, decoder_of, editor_of
from tests.editors.test_siblings import QUICK
from tests.models import FAMILIES, tiny_corpus, tiny_facts, tokenizer_of

FACTS = tiny_facts()
TEXTS = tuple(tiny_corpus()[:4])
OPEN = Guard(TEXTS, growth=None, divergence=None, perplexity=None)


@pytest.mark.parametrize("family", BOTH)
def test_health_is_what_plain_transformers_says(family: str) -> None:
    decoder = decoder_of(family)
    rows = [decoder.token_ids(text) for text in TEXTS]

    @torch.no_grad()
    def plain() -> tuple[list[torch.Tensor], float]:
        logits = [decoder.model(torch.tensor([row])).logits[0].double().log_softmax(-1) for row in rows]
        losses = [-one[:-1][range(len(row) - 1), row[1:]] for one, row in zip(logits, rows, strict=True)]
        places = [{math.ceil(k * len(row) / 4) - 1 for k in (1, 2, 3, 4)} for row in rows]
        marked = [one[at] for one, chosen in zip(logits, places, strict=True) for at in sorted(chosen)]
        return marked, float(torch.cat(losses).mean())

    before, loss = plain()
    outcome = editor_of(decoder, "memit", guard=OPEN).edit(FACTS, batch=4)
    after, edited_loss = plain()
    health = outcome.ledger.health[-1]
    kl = sum(float((b.exp() * (b - a)).sum()) for b, a in zip(before, after, strict=True)) / len(before)
    assert health.divergence == pytest.approx(kl, rel=1e-6)
    assert health.perplexity == pytest.approx(math.exp(edited_loss - loss), rel=1e-6)
    for layer, growth in health.growth.items():
        change = decoder.weight(layer) - decoder.original(layer)
        assert growth == pytest.approx(float(change.norm() / decoder.original(layer).norm()), rel=1e-9)
    assert [health.batch for health in outcome.ledger.health] == [0, 1]


@pytest.mark.parametrize("method", ["memit+fe", "ft-m"])
def test_a_crossed_limit_ends_the_run_with_the_batch_before_it(method: str) -> None:
    def edited(guard: Guard | None, n: int, store: Store) -> Any:
        return editor_of(decoder_of("llama"), method, guard=guard, store=store).edit(FACTS[:n], batch=2)

    store = Store.nowhere()
    free = edited(OPEN, 8, store)
    growths = [max(health.growth.values()) for health in free.ledger.health]
    limit = (max(growths[:2]) + max(growths)) / 2
    stop = next(i for i, growth in enumerate(growths) if growth > limit)
    stopped = edited(Guard(TEXTS, growth=limit, divergence=None, perplexity=None), 8, Store.nowhere())
    assert len(stopped.facts) == 2 * stop
    assert len(stopped.edit.facts) == 2 * stop
    assert f"stopped after {2 * stop} facts" in stopped.ledger.notes[-1]
    whole = edited(None, 2 * stop, store)
    assert isinstance(stopped.edit, WeightEdit)
    assert stopped.edit.delta.digest == whole.edit.delta.digest == stopped.decoder.change.digest


def test_a_first_batch_that_crosses_a_limit_is_taken_back() -> None:
    decoder = decoder_of("llama")
    with pytest.raises(Collapsed, match=r"after the first batch .* of layer . is .*above 1e-09. Nothing was kept"):
        editor_of(decoder, "memit", guard=Guard(TEXTS, growth=1e-9)).edit(FACTS, batch=4)
    assert not decoder.is_edited


@pytest.mark.parametrize("method", ["memit+fe", "ft-m", "wise", "rledit"])
def test_a_single_edit_that_crosses_a_limit_is_taken_back(method: str) -> None:
    decoder = decoder_of("llama")
    before = decoder.weight(2).clone()
    recipe = replace(RECIPE, editors=QUICK)
    practice = [Case(fact, str(i)) for i, fact in enumerate(FACTS[4:])]
    editor = editor_of(decoder, method, guard=Guard(TEXTS, divergence=0.0), recipe=recipe, practice=practice)
    with pytest.raises(Collapsed, match=r"after this edit .* above 0.0. Nothing was kept; the model is as it was"):
        editor.edit(FACTS[:4])
    assert not decoder.is_edited
    assert torch.equal(decoder.weight(2), before)


def test_the_guard_is_on_unless_it_is_turned_off() -> None:
    decoder = decoder_of("llama")
    watched = editor_of(decoder, "memit").edit(FACTS)
    assert len(watched.ledger.health) == 1
    watched.restore()
    assert not editor_of(decoder, "memit", guard=None).edit(FACTS).ledger.health


def test_batches_of_an_earlier_run_are_watched_under_new_limits_too() -> None:
    store = Store.nowhere()

    def stopped(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("batches", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        editor_of(decoder_of("llama"), "memit", guard=OPEN, store=store, progress=stopped).edit(FACTS, batch=4)
    with pytest.raises(Collapsed, match="after the first batch"):
        editor_of(decoder_of("llama"), "memit", guard=Guard(TEXTS, growth=1e-9), store=store).edit(FACTS, batch=4)
    resumed = editor_of(decoder_of("llama"), "memit", guard=OPEN, store=store).edit(FACTS, batch=4)
    assert "the first 1 batches were done by an earlier run" in resumed.ledger.notes[0]
    assert [health.batch for health in resumed.ledger.health] == [0, 1]


def test_a_guard_reads_no_corpus_that_would_have_to_be_downloaded() -> None:
    def unreachable() -> Iterator[str]:
        raise OSError("no network")

    editor = editor_of(decoder_of("llama"), "memit", corpus=Corpus("hub:somewhere", unreachable))
    assert editor.supplies.guard is not None
    assert len(editor.supplies.guard.texts) == 20


def test_a_guard_without_texts_is_given_some() -> None:
    assert editor_of(decoder_of("llama"), "memit", guard=Guard()).supplies.guard.texts  # type: ignore[union-attr]
    bare = editor_of(decoder_of("llama"), "memit", guard=Guard(), corpus=None)
    assert bare.supplies.guard is not None
    assert len(bare.supplies.guard.texts) == 20


@pytest.mark.parametrize(
    ("health", "words"),
    [
        (Health(0, {1: 0.1, 2: 30.0}, 0.1, 1.0), r"|dW| / |W| of layer 2 is 30, above 10.0"),
        (Health(0, {1: 0.1}, 1.5, 1.0), "the divergence on held-out texts is 1.5, above 1.0"),
        (Health(0, {1: 0.1}, float("nan"), 1.0), "the divergence on held-out texts is nan, above 1.0"),
        (Health(0, {1: 0.1}, 0.1, 9.0), "the growth of perplexity on held-out texts is 9, above 2.0"),
        (Health(0, {1: 0.1}, 0.1, 1.0), None),
    ],
)
def test_limits_are_told_in_words(health: Health, words: str | None) -> None:
    assert Guard().crossed(health) == words


def test_texts_of_one_token_are_left_out() -> None:
    assert len(Watch(Guard(("", *TEXTS)), decoder_of("gpt2")).rows) == len(TEXTS)


@pytest.mark.parametrize("family", BOTH)
def test_a_low_precision_model_says_what_rounding_costs(family: str) -> None:
    low = Decoder(FAMILIES[family]().to(torch.bfloat16), tokenizer_of(family))
    outcome = editor_of(low, "memit").edit(FACTS)
    seen = [row.rounding for row in outcome.ledger.rows]
    assert all(0 < value < 0.5 for value in seen)
    assert f"up to {max(seen):.1%}" in outcome.ledger.notes[-1]
    assert all(row.rounding == 0 for row in editor_of(decoder_of(family), "memit").edit(FACTS).ledger.rows)
