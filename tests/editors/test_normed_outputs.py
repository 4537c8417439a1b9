"""Edits of families that do more to a down-projection's output than add it: the stream gets there all the same."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from errata import Contexts, Decoder, Outcome, Recipe
from errata.decoder.frontier import Frontier
from errata.decoder.reach import Reach
from errata.editors.base import Ledger, LedgerRow
from errata.editors.locate_then_edit import LocateThenEdit
from errata.errors import UnsupportedModel
from errata.method import Pair
from errata.methods import METHODS
from errata.record.tables import residual_table
from tests.editing import ANCHOR, RECIPE, decoder_of, editor_of
from tests.models import FAMILIES, RELATIVES, tiny_facts, tiny_model, tokenizer_of

FACTS = tiny_facts()
_GLM4 = partial(tiny_model, "glm4", hidden_size=48, num_attention_heads=4, num_key_value_heads=2, head_dim=12)
BUILDERS = FAMILIES | RELATIVES | {"glm4": partial(_GLM4, num_hidden_layers=5, intermediate_size=80)}
NORMED = ("gemma2", "gemma3_text", "olmo2", "glm4")
FREE = Recipe("free", (2,), anchor=ANCHOR, solvers={"least_squares": {"weight": 1e-9, "ridge": 1e-9}})
"""One layer, and next to nothing that is preserved."""
BLOCKS = [name for name, row in METHODS.items() if isinstance(row, Pair) and row.construction.search.space == "block"]
PARTS = {getattr(METHODS[name], axis): name for name in BLOCKS[::-1] for axis in ("construction", "solver")}
"""Each construction and each solver, with a method that has it."""


def decoder(family: str) -> Decoder:
    return Decoder(BUILDERS[family](), tokenizer_of(family))


def written(family: str, method: str = "memit+fe") -> Outcome:
    return editor_of(decoder(family), method, recipe=FREE, contexts=Contexts()).edit(FACTS)


def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Solve as if every family added its outputs as they are."""
    monkeypatch.setattr(LocateThenEdit, "reach", lambda self, decoder: {})


@pytest.mark.parametrize("family", NORMED)
def test_the_stream_moves_as_far_as_the_norm_allows(family: str) -> None:
    (row,) = written(family).ledger.rows
    assert row.solve_residual < 1e-6
    assert row.swallowed is not None
    assert row.remaining[2] == pytest.approx(row.swallowed, abs=1e-3)
    assert row.swallowed < 0.5


@pytest.mark.parametrize("family", NORMED)
def test_solved_behind_the_norm_the_stream_gets_nowhere(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left = written(family).ledger.rows[0].remaining[2]
    as_before(monkeypatch)
    assert written(family).ledger.rows[0].remaining[2] > left + 0.2


@pytest.mark.parametrize("family", ["gemma3_text", "olmo2"])
def test_anchors_are_states_that_the_layer_can_give(family: str) -> None:
    outcome = written(family, "onelayer")
    reach = outcome.decoder.reach([2])[2]
    outcome.restore()
    site = outcome.decoder.tokens.site(FACTS, Contexts())
    now = outcome.decoder.states(site.bare, [2])[2].cpu()
    assert reach.gain is not None
    outputs = Frontier(outcome.decoder, site.bare).states([2], space="mlp")[2]
    given = (outcome.targets[2] - now + reach.contribution(outputs)) / reach.gain
    assert torch.allclose(given.square().mean(1), torch.ones(len(FACTS), dtype=given.dtype), atol=1e-4)


def test_a_constant_behind_the_output_is_divided_out() -> None:
    (row,) = written("granite").ledger.rows
    assert row.remaining[2] < 1e-6
    assert row.swallowed is None


@pytest.mark.parametrize("method", ["memit", "memit+fe", "memit+gr", "blue", "rome"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_families_that_add_their_outputs_are_edited_bit_for_bit_as_ever(
    family: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPE.with_solver("rank_one", ridge=0.01)

    def change() -> dict[str, torch.Tensor]:
        outcome = editor_of(decoder_of(family), method, recipe=recipe).edit(FACTS[:3])
        return dict(outcome.edit.delta.changes)  # type: ignore[attr-defined]

    now = change()
    as_before(monkeypatch)
    assert all(torch.equal(value, now[name]) for name, value in change().items())


SOLVABLE = (
    RECIPE.with_solver("rank_one", ridge=0.01)
    .with_solver("null_space", threshold=0.3, ridge=1.0)
    .with_solver("equality_constrained", weight=1.0, ridge=0.01)
)


@pytest.mark.parametrize("method", sorted(set(PARTS.values())))
def test_every_method_of_the_stream_solves_in_front_of_the_norm(method: str) -> None:
    outcome = editor_of(decoder_of("gemma3_text"), method, recipe=SOLVABLE).edit(FACTS[:3])
    assert all(row.swallowed is not None and row.swallowed < 1 for row in outcome.ledger.rows)
    assert all(row.update_norm < 3 * row.weight_norm for row in outcome.ledger.rows)


def test_methods_of_the_output_keep_to_it() -> None:
    for method in ("rome-original", "pmet"):
        outcome = editor_of(decoder_of("gemma3_text"), method, recipe=SOLVABLE).edit(FACTS[:2])
        assert all(row.swallowed is None for row in outcome.ledger.rows)


def test_batches_a_past_and_dropped_facts_go_through_the_norm_too() -> None:
    editor = editor_of(decoder_of("gemma3_text"), "memit+fe")
    first = editor.edit(FACTS[:4], batch=2)
    second = editor.edit(FACTS[4:], past=first.edit)
    third = editor.edit(past=second.edit, drop=[0])
    for outcome in (first, second, third):
        assert all(row.swallowed is not None and row.remaining[row.edit] < 1 for row in outcome.ledger.rows)
    assert len(third.edit.facts) == len(FACTS) - 1


def test_a_block_of_another_shape_is_refused_before_anything_changes() -> None:
    model = decoder_of("llama")
    block = model.blocks[2]
    old = block.mlp.forward  # type: ignore[union-attr]
    block.mlp.forward = lambda state: torch.tanh(old(state))  # type: ignore[union-attr]
    with pytest.raises(UnsupportedModel, match="layer 2 reaches the residual stream neither"):
        editor_of(model, "memit+fe").edit(FACTS)
    assert not model.is_edited
    editor_of(model, "rome-original", recipe=SOLVABLE).edit(FACTS[:1])


def test_the_share_swallowed_is_shown_for_such_families_alone() -> None:
    normed, plain = written("gemma2").ledger.to_json(), written("llama").ledger.to_json()
    table = residual_table({"gemma": normed})
    assert [row[0] for row in table.rows] == ["gemma", "gemma, swallowed by the norm"]
    assert [row[0] for row in residual_table({"llama": plain}).rows] == ["llama"]


def test_ledgers_saved_without_the_share_load() -> None:
    ledger = written("llama").ledger.to_json()
    for row in ledger["rows"]:
        del row["swallowed"]
    assert Ledger.from_json(ledger).rows[0].swallowed is None
    assert LedgerRow.__dataclass_fields__["swallowed"].default is None


def test_a_reach_says_in_words_what_it_is() -> None:
    assert str(Reach()) == "added to the stream as it is"
    assert str(Reach(0.22)) == "added to the stream, times 0.22"
    assert str(decoder_of("gemma2").reach([0])[0]).startswith("through post_feedforward_layernorm, an RMS norm")
