"""The path of an edit: where it is walked, which point is taken, and that any point can be taken later."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from errata import Store, WeightEdit, load_edit
from errata.editor import take
from errata.editors.revision import check_same_settings
from errata.editors.schedule import AT_ONCE
from errata.errors import NoPath, UnknownName, WrongEdit
from errata.method import Pair
from errata.methods import METHODS
from errata.path import HALVINGS, RUNGS, Knob, added, knob_of, walk
from errata.recipe import Recipe
from errata.record.path import EditPath, Goal, Point, chosen
from errata.solvers import LeastSquares, Preservation, RankOne, Restrained
from errata.targets import ForwardReplay
from tests.editing import RECIPE, decoder_of, editor_of
from tests.models import tiny_facts

FACTS = tiny_facts()[:3]
FREE = Recipe("tiny", (1, 2, 3), anchor=RECIPE.anchor)
LADDER = Knob("least_squares", Preservation("weight", 1e5, 30.0)).rungs()


def made_up(turn: float = 3000.0, cost: float = 100.0) -> Any:
    """Facts hold once share / value is large enough; what they cost grows with it, a little less for a small share."""
    numbers = iter(range(1, 100))

    def measure(value: float | None, share: float) -> Point:
        strength = share / (value or 1.0)
        held = min(1.0, strength * turn)
        return Point(next(numbers), value, share, held, held, cost * strength * share**0.5, 1.0)

    return measure


def walked(goal: Goal, **made: float) -> list[Point]:
    return list(walk(made_up(**made), LADDER, goal))


def test_the_ladder_goes_from_gentle_to_strong_in_even_steps_of_the_logarithm() -> None:
    assert len(LADDER) == RUNGS
    assert (LADDER[0], LADDER[-1]) == (1e5, 30.0)
    ratios = [a / b for a, b in pairwise(LADDER)]
    assert max(ratios) / min(ratios) < 1.1


def test_a_walk_ends_where_the_goal_is_reached_and_closes_in_on_the_place() -> None:
    points = walked(Goal(aim=0.9))
    full = [point.value for point in points if point.share == 1.0]
    assert full[:3] == LADDER[:3]
    assert len(full) == 3 + HALVINGS
    assert all(LADDER[2] < (value or 0) < LADDER[1] for value in full[3:])
    best = chosen(points, Goal(aim=0.9))
    assert best is not None
    meeting = [point for point in points if (point.held or 0) >= 0.9]
    assert best.divergence == min(point.divergence or 0 for point in meeting)


def test_with_a_budget_the_strongest_point_within_it_is_taken() -> None:
    goal = Goal(budget=0.02)
    best = chosen(walked(goal), goal)
    assert best is not None
    assert best.divergence is not None
    assert best.divergence <= 0.02
    assert best.held == max(p.held for p in walked(goal) if p.divergence is not None and p.divergence <= 0.02)


def test_where_no_point_is_all_that_is_asked_the_nearest_is_taken_and_the_path_says_so() -> None:
    goal = Goal(aim=0.9)
    points = walked(goal, turn=1e-9)
    best = chosen(points, goal)
    assert best is not None
    path = EditPath("solvers.least_squares.weight", tuple(points), best.number, goal, 10, 4, 0.0)
    assert not path.reached
    assert "no point is all that was asked for" in str(path)


def test_points_that_cannot_be_used_are_passed_over() -> None:
    broken = Point(1, 1.0, 1.0, problem="singular")
    fine = Point(2, 2.0, 1.0, 0.5, 0.5, 0.1, 1.0)
    assert chosen([broken, fine], Goal(aim=0.9)) is fine
    assert chosen([broken], Goal(aim=0.9)) is None
    path = EditPath("solvers.x.weight", (broken, fine), 2, Goal(aim=0.9), 4, 4, 0.0)
    assert "cannot be used" in path.table().markdown()
    with pytest.raises(UnknownName):
        path.numbered(1)


def test_a_path_is_drawn_within_eighty_columns_and_survives_json() -> None:
    points = walked(Goal(aim=0.9))
    path = EditPath("solvers.least_squares.weight", tuple(points), points[-1].number, Goal(aim=0.9), 10, 4, 0.0)
    assert max(map(len, path.chart().split("\n"))) <= 80
    assert EditPath.from_json(path.to_json()) == path


def test_the_setting_is_that_of_the_wrapped_solver_and_rank_one_has_none() -> None:
    def knob(solver: Any) -> Knob | None:
        return knob_of(Pair(ForwardReplay(), solver).pipeline(FREE, 5))

    wrapped = knob(Restrained(LeastSquares()))
    assert wrapped is not None
    assert wrapped.place == "solvers.least_squares.weight"
    assert knob(RankOne()) is None
    places = {name: knob_of(row.pipeline(FREE, 5)) for name, row in METHODS.items() if isinstance(row, Pair)}
    assert {k.place for k in places.values() if k} == {
        "solvers.least_squares.weight",
        "solvers.null_space.threshold",
        "solvers.equality_constrained.weight",
    }


def test_an_edit_on_a_path_is_bit_for_bit_that_with_the_settings_of_its_point() -> None:
    decoder, store = decoder_of("llama"), Store.nowhere()
    outcome = editor_of(decoder, "memit+fe", recipe=FREE, store=store).edit(FACTS, aim=0.5)
    path = outcome.path
    assert path is not None
    assert isinstance(outcome.edit, WeightEdit)
    outcome.restore()
    weight = path.point.value
    assert weight is not None
    plain = FREE.with_solver("least_squares", weight=weight).with_share(path.point.share, {})
    again = editor_of(decoder, "memit+fe", recipe=plain, store=store).edit(FACTS)
    assert isinstance(again.edit, WeightEdit)
    assert again.edit.delta.digest == outcome.edit.delta.digest
    assert outcome.edit.manifest["share"] == path.point.share
    assert again.path is None


def test_the_seconds_of_an_edit_are_those_of_all_points() -> None:
    assert added({"anchors": 3.0, "keys": 1.0}, {"keys": 2.0}) == {"anchors": 3.0, "keys": 3.0}
    editor = editor_of(decoder_of("llama"), "memit+fe", recipe=FREE)
    _, walker = editor._walked(FACTS, Goal(aim=0.9), AT_ONCE, None)
    assert {"statistics", "anchors", "keys", "solve"} <= set(walker.seconds)
    assert walker.seconds["keys"] > 0


def test_any_point_of_a_saved_path_is_taken_without_new_anchors(tmp_path: Path) -> None:
    decoder, store = decoder_of("gpt2"), Store.nowhere()
    outcome = editor_of(decoder, "memit+fe", recipe=FREE, store=store).edit(FACTS, aim=0.5)
    assert outcome.path is not None
    outcome.edit.save(tmp_path / "edit")
    outcome.restore()
    saved, digests = load_edit(tmp_path / "edit"), {}
    for point in outcome.path.points:
        other = take(decoder, saved, point.number, store=store)
        assert other.path is not None
        assert other.path.taken == point.number
        assert other.ledger.anchors[1]["stored"] == len(FACTS)
        assert isinstance(other.edit, WeightEdit)
        digests[point.number] = other.edit.delta.digest
        other.restore()
    assert isinstance(outcome.edit, WeightEdit)
    assert digests[outcome.path.taken] == outcome.edit.delta.digest
    assert len(set(digests.values())) == len(digests)
    with pytest.raises(UnknownName):
        take(decoder, saved, 99, store=store)


def test_an_edit_at_given_settings_has_no_other_points() -> None:
    decoder = decoder_of("llama")
    outcome = editor_of(decoder, "memit+fe").edit(FACTS)
    with pytest.raises(WrongEdit, match="given settings"):
        take(decoder, outcome.edit, 1)


def test_a_path_leaves_the_model_as_it_was() -> None:
    decoder = decoder_of("llama")
    before = {name: value.clone() for name, value in decoder.model.state_dict().items()}
    path = editor_of(decoder, "memit", recipe=FREE).path(FACTS, aim=1.0)
    assert len(path.points) > 1
    assert all(torch.equal(before[name], value) for name, value in decoder.model.state_dict().items())


@pytest.mark.parametrize(("method", "options"), [("blue", {}), ("rome", {}), ("memit", {"batch": 1})])
def test_a_method_whose_points_share_no_anchors_has_no_path(method: str, options: dict[str, int]) -> None:
    editor = editor_of(decoder_of("llama"), method, recipe=FREE)
    with pytest.raises(NoPath):
        editor.edit(FACTS, aim=0.5, **options)
    assert editor.usual_aim(options.get("batch")) is None


def test_a_recipe_that_gives_the_setting_is_used_as_it_is() -> None:
    decoder = decoder_of("llama")
    assert editor_of(decoder, "memit+fe", recipe=FREE).usual_aim() == 0.95
    assert editor_of(decoder, "memit+fe", recipe=RECIPE).usual_aim() is None
    assert editor_of(decoder, "alphaedit+fe", recipe=RECIPE).usual_aim() == 0.95


@pytest.mark.parametrize("method", ["onelayer", "memit+fe", "memit", "blue-unedited", "every-layer"])
def test_the_first_step_of_a_partial_write_is_that_share_of_the_full_one(method: str) -> None:
    decoder = decoder_of("llama")
    made = {}
    for share in (1.0, 0.5):
        outcome = editor_of(decoder, method, recipe=RECIPE.with_share(share, {})).edit(FACTS)
        assert isinstance(outcome.edit, WeightEdit)
        first = outcome.ledger.rows[0]
        made[share] = first.share, outcome.edit.delta.changes[decoder.parameter_name(first.edit)]
        outcome.restore()
    assert made[0.5][0] == made[1.0][0] / 2
    assert torch.allclose(made[0.5][1], made[1.0][1] / 2)


def test_an_edit_saved_before_shares_were_named_was_a_full_write() -> None:
    check_same_settings({"method": "memit"}, {"method": "memit", "share": 1.0})
    with pytest.raises(WrongEdit, match="share"):
        check_same_settings({"method": "memit"}, {"method": "memit", "share": 0.5})
