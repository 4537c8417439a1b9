"""The solvers' identities (method 7) through whole edits: keys of a model, several layers, several batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from errata import Contexts, Fact, Outcome, Recipe, Store, WeightEdit
from errata.editors.layer_solver import averaged
from errata.method import Pair
from errata.solvers import (
    EqualityConstrained,
    LeastSquares,
    NullSpace,
    RankOne,
    Restrained,
    Solver,
    Sparsified,
)
from errata.targets import BackwardSpreading, ForwardReplay, Search, SingleLayer, TargetConstruction
from tests.editing import ANCHOR, BOTH, CONTEXTS, RECIPE, decoder_of, editor_of
from tests.models import tiny_facts

both = pytest.mark.parametrize("family", BOTH)
host = pytest.mark.parametrize("construction", [BackwardSpreading(), ForwardReplay()], ids=["memit", "fe"])
FACTS = tiny_facts()[:4]
PLAIN = replace(RECIPE, solvers={}, anchor=replace(ANCHOR, steps=3))
STRONG = replace(PLAIN, anchor=replace(ANCHOR, steps=3, learning_rate=4.0, clamp=6.0))
"""Changes larger than the weights."""
HOST = LeastSquares(1.0, 0.01)
STORES = {family: Store.nowhere() for family in BOTH}
DECODERS = {family: decoder_of(family) for family in BOTH}


def outcome_of(
    family: str,
    construction: TargetConstruction,
    solver: Solver,
    facts: list[Fact] = FACTS,
    recipe: Recipe = PLAIN,
    contexts: Contexts = CONTEXTS,
    **schedule: Any,
) -> Outcome:
    """An edit by this pair; equal anchors are made once for all tests here."""
    DECODERS[family].restore()
    method = Pair(construction, solver)
    editor = editor_of(DECODERS[family], method, recipe=recipe, store=STORES[family], contexts=contexts)
    return editor.edit(facts, **schedule)


def changes(outcome: Outcome) -> dict[int, Tensor]:
    assert isinstance(outcome.edit, WeightEdit)
    decoder, delta = outcome.decoder, outcome.edit.delta.changes
    return {
        layer: delta[decoder.parameter_name(layer)] for layer in (1, 2, 3) if decoder.parameter_name(layer) in delta
    }


def edited(family: str, construction: TargetConstruction, solver: Solver, **how: Any) -> dict[int, Tensor]:
    return changes(outcome_of(family, construction, solver, **how))


def close(left: dict[int, Tensor], right: dict[int, Tensor], tolerance: float = 1e-9) -> bool:
    return left.keys() == right.keys() and all(
        float((left[layer] - right[layer]).norm() / right[layer].norm()) < tolerance for layer in left
    )


@both
@host
def test_equality_softened_by_gamma_is_least_squares_at_another_weight(
    family: str, construction: TargetConstruction
) -> None:  # method 7.2
    soft = edited(family, construction, EqualityConstrained(2.0, 0.1, 0.05))
    assert close(soft, edited(family, construction, LeastSquares(0.2, 0.005)))


@both
def test_equality_moves_the_averaged_keys_alike_whatever_is_preserved(family: str) -> None:  # method 7.3
    decoder = DECODERS[family]
    decoder.restore()
    prompts = [prompt.stem for place in decoder.tokens.site(FACTS, CONTEXTS) for prompt in place.prompts]
    keys = averaged(decoder.keys(prompts, [3])[3], CONTEXTS)
    little, much = (edited(family, SingleLayer(), EqualityConstrained(*how))[3] for how in ((1, 0, 0.01), (9, 0, 3)))
    assert torch.allclose(keys @ little.T, keys @ much.T, rtol=0, atol=1e-8)
    assert float((little - much).norm()) > 1e-3 * float(much.norm())


@both
def test_one_fact_under_equality_is_the_rank_one_change_with_a_consistent_key(family: str) -> None:  # method 7.3
    exact = edited(family, SingleLayer(), EqualityConstrained(1.0, 0.0, 0.01), facts=FACTS[:1])
    assert close(exact, edited(family, SingleLayer(), RankOne(ridge=0.01), facts=FACTS[:1]))
    assert torch.linalg.matrix_rank(exact[3], rtol=1e-9) == 1


@both
@pytest.mark.parametrize(
    "construction", [SingleLayer(), SingleLayer(search=Search("mlp", alone=True))], ids=["block", "projection"]
)
def test_the_original_divisor_brings_the_bare_prompt_to_its_target_and_the_consistent_one_does_not(
    family: str, construction: TargetConstruction
) -> None:  # method 2.1
    original, consistent = (
        outcome_of(family, construction, RankOne(divisor=divisor, ridge=0.01), batch=1).ledger.rows
        for divisor in ("bare", "averaged")
    )
    assert len(original) == len(FACTS)
    assert all(row.remaining[3] < 1e-9 for row in original)
    assert max(row.remaining[3] for row in consistent) > 0.01
    alone = Contexts()
    assert close(
        edited(family, construction, RankOne(divisor="bare", ridge=0.01), contexts=alone),
        edited(family, construction, RankOne(ridge=0.01), contexts=alone),
    )


@both
@host
def test_null_space_changes_lie_in_it_and_reach_their_targets_if_nothing_else_holds_them(
    family: str, construction: TargetConstruction
) -> None:  # method 7.5
    solver = NullSpace(threshold=0.3, ridge=1e-10)
    outcome = outcome_of(family, construction, solver, contexts=Contexts())
    moments = editor_of(outcome.decoder, "memit").statistics()
    for layer, change in changes(outcome).items():
        basis = solver.prepare(moments[layer].moment)["basis"]
        assert torch.allclose(change @ basis @ basis.T, change, rtol=0, atol=1e-9)
        used = torch.linalg.eigh(moments[layer].moment).eigenvectors[:, basis.shape[1] :]
        assert float((change @ used).norm()) < 1e-9 * float(change.norm())
    last = outcome.ledger.rows[-1]
    assert last.remaining[3] < 1e-5  # keys of the bare prompts alone, and more directions than facts


@both
def test_restraint_that_is_never_needed_changes_nothing(family: str) -> None:  # method 7.8
    plain = edited(family, ForwardReplay(), LeastSquares(3e4))
    weights = [DECODERS[family].original(layer) for layer in (1, 2, 3)]
    norms = [torch.linalg.matrix_norm(matrix, 2) for matrix in weights]
    assert all(torch.linalg.matrix_norm(plain[k], 2) < norms[k - 1] for k in plain)
    for when in ("per_batch", "on_total"):
        assert close(edited(family, ForwardReplay(), Restrained(LeastSquares(3e4), when=when)), plain, 1e-15)


@both
def test_sparsifying_that_keeps_everything_changes_nothing(family: str) -> None:  # method 7.8
    plain = edited(family, ForwardReplay(), HOST)
    for when in ("per_layer", "after_all"):
        assert close(edited(family, ForwardReplay(), Sparsified(HOST, 1.0, when=when)), plain, 1e-15)


@both
@pytest.mark.parametrize(
    "wrapped",
    [Restrained(LeastSquares(0.02, 0.01), when="on_total"), Sparsified(HOST, 0.4, "relative", "after_all")],
    ids=["restrained", "sparsified"],
)
def test_what_is_altered_in_the_end_replaces_the_change_of_all_batches_and_is_never_added_to_it(
    family: str, wrapped: Restrained | Sparsified
) -> None:  # method 2.8, 2.9
    dense = edited(family, ForwardReplay(), wrapped.solver, recipe=STRONG, batch=2)
    outcome = outcome_of(family, ForwardReplay(), wrapped, recipe=STRONG, batch=2)
    altered = 0
    for layer, change in changes(outcome).items():
        original = outcome.decoder.original(layer)
        expected = wrapped.finish(dense[layer], original)
        altered += not torch.equal(expected, dense[layer])
        assert torch.allclose(change, expected, rtol=0, atol=1e-9)
        assert torch.allclose(outcome.decoder.weight(layer), original + expected, rtol=0, atol=1e-9)
    assert altered
