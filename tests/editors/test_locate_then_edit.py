"""The sweep: identities every method keeps, and what it leaves behind when something goes wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from errata import Decoder, Fact, KeyStatistics, Outcome, Store, WeightEdit
from errata.editors import anchors
from errata.editors.layer_solver import averaged
from errata.errors import AlreadyEdited, ErrataError, StatisticsError, UnusableFacts
from errata.method import Pair, configured
from errata.methods import METHODS
from errata.solvers import EqualityConstrained, LeastSquares, LinearSystem, NullSpace, Restrained, Solver, Sparsified
from errata.targets import TargetConstruction
from tests.editing import BOTH, CONTEXTS, RECIPE, decoder_of, editor_of
from tests.models import tiny_facts

both = pytest.mark.parametrize("family", BOTH)
FACTS = tiny_facts()
SOLVABLE = (
    RECIPE.with_solver("rank_one", ridge=0.01)
    .with_solver("null_space", threshold=0.3, ridge=1.0)
    .with_solver("equality_constrained", weight=1.0, ridge=0.01)
)
PAIRS = {name: row for name, row in METHODS.items() if isinstance(row, Pair)}
CONSTRUCTIONS = list(dict.fromkeys(row.construction for row in PAIRS.values()))
SOLVERS: list[Solver] = list(dict.fromkeys(configured(row.solver, SOLVABLE.solvers) for row in PAIRS.values()))
SOLVERS += [
    Sparsified(NullSpace(threshold=0.3, ridge=1.0), 0.4, "relative", "after_all"),
    Restrained(EqualityConstrained(1.0, 0.1, 0.01), when="on_total"),
]


def weights(decoder: Decoder) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in decoder.model.state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


def changes(outcome: Outcome) -> dict[str, torch.Tensor]:
    assert isinstance(outcome.edit, WeightEdit)
    return dict(outcome.edit.delta.changes)


def edited(family: str, method: str, **options: Any) -> dict[str, torch.Tensor]:
    return changes(editor_of(decoder_of(family), method, **options).edit(FACTS))


def close(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], atol: float = 1e-9) -> bool:
    return left.keys() == right.keys() and all(torch.allclose(left[n], right[n], rtol=0, atol=atol) for n in left)


@both
@pytest.mark.parametrize("method", PAIRS)
def test_every_method_edits_both_architectures_and_restores_bit_for_bit(
    family: str, method: str, shared: dict[str, Store]
) -> None:
    decoder = decoder_of(family)
    before = weights(decoder)
    outcome = editor_of(decoder, method, recipe=SOLVABLE, store=shared[family]).edit(FACTS)
    after = weights(decoder)
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(changes(outcome))
    assert max(row.solve_residual for row in outcome.ledger.rows) < 1e-9
    outcome.restore()
    assert same(weights(decoder), before)


@pytest.mark.parametrize("solver", SOLVERS, ids=repr)
@pytest.mark.parametrize("construction", CONSTRUCTIONS, ids=repr)
def test_every_solver_goes_with_every_construction(
    construction: TargetConstruction, solver: Solver, shared: dict[str, Store]
) -> None:
    """In turn on either architecture, each construction and each solver on both."""
    family = BOTH[(CONSTRUCTIONS.index(construction) + SOLVERS.index(solver)) % 2]
    recipe = replace(RECIPE, solvers={})
    outcome = editor_of(
        decoder_of(family), Pair(construction, solver), recipe=recipe, store=shared[family], guard=None
    ).edit(FACTS[:2])
    assert len(outcome.ledger.rows) == len(construction.steps(RECIPE.window))
    assert all(torch.isfinite(change).all() and change.any() for change in changes(outcome).values())


@pytest.fixture(scope="module")
def shared() -> dict[str, Store]:
    """A store per family, so that equal anchors and statistics are made once."""
    return {family: Store.nowhere() for family in BOTH}


@both
def test_forward_replay_over_one_layer_is_single_layer(family: str) -> None:  # method 7.6
    one = RECIPE.with_window((2,))
    assert close(edited(family, "memit+fe", recipe=one), edited(family, "onelayer", recipe=one))


@both
def test_boundary_layers_that_coincide_are_single_layer(family: str) -> None:  # method 7.8
    one = RECIPE.with_window((2,))
    assert close(edited(family, "blue", recipe=one), edited(family, "onelayer", recipe=one))


@both
def test_dividing_over_one_layer_divides_by_one(family: str) -> None:  # method 7.8
    one = RECIPE.with_window((2,))
    assert close(edited(family, "memit", recipe=one), edited(family, "memit-whole", recipe=one))


@both
def test_replay_of_an_unmoved_anchor_returns_the_models_own_states(family: str) -> None:  # method 7.6
    decoder = decoder_of(family)
    bare = decoder.tokens.site(FACTS, CONTEXTS).bare
    own = decoder.states(bare, [1, 2, 3])
    replayed = decoder.states(bare, [2, 3], holding=(1, own[1]))
    assert all(torch.allclose(replayed[layer], own[layer], rtol=0, atol=1e-12) for layer in (2, 3))


@both
def test_replay_does_not_depend_on_what_follows_the_subject(family: str) -> None:  # method 7.10
    decoder = decoder_of(family)
    site = decoder.tokens.site(FACTS, CONTEXTS)
    held = 1.1 * decoder.states(site.bare, [1])[1]
    full = [place.prompts[0] for place in site]
    cut, whole = (decoder.states(prompts, [3], holding=(1, held))[3] for prompts in (site.bare, full))
    assert torch.allclose(cut, whole, rtol=0, atol=1e-12)


@both
def test_the_first_edited_block_moves_exactly_by_the_change_times_the_key(family: str) -> None:
    decoder = decoder_of(family)
    bare = decoder.tokens.site(FACTS, CONTEXTS).bare
    before, keys = decoder.states(bare, [1])[1], decoder.keys(bare, [1])[1]
    change = changes(editor_of(decoder, "memit+fe").edit(FACTS))[decoder.parameter_name(1)]
    assert torch.allclose(decoder.states(bare, [1])[1] - before, keys @ change.T, rtol=0, atol=1e-10)


def test_a_linear_and_an_equal_conv1d_get_transposed_changes() -> None:  # method 7.9
    conv = decoder_of("gpt2")
    linear = decoder_of("gpt2")
    for block in linear.blocks:
        old = block.get_submodule("mlp.c_proj")
        new = torch.nn.Linear(*old.weight.shape, dtype=torch.float64)  # type: ignore[misc]
        new.weight.data, new.bias.data = old.weight.data.T.clone(), old.bias.data.clone()  # type: ignore[union-attr]
        block.get_submodule("mlp").c_proj = new.requires_grad_(False)
    linear = Decoder(linear.model, linear.tokenizer)
    for method in ("memit", "memit+fe"):
        outcomes = [editor_of(decoder, method).edit(FACTS) for decoder in (conv, linear)]
        assert close(*(changes(outcome) for outcome in outcomes))
        name = conv.parameter_name(2)
        assert torch.allclose(conv.model.get_parameter(name), linear.model.get_parameter(name).T, atol=1e-9)
        for outcome in outcomes:
            outcome.restore()


def test_forward_replays_remaining_residual_falls_from_layer_to_layer() -> None:
    outcome = editor_of(decoder_of("llama"), "memit+fe").edit(FACTS)
    left = [row.remaining[row.edit] for row in outcome.ledger.rows]
    assert left == sorted(left, reverse=True)
    assert left[-1] < 0.5


def test_graduated_replay_evens_out_the_relative_updates() -> None:
    def spread(method: str) -> float:
        rows = editor_of(decoder_of("llama"), method).edit(FACTS).ledger.rows
        relative = [row.update_norm / row.weight_norm for row in rows]
        return max(relative) / min(relative)

    assert spread("memit+gr") < spread("memit+fe")


def test_graduated_replay_over_one_layer_is_forward_replay() -> None:
    one = RECIPE.with_window((2,))
    assert close(edited("llama", "memit+gr", recipe=one), edited("llama", "memit+fe", recipe=one))


def test_two_changes_of_one_model_do_not_pile_up() -> None:
    decoder = decoder_of("llama")
    editor_of(decoder, "memit").edit(FACTS[:2])
    with pytest.raises(AlreadyEdited, match=r"carries an edit of 3 matrices.*restore\(\) the model first"):
        editor_of(decoder, "memit").edit(FACTS[2:])


@pytest.mark.parametrize(
    ("facts", "error", "said"),
    [
        ([], UnusableFacts, "there are no facts"),
        ([*FACTS, Fact("no slot", "a", "b")], UnusableFacts, "fact 8"),
        ([*FACTS, replace(FACTS[0], target_new="Elsewhere")], UnusableFacts, "fact 8 contradicts fact 0"),
    ],
)
def test_facts_that_cannot_be_used_change_nothing(facts: list[Fact], error: type[ErrataError], said: str) -> None:
    decoder = decoder_of("llama")
    before = weights(decoder)
    with pytest.raises(error, match=said):
        editor_of(decoder, "memit").edit(facts)
    assert same(weights(decoder), before)


def test_statistics_of_another_shape_or_layer_are_refused() -> None:
    decoder = decoder_of("llama")
    moment = KeyStatistics(torch.eye(7, dtype=torch.float64))
    with pytest.raises(StatisticsError, match="found a moment of keys 7 wide"):
        editor_of(decoder, "memit", statistics=dict.fromkeys((1, 2, 3), moment)).edit(FACTS)
    with pytest.raises(StatisticsError, match=r"no key statistics for layers \[2, 3\]"):
        editor_of(decoder, "memit", statistics={1: KeyStatistics(torch.eye(decoder.inner(1)))}).edit(FACTS)


def test_an_interrupt_keeps_the_anchors_already_found_and_the_next_run_uses_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, decoder = Store.nowhere(), decoder_of("llama")
    before, real, asked = weights(decoder), anchors.optimise_anchors, []

    def interrupted(decoder: Decoder, site: Any, layer: int, settings: Any, facts: list[int], **how: Any) -> Any:
        asked.append(len(facts))
        for count, found in enumerate(real(decoder, site, layer, settings, facts, at_once=2, **how)):
            if len(asked) == 1 and count == 3:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(anchors, "optimise_anchors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        editor_of(decoder, "memit", store=store).edit(FACTS)
    assert same(weights(decoder), before)
    resumed = changes(editor_of(decoder, "memit", store=store).edit(FACTS))
    assert asked == [8, 5]
    assert close(resumed, edited("llama", "memit"))


def test_a_failure_in_the_middle_of_the_sweep_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, before, solved = decoder_of("gpt2"), weights(decoder_of("gpt2")), []
    real = LeastSquares.solve

    def failing(self: LeastSquares, system: Any, prepared: Any) -> Any:
        solved.append(system.layer)
        if len(solved) == 3:
            raise ErrataError("the third solve fails")
        return real(self, system, prepared)

    monkeypatch.setattr(LeastSquares, "solve", failing)
    with pytest.raises(ErrataError, match="third solve"):
        editor_of(decoder, "memit").edit(FACTS)
    assert solved == [1, 2, 3]
    assert same(weights(decoder), before)
    assert decoder.change is None


def test_methods_that_need_the_same_anchors_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    store, asked, real = Store.nowhere(), [], anchors.optimise_anchors

    def counted(decoder: Decoder, site: Any, layer: int, settings: Any, facts: list[int], **how: Any) -> Any:
        asked.append((layer, len(facts)))
        yield from real(decoder, site, layer, settings, facts, **how)

    monkeypatch.setattr(anchors, "optimise_anchors", counted)
    decoder = decoder_of("llama")
    for method in ("memit", "onelayer", "rect", "prune", "memit+fe", "blue-unedited"):
        editor_of(decoder, method, store=store).edit(FACTS).restore()
    assert [row for row in asked if row[1]] == [(3, 8), (1, 8)]


@both
def test_the_solve_shrinks_residuals_as_the_keys_say(family: str) -> None:  # method 7.1, 7.4, on a model's own keys
    decoder = decoder_of(family)
    site = decoder.tokens.site(FACTS, CONTEXTS)
    prompts = [prompt.stem for place in site for prompt in place.prompts]
    keys = averaged(decoder.keys(prompts, [2])[2], CONTEXTS)
    moment = editor_of(decoder, "memit").statistics()[2].moment
    penalty = 1.0 * moment + 0.01 * torch.eye(len(moment), dtype=torch.float64)
    residuals = torch.randn(len(FACTS), decoder.width, dtype=torch.float64)
    solver = LeastSquares(1.0, 0.01)
    system = LinearSystem(keys, residuals, decoder.weight(2), 2)
    change = solver.solve(system, solver.prepare(moment)).change
    dense = torch.linalg.solve(keys.T @ keys + penalty, keys.T @ residuals).T
    assert torch.allclose(change, dense, rtol=0, atol=1e-9)
    gram = keys @ torch.linalg.solve(penalty, keys.T)
    left = torch.linalg.solve(torch.eye(len(FACTS), dtype=torch.float64) + gram, residuals)
    assert torch.allclose(residuals - keys @ change.T, left, rtol=0, atol=1e-9)
    assert float(left.norm()) <= float(residuals.norm())


@both
def test_holding_the_last_target_continues_as_holding_the_first_did(family: str) -> None:  # method 7.7
    decoder = decoder_of(family)
    bare = decoder.tokens.site(FACTS, CONTEXTS).bare
    first = 1.2 * decoder.states(bare, [1])[1]
    replayed = decoder.states(bare, [3, 4], holding=(1, first))
    injected = decoder.states(bare, [4], holding=(3, replayed[3]))
    assert torch.allclose(injected[4], replayed[4], rtol=0, atol=1e-10)


def test_facts_whose_anchor_stopped_at_once_do_not_count_in_what_remains() -> None:
    easy = replace(RECIPE, anchor=replace(RECIPE.anchor, stop_loss=1e9))
    rows = editor_of(decoder_of("llama"), "memit", recipe=easy).edit(FACTS).ledger.rows
    assert [row.remaining for row in rows] == [{3: 0.0}] * 3
