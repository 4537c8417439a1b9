"""The verdict on an edit: its numbers, its one line, and what it says of missed facts."""

from __future__ import annotations

import pytest

from errata import Fact, Store
from errata.dataset import Case
from errata.errors import StoreError, WrongEdit
from errata.record.verdict import FactVerdict, Neighbour, Verdict, shown
from tests.editing import RECIPE, decoder_of, editor_of
from tests.models import tiny_facts

FACTS = tiny_facts()[:3]
TOLD = Verdict(
    facts=(
        FactVerdict("The capital of Chad is", "Lima", "N'Djamena", "Lima,", True, False, 0.9),
        FactVerdict("Say", "a\nb", " c", "d ", False, False, 0.1, "too gentle"),
    ),
    wanted=2,
    paraphrases=(1, 3),
    neighbours=(Neighbour("The capital of Peru is", "Lima", "Lima", True), Neighbour("Q", "x", "y", False)),
    neighbours_from="written",
    divergence=0.1,
    perplexity=(48.1, 48.14),
    held_out="the corpus",
)


def test_one_line_says_what_an_edit_did() -> None:
    assert str(TOLD) == (
        "1 of 2 facts hold, 1 of 3 paraphrases; of 2 neighbours 1 as before; held-out text 48.1 -> 48.1 perplexity"
    )
    assert TOLD.share == 0.5


def test_the_table_has_every_fact_missed_ones_first_with_spaces_and_line_breaks_shown() -> None:
    table = TOLD.table()
    assert [row[0] for row in table.rows] == ["missed", "holds"]
    assert "a\\nb" in table.rows[0][1]
    assert table.rows[0][-1] == "d␣"
    assert shown("  x ") == "␣␣x␣"


def test_changed_neighbours_come_first_and_advice_names_the_facts() -> None:
    assert [line.partition(":")[0] for line in TOLD.slip()] == ["changed", "unchanged"]
    assert TOLD.advice() == ["1 missed ('Say'): too gentle"]


def test_a_verdict_survives_json_and_another_file_is_refused() -> None:
    assert Verdict.from_json(TOLD.to_json()) == TOLD
    with pytest.raises(StoreError):
        Verdict.from_json({"facts": 3})
    with pytest.raises(StoreError):
        Verdict.from_json([1])


def test_the_verdict_asks_facts_paraphrases_and_the_records_neighbours() -> None:
    decoder = decoder_of("llama")
    outcome = editor_of(decoder, "memit+fe", recipe=RECIPE).edit(FACTS)
    case = Case(FACTS[0], "0", paraphrases=("Velm is in", "Velm lies in"), neighbourhood=("Una is a city in",))
    told = outcome.verdict([case])
    assert len(told.facts) == 3
    assert told.paraphrases is not None
    assert told.paraphrases[1] == 2
    assert [n.prompt for n in told.neighbours] == ["Una is a city in"]
    assert told.neighbours_from == "of the records"
    assert told.perplexity is not None
    assert all(fact.holds or fact.advice for fact in told.facts)
    decoder.restore()


def test_neighbours_for_the_choice_are_not_those_of_the_report() -> None:
    decoder = decoder_of("llama")
    editor = editor_of(decoder, "memit+fe", recipe=RECIPE)
    written = editor.supplies.neighbours(FACTS)
    assert len(written) == len(set(written)) > 1
    assert not set(written) & {fact.text for fact in FACTS}
    told = editor.edit(FACTS).verdict()
    assert not {n.prompt for n in told.neighbours} & set(written[::2])
    decoder.restore()


def test_neighbours_are_the_same_for_the_same_seed() -> None:
    made = [editor_of(decoder_of("gpt2"), "memit").supplies.neighbours(FACTS) for _ in range(2)]
    assert made[0] == made[1]


def test_a_missed_fact_on_the_attention_sink_is_told_so() -> None:
    """GPT-2's tokenizer puts nothing in front, so a subject of one token stands at position 0."""
    decoder = decoder_of("gpt2")
    fact = Fact("{} is a city in", "Velm", "Sudmark")
    site = decoder.tokens.site([fact], editor_of(decoder, "memit").supplies.contexts)
    told = editor_of(decoder, "memit", recipe=RECIPE).edit([fact]).verdict()
    sink = "attention sink" in told.facts[0].advice
    assert told.facts[0].holds or sink == bool(site.at_start)


def test_the_outcome_of_a_bare_pipeline_has_nobody_to_judge_it() -> None:
    decoder = decoder_of("llama")
    editor = editor_of(decoder, "memit", store=Store.nowhere())
    outcome = editor.pipeline.edit(FACTS, editor.supplies)
    with pytest.raises(WrongEdit, match="edit with an Editor"):
        outcome.verdict()
    outcome.restore()
