"""Tables 1, 2 and 5 against states read one by one, and against what the ledger says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from errata import Editor
from errata.editors import anchors as module
from errata.errors import UnknownName
from errata.study import Cosines, Residuals, Trial, cosines, residuals
from errata.study.cosines import StepCosines
from errata.study.finding import PerFact
from errata.study.residuals import COMMON, Remaining, StepResiduals
from errata.study.trajectory import trajectory
from tests.study.conftest import trial_of


@pytest.fixture(scope="module")
def gpt2() -> Trial:
    return trial_of("gpt2")


@pytest.mark.parametrize("method", ["memit", "memit+fe", "blue", "pmet"])
def test_a_trajectory_ends_where_the_edit_ends_and_what_is_left_is_the_ledgers(trial: Trial, method: str) -> None:
    path = trajectory(trial, method)
    assert not trial.decoder.is_edited
    outcome = Editor(trial.decoder, method, supplies=trial.supplies).edit(trial.facts)
    after = trial.decoder.states(trial.site.bare, trial.window)
    outcome.restore()
    for layer, state in after.items():
        torch.testing.assert_close(path.states[-1][layer], state, rtol=1e-6, atol=1e-6)
    last = path.last
    set_at = max([i for i, step in enumerate(path.steps) if step.anew], default=0)
    for i, row in enumerate(outcome.ledger.rows[set_at:], set_at + 1):
        z, now, before = path.targets[last], path.own[i][last], path.own[set_at][last]
        ratio = ((z - now).norm(dim=-1) / (z - before).norm(dim=-1)).mean()
        assert float(ratio) == pytest.approx(row.remaining[last], rel=1e-6)


def test_cosines_are_of_shifts_that_one_step_makes(gpt2: Trial) -> None:
    (first, middle, last) = cosines(gpt2).methods["memit"]
    assert [step.layer for step in (first, middle, last)] == [1, 2, 3]
    assert last.achieved.values == pytest.approx([1.0] * 3)
    assert last.gain.values == pytest.approx([1.0] * 3)
    path = trajectory(gpt2, "memit")
    a = path.states[2][2] - path.states[1][2]
    b = path.states[2][3] - path.states[1][3]
    expected = torch.nn.functional.cosine_similarity(a, b, dim=-1)
    assert middle.achieved.values == pytest.approx(expected.tolist(), abs=1e-6)
    # A step changes nothing before its own layer.
    torch.testing.assert_close(path.states[2][1], path.states[1][1], rtol=0, atol=0)


def test_the_achieved_shift_is_the_change_times_the_bare_key(gpt2: Trial) -> None:
    path = trajectory(gpt2, "memit")
    decoder = gpt2.decoder
    decoder.put_on(path.deltas[1])
    keys = decoder.keys(gpt2.site.bare, [2])[2]
    decoder.restore()
    change = path.deltas[2].changes[decoder.parameter_name(2)]
    torch.testing.assert_close(path.states[2][2] - path.states[1][2], keys @ change.T, rtol=1e-6, atol=1e-8)


def test_residuals_of_every_construction_share_the_common_targets(findings: Callable[[str], Any]) -> None:
    found = findings("residuals")
    memit, replay = found.methods["memit"], found.methods["memit+fe"]
    for own, common in ((memit, "anchor"), (replay, "replayed")):
        for step in own:
            assert step.own is not None
            assert step.own.ratios.values == pytest.approx(step.common[common].ratios.values)
    assert [step.layer for step in found.methods["blue"]] == [1, 3]
    assert found.methods["blue"][0].own is None  # its last anchor is not there yet
    assert found.methods["blue-unedited"][0].own is not None
    assert memit[0].edited is None
    assert all(step.edited is not None for step in replay)
    assert len(found.methods["onelayer"]) == 1


def test_no_anchor_is_optimised_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    sought: list[tuple[int, int]] = []
    original = module.optimise_anchors

    def counting(decoder: object, site: object, layer: int, settings: object, facts: list[int], **kw: object) -> object:
        sought.extend((layer, fact) for fact in facts)
        return original(decoder, site, layer, settings, facts, **kw)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "optimise_anchors", counting)
    trial = trial_of("llama", 2)
    residuals(trial, ("memit", "memit-whole", "memit+fe", "every-layer", "blue"))
    cosines(trial)
    # blue seeks those of the last layer again, on the model with its first layer edited.
    assert sorted(sought) == sorted((layer, fact) for layer in (1, 2, 3, 3) for fact in (0, 1))


def test_a_method_that_does_not_locate_is_refused_with_those_that_do(trial: Trial) -> None:
    with pytest.raises(UnknownName, match="unknown locate-then-edit method 'ft-m'"):
        cosines(trial, ("ft-m",))


def test_the_papers_numbers_stand_beside_a_window_as_long_as_its_own_and_else_apart() -> None:
    one = PerFact((0.5,))
    cosines = [StepCosines(layer, *[one] * 5) for layer in range(5)]
    left = [
        StepResiduals(layer, Remaining(one, 0.5), None, dict.fromkeys(COMMON, Remaining(one, 0.5)))
        for layer in range(5)
    ]
    paper = "paper, Llama-3-8B, window 4-8"
    table = Cosines({"memit": tuple(cosines)}).tables()["Cosines, memit"]
    assert table.rows[-1] == [f"cos(a, b), {paper}", "0.34", "0.41", "0.54", "0.72", "1.00"]
    apart = Cosines({"memit+fe": tuple(cosines), "memit": tuple(cosines[:3])}).tables()
    assert [len(grid.rows) for grid in apart.values()] == [5, 5, 1]  # table 1 is of memit, never of another method
    assert apart[f"cos(a, b), {paper}"].columns == ["after editing layer", "4", "5", "6", "7", "8"]
    beside = Residuals(tuple(range(5)), {"blue": tuple(left), "memit+fe": tuple(left)}).tables()
    assert [row[0] for row in beside["To the method's own last target"].rows] == [
        "blue",
        "memit+fe",
        f"memit+fe, {paper}",
    ]
    apart = Residuals(tuple(range(3)), {"memit+fe": tuple(left[:3])}).tables()
    assert len(apart["To the method's own last target"].rows) == 1
    assert len(apart[f"To the method's own last target, {paper}"].rows) == 4
