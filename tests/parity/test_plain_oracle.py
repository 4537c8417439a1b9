"""The plain oracle against what the published code computed, in float64, where that recording is at hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks.plain import (
    AnchorSettings,
    PlainModel,
    each_its_own,
    plain_anchors,
    plain_blue_after_first_edit,
    plain_replay,
    plain_sweep,
    spread,
)
from tests.parity.recording import Recording, needs_recordings

pytestmark = needs_recordings
WINDOW = (2, 3, 4, 5)
STRONG = AnchorSettings(lr=0.5, evaluations=40, clamp=4.0)


@pytest.fixture(scope="module")
def lm(recorded: Recording) -> PlainModel:
    decoder = recorded.decoder
    return PlainModel(decoder.model, decoder.tokenizer, decoder.layout.blocks, decoder.layout.down_projection)


@pytest.fixture(scope="module")
def moments(recorded: Recording) -> dict[int, Tensor]:
    return {layer: recorded.statistics[layer].moment for layer in WINDOW}


def off(found: Tensor, expected: Tensor) -> float:
    """Largest relative distance over rows."""
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


@pytest.mark.parametrize("layer", WINDOW)
def test_anchors_are_the_references(recorded: Recording, lm: PlainModel, layer: int) -> None:
    anchors = plain_anchors(lm, recorded.facts, recorded.contexts.groups, layer)
    assert off(anchors.z, recorded.target(f"all.layer{layer}")) < 1e-9
    assert anchors.evaluations == recorded.log["all"]["evaluations"][str(layer)]
    for which, position in (("first", 0), ("last", -1)):
        for parts, logged in zip(anchors.parts, recorded.log["all"][which][str(layer)], strict=True):
            assert parts[position] == pytest.approx((logged["nll"], logged["kl"], logged["weight_decay"]), abs=6e-4)


def test_strong_anchors_are_the_references(recorded: Recording, lm: PlainModel) -> None:
    anchors = plain_anchors(lm, recorded.facts, recorded.contexts.groups, 5, STRONG)
    assert off(anchors.z, recorded.target("strong.all.layer5")) < 1e-9
    assert anchors.evaluations == recorded.log["strong_all_layer5"]["evaluations"]["5"]


def test_anchors_stop_early_as_the_references_do(recorded: Recording, lm: PlainModel) -> None:
    anchors = plain_anchors(lm, recorded.true_facts, [["{}"]], 5)
    assert off(anchors.z, recorded.target("earlystop_target_true_bare_template.layer5")) < 1e-9
    assert anchors.evaluations == recorded.log["earlystop"]["evaluations"]["5"]


@pytest.mark.parametrize("run", ["firstforward", "strong.firstforward"])
def test_replayed_targets_are_the_references(recorded: Recording, lm: PlainModel, run: str) -> None:
    first = recorded.target(f"{run}.layer2")
    targets = plain_replay(lm, recorded.facts, first, 2, WINDOW)
    for layer in WINDOW:
        assert off(targets[layer], recorded.target(f"{run}.layer{layer}")) < 1e-12


@pytest.mark.parametrize("layer", WINDOW)
def test_states_and_keys_are_the_references(recorded: Recording, lm: PlainModel, layer: int) -> None:
    assert off(lm.states(recorded.facts, layer), recorded.target(f"init.layer{layer}")) < 1e-12
    keys = lm.keys(recorded.facts, recorded.contexts.groups, layer)
    assert off(keys, recorded.arrays["keys"][f"f64.unedited.layer{layer}"].double()) < 1e-7  # stored in float32


@pytest.mark.parametrize("run", ["memit", "one_layer", "blue_memit", "fe_memit", "strong_memit", "strong_fe_memit"])
def test_updates_are_the_references(recorded: Recording, lm: PlainModel, moments: dict[int, Tensor], run: str) -> None:
    strong = "strong." if run.startswith("strong") else ""
    targets = {
        "memit": {5: recorded.target(f"{strong}all.layer5")},
        "one_layer": {5: recorded.target("all.layer5")},
        "blue_memit": {layer: recorded.target(f"all.layer{layer}") for layer in (2, 5)},
        "fe_memit": {layer: recorded.target(f"{strong}firstforward.layer{layer}") for layer in WINDOW},
    }[run.removeprefix("strong_")]
    steps = {
        "memit": spread(WINDOW),
        "one_layer": spread((5,)),
        "blue_memit": each_its_own((2, 5)),
        "fe_memit": each_its_own(WINDOW),
    }[run.removeprefix("strong_")]
    before = lm.states(recorded.facts, 7)
    weight = 1.0 if strong else 150.0
    changes = plain_sweep(lm, recorded.facts, recorded.contexts.groups, steps, targets, moments, weight)
    for layer, change in changes.items():
        expected = recorded.update(f"f64.{run}", layer)
        assert float((change - expected).norm() / expected.norm()) < 1e-6
    assert torch.equal(lm.states(recorded.facts, 7), before)


def test_blue_as_its_repository_runs_it(recorded: Recording, lm: PlainModel, moments: dict[int, Tensor]) -> None:
    changes = plain_blue_after_first_edit(lm, recorded.facts, recorded.contexts.groups, (2, 5), moments, 150.0)
    for layer, change in changes.items():
        expected = recorded.update("blue_memit_blue_repo", layer, "other_repos_blue")
        assert float((change - expected).norm() / expected.norm()) < 2e-3  # recorded in float32
