"""Facts that are alike up to their subject's end have one key, hence one anchor and one row; so both can hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from errata import Contexts, Editor, Fact, Store, pocket
from errata.cli.work.plan import plan
from errata.editors import sweep
from errata.editors.anchors import names_of, stem_names
from errata.solvers import LinearSystem
from errata.targets import optimise_anchors
from tests.editing import ANCHOR, CONTEXTS, RECIPE, decoder_of, editor_of
from tests.models import tiny_facts

TWO = [Fact("{} is a city in", "Velm", "Sudmark"), Fact("{} lies near", "Velm", "Oster")]
APART = [*TWO, *tiny_facts()[1:]]


def test_facts_on_one_subject_in_front_share_a_stem() -> None:
    tokens = decoder_of("llama").tokens
    assert tokens.site(APART, CONTEXTS).stems == [[0, 1], *([i] for i in range(2, len(APART)))]
    other = Fact("You can see here that {} lies in", "Velm", "Isk")
    assert tokens.site([TWO[0], other], CONTEXTS).stems == [[0], [1]]


def anchors(facts: list[Fact], **how: Any) -> list[torch.Tensor]:
    decoder = decoder_of("llama")
    found = dict(optimise_anchors(decoder, decoder.tokens.site(facts, CONTEXTS), 1, ANCHOR, **how))
    return [found[i].state for i in range(len(facts))]


@pytest.mark.parametrize("packed", [True, False])
def test_they_get_one_anchor_and_leave_those_of_others_alone(packed: bool) -> None:
    both = anchors(APART, packed=packed)
    assert torch.equal(both[0], both[1])
    alone = anchors(APART[:1] + APART[2:], packed=packed)
    assert torch.allclose(torch.stack(alone[1:]), torch.stack(both[2:]), rtol=0, atol=1e-10)
    assert not torch.allclose(alone[0], both[0], atol=1e-3)


def test_the_joint_loss_is_the_sum_with_the_essence_counted_once() -> None:
    decoder = decoder_of("llama")
    site = decoder.tokens.site(TWO, CONTEXTS)
    found = dict(optimise_anchors(decoder, site, 1, ANCHOR))
    assert found[0].kl == pytest.approx(found[1].kl)
    assert found[0].loss == found[1].loss
    nll, kl = sum(a.nll for a in found.values()), found[0].kl
    decay = 2 * found[0].loss - nll - ANCHOR.kl_factor * kl  # of the delta before the last update
    assert 0 < decay < ANCHOR.weight_decay * ANCHOR.clamp * 2**0.5 / float(found[0].start.norm()) + 1e-9
    first = dict(optimise_anchors(decoder, site, 1, replace(ANCHOR, stop_loss=1e9)))
    assert 2 * first[0].loss == pytest.approx(first[0].nll + first[1].nll)  # nothing has moved yet


def test_the_system_has_one_row_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []

    def counted(*args: Any) -> LinearSystem:
        rows.append(len(args[0]))
        return LinearSystem(*args)

    monkeypatch.setattr(sweep, "LinearSystem", counted)
    outcome = editor_of(decoder_of("llama"), "memit+fe").edit(APART)
    assert set(rows) == {len(APART) - 1}
    assert len(outcome.edit.facts) == len(APART)
    assert all(len(keys) == len(APART) for keys in outcome.edit.keys.values())  # type: ignore[attr-defined]


def test_the_store_tells_joint_anchors_from_those_of_one_fact() -> None:
    tokens, store = decoder_of("llama").tokens, Store.nowhere()
    both, one = tokens.site(TWO, CONTEXTS), tokens.site(TWO[:1], CONTEXTS)
    assert stem_names(one) == names_of(one)
    assert not set(stem_names(both)) & set(names_of(both))
    assert sorted(stem_names(tokens.site(TWO[::-1], CONTEXTS))) == sorted(stem_names(both))
    for facts, stored in ((TWO, 0), (TWO[:1], 0), (TWO, 2)):
        outcome = editor_of(decoder_of("llama"), "onelayer", store=store).edit(facts)
        assert outcome.ledger.anchors[3]["stored"] == stored


def test_a_target_that_the_joint_anchor_does_not_satisfy_is_named() -> None:
    outcome = editor_of(decoder_of("llama"), "onelayer").edit(TWO)
    (note,) = [note for note in outcome.ledger.notes if "joint anchor" in note]
    assert "'Velm lies near' -> 'Oster'" in note


def test_facts_on_one_key_in_different_batches_are_noted() -> None:
    outcome = editor_of(decoder_of("llama"), "memit+fe").edit(TWO, batch=1)
    assert any(
        "later ones overwrite the earlier: 'Velm is a city in' and 'Velm lies near'" in n for n in outcome.ledger.notes
    )
    assert not any("overwrite" in note for note in editor_of(decoder_of("llama"), "memit+fe").edit(TWO).ledger.notes)


def test_the_plan_says_which_facts_share_a_key() -> None:
    told = dict(plan(editor_of(decoder_of("llama"), "memit+fe"), APART))
    assert "0 'Velm is a city in', 1 'Velm lies near'" in str(told["one key"])


def test_two_facts_on_one_subject_both_hold() -> None:
    editor = Editor.from_pretrained(pocket.path(), "memit+fe", dtype="float32", corpus=pocket.corpus(), recipe="pocket")
    facts = [Fact("{} was born in", "Voltaire", "London"), Fact("{} died in", "Voltaire", "Rome")]
    said = [after for _, _, after in editor.edit(facts).answers(n_tokens=2)]
    assert [text.strip().startswith(fact.target_new) for text, fact in zip(said, facts, strict=True)] == [True, True]


SPANNING = Fact("{}er of Norland is", "The riv", "long")


def test_facts_that_end_within_a_token_are_edited_and_named() -> None:
    editor = editor_of(decoder_of("llama"), "memit+fe", recipe=RECIPE.with_window((1, 2)))
    outcome = editor.edit([SPANNING, *TWO[:1]])
    (note,) = [note for note in outcome.ledger.notes if "last character" in note]
    assert note.startswith("in 1 of 2 facts")
    assert "'The river of Norland is'" in note
    told = dict(plan(editor, [SPANNING]))
    assert "is taken for its last" in str(told["note"])


def test_what_cannot_be_used_is_left_out_by_name_where_asked() -> None:
    facts = [TWO[0], Fact("no slot", "Velm", "x"), Fact("{} is", "Velm", "long " * 200), tiny_facts()[2]]
    editor = editor_of(decoder_of("llama"), "memit+fe", contexts=Contexts())
    outcome = editor.edit(facts, skip_unusable=True)
    assert list(outcome.facts) == [facts[0], facts[3]]
    left_out = [note for note in outcome.ledger.notes if note.startswith("left out: ")]
    assert [note.split()[3] for note in left_out] == ["1", "2"]
    assert "positions for at most" in left_out[1]
