"""Where key statistics come from: a corpus that is named, the store, an earlier edit, or the model itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from errata import Corpus, Editor, Store
from errata.decoder.contexts import STARTS
from errata.decoder.self_written import LENGTH, beginnings, write_texts
from errata.errors import StatisticsError
from errata.recipe import StatisticsSettings
from errata.statistics import KeyStatistics
from tests.editing import BOTH, RECIPE, decoder_of, editor_of
from tests.models import tiny_corpus, tiny_facts

FEW = replace(RECIPE, statistics=StatisticsSettings(per_dimension=1))


def without_corpus(store: Store, **options: Any) -> Editor:
    """An editor that is told of no text."""
    given: dict[str, Any] = {"recipe": FEW, **options}
    return editor_of(decoder_of("llama"), "memit", corpus=None, store=store, **given)


@pytest.mark.parametrize("family", BOTH)
def test_a_model_writes_the_same_text_from_the_same_seed_alone(family: str) -> None:
    decoder = decoder_of(family)
    text = write_texts(decoder, 300, seed=0)
    assert text == write_texts(decoder, 300, seed=0) != write_texts(decoder, 300, seed=1)
    assert len(text) == -(-300 // LENGTH) or len(text) > 3


class WithoutEnd:
    """A tokenizer that knows no token for the end of a document."""

    eos_token_id = None

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, *text: str, **options: Any) -> Any:
        return self.tokenizer(*text, **options)

    def get_vocab(self) -> dict[str, int]:
        return {}


def test_text_begins_where_a_document_begins() -> None:
    decoder, other = decoder_of("llama"), decoder_of("gpt2")
    assert beginnings(decoder) == [decoder.token_ids("a")[:1]]
    assert beginnings(other) == [[other.tokenizer.eos_token_id]]
    other.tokenizer = WithoutEnd(other.tokenizer)
    assert len(beginnings(other)) == len(STARTS)


def test_without_a_corpus_the_statistics_are_of_self_written_text_and_the_edit_says_so() -> None:
    editor = without_corpus(Store.nowhere())
    outcome = editor.edit(tiny_facts())
    tokens = editor.decoder.inner(1)
    assert outcome.edit.manifest["statistics"]["corpus"] == f"self-written: seed 0, {tokens} tokens"
    assert "text that the model writes itself" in outcome.ledger.notes[0]


def test_a_model_writes_two_tokens_for_each_dimension_and_their_moment_is_shrunk() -> None:
    editor = without_corpus(Store.nowhere(), recipe=RECIPE)
    given = editor.statistics()[1]
    raw = editor.supplies.stored_statistics([1, 2, 3])[1]
    assert 0 < raw.count <= 2 * editor.decoder.inner(1)
    assert torch.equal(given.moment, raw.shrunk(0.1).moment)
    assert editor.edit(tiny_facts()).edit.manifest["statistics"]["shrinkage"] == 0.1


def test_self_written_text_is_written_once_for_all_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_corpus(Store(tmp_path)).statistics()
    monkeypatch.setattr("errata.editors.supplies.write_texts", lambda *args: pytest.fail("written again"))
    gathered = without_corpus(Store(tmp_path), recipe=FEW.with_window((0, 1))).statistics()
    assert sorted(gathered) == [0, 1]


def test_the_largest_sample_in_the_store_is_taken_where_no_corpus_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for tokens in (200, 90, 150):
        sized = replace(RECIPE, statistics=StatisticsSettings(tokens=tokens))
        editor_of(
            decoder_of("llama"), "memit", recipe=sized, store=store, corpus=Corpus.of(tiny_corpus() * 9)
        ).statistics()
    editor = without_corpus(Store(tmp_path))
    assert editor.statistics()[1].count == 200
    assert "in the store, of 200 tokens of texts:" in (editor.edit(tiny_facts()).ledger.notes[0])


def test_a_sample_in_the_store_that_is_too_small_or_of_other_layers_is_not_taken(tmp_path: Path) -> None:
    small = replace(RECIPE, statistics=StatisticsSettings(tokens=5))
    editor_of(decoder_of("llama"), "memit", recipe=small, store=Store(tmp_path)).statistics()
    editor_of(decoder_of("llama"), "memit", recipe=RECIPE.with_window((0, 1)), store=Store(tmp_path)).statistics()
    assert without_corpus(Store(tmp_path)).supplies.source([1, 2, 3]).reason == "self-written"


def test_an_edit_that_goes_on_from_another_takes_its_statistics(tmp_path: Path) -> None:
    facts = tiny_facts()
    first = editor_of(decoder_of("llama"), "memit", recipe=FEW, store=Store(tmp_path))
    earlier = first.edit(facts[:1])
    editor_of(decoder_of("llama"), "memit", recipe=RECIPE, store=Store(tmp_path)).statistics()  # a larger sample
    editor = without_corpus(Store(tmp_path))
    both = editor.edit(facts[1:2], past=earlier.edit)
    assert both.edit.manifest["statistics"] == earlier.edit.manifest["statistics"]
    assert "those of the earlier edit" in both.ledger.notes[0]


def test_an_earlier_edits_statistics_that_are_gone_are_replaced_and_the_edit_says_so() -> None:
    facts = tiny_facts()
    earlier = editor_of(decoder_of("llama"), "memit", recipe=FEW).edit(facts[:1])
    outcome = without_corpus(Store.nowhere()).edit(facts[1:2], past=earlier.edit)
    assert "those of the earlier edit are not in the store" in outcome.ledger.notes[0]


def test_statistics_that_are_removed_meanwhile_are_missed_in_a_line(tmp_path: Path) -> None:
    editor_of(decoder_of("llama"), "memit", recipe=RECIPE, store=Store(tmp_path)).statistics()
    editor = without_corpus(Store(tmp_path))
    assert editor.supplies.source([1, 2, 3]).reason == "stored"
    editor.supplies.store = Store.nowhere()
    with pytest.raises(StatisticsError, match="no longer in the store"):
        editor.statistics()


def test_shrinkage_keeps_the_diagonal_and_settles_every_direction() -> None:
    keys = torch.randn(4, 9, dtype=torch.float64)
    moment = keys.T @ keys / 4
    raw = KeyStatistics(moment, 4)
    shrunk = raw.shrunk(0.1)
    assert raw.shrunk(0) is raw
    assert torch.equal(shrunk.moment.diagonal(), moment.diagonal())
    assert torch.allclose(shrunk.moment, 0.9 * moment + 0.1 * torch.diag(moment.diagonal()))
    assert torch.linalg.matrix_rank(moment) == 4
    assert torch.linalg.eigvalsh(shrunk.moment)[0] > 0.01


def test_a_recipes_shrinkage_reaches_the_solve_and_not_the_store(tmp_path: Path) -> None:
    settings = StatisticsSettings(shrinkage=0.25)
    store = Store(tmp_path)
    plain = editor_of(decoder_of("llama"), "memit", store=store).statistics()[1]
    shrunk = editor_of(decoder_of("llama"), "memit", recipe=replace(RECIPE, statistics=settings), store=store)
    assert torch.equal(shrunk.statistics()[1].moment, plain.shrunk(0.25).moment)
    assert torch.equal(shrunk.supplies.stored_statistics([1])[1].moment, plain.moment)
