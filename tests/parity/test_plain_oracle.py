"""The plain oracle against what the published code computed, in float64, where that recording is at hand."""

from __future__ import annotations

from dataclasses import replace

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
from tests.parity.recording import STRONG, Recording


@pytest.fixture(scope="module")
def lm(official: Recording) -> PlainModel:
    decoder = official.decoder
    return PlainModel(decoder.model, decoder.tokenizer, decoder.layout.blocks, decoder.layout.down_projection)


@pytest.fixture(scope="module")
def moments(official: Recording) -> dict[int, Tensor]:
    return {layer: official.statistics[layer].moment for layer in official.recipe.window}


@pytest.fixture(scope="module")
def settings(official: Recording) -> AnchorSettings:
    """Those of the set, whatever they are."""
    given = official.given
    return AnchorSettings(
        lr=given["v_lr"],
        evaluations=given["v_num_grad_steps"],
        weight_decay=given["v_weight_decay"],
        clamp=given["clamp_norm_factor"],
        kl_factor=given["kl_factor"],
        stop_below=given["early_stop_loss"],
    )


def off(found: Tensor, expected: Tensor) -> float:
    """Largest relative distance over rows."""
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


def test_anchors_are_the_references(official: Recording, lm: PlainModel, settings: AnchorSettings) -> None:
    for layer in official.recipe.window:
        anchors = plain_anchors(lm, official.facts, official.contexts.groups, layer, settings)
        assert off(anchors.z, official.target(f"all.layer{layer}")) < 1e-9
        assert anchors.evaluations == official.log["all"]["evaluations"][str(layer)]
        for which, position in (("first", 0), ("last", -1)):
            for parts, logged in zip(anchors.parts, official.log["all"][which][str(layer)], strict=True):
                expected = (logged["nll"], logged["kl"], logged["weight_decay"])
                assert parts[position] == pytest.approx(expected, abs=6e-4)


def test_strong_anchors_are_the_references(official: Recording, lm: PlainModel, settings: AnchorSettings) -> None:
    last = official.recipe.window[-1]
    anchors = plain_anchors(lm, official.facts, official.contexts.groups, last, replace(settings, **STRONG))
    assert off(anchors.z, official.target(f"strong.all.layer{last}")) < 1e-9
    assert anchors.evaluations == official.log[f"strong_all_layer{last}"]["evaluations"][str(last)]


def test_anchors_stop_early_as_the_references_do(official: Recording, lm: PlainModel, settings: AnchorSettings) -> None:
    last = official.recipe.window[-1]
    anchors = plain_anchors(lm, official.true_facts, [["{}"]], last, settings)
    assert off(anchors.z, official.target(f"earlystop_target_true_bare_template.layer{last}")) < 1e-9
    assert anchors.evaluations == official.log["earlystop"]["evaluations"][str(last)]


@pytest.mark.parametrize("run", ["firstforward", "strong.firstforward"])
def test_replayed_targets_are_the_references(official: Recording, lm: PlainModel, run: str) -> None:
    window = official.recipe.window
    first = official.target(f"{run}.layer{window[0]}")
    targets = plain_replay(lm, official.facts, first, window[0], window)
    for layer in window:
        assert off(targets[layer], official.target(f"{run}.layer{layer}")) < 1e-12


def test_states_and_keys_are_the_references(official: Recording, lm: PlainModel) -> None:
    for layer in official.recipe.window:
        assert off(lm.states(official.facts, layer), official.target(f"init.layer{layer}")) < 1e-12
        keys = lm.keys(official.facts, official.contexts.groups, layer)
        assert off(keys, official.arrays["keys"][f"f64.unedited.layer{layer}"].double()) < 1e-7  # stored in float32


@pytest.mark.parametrize("run", ["memit", "one_layer", "blue_memit", "fe_memit", "strong_memit", "strong_fe_memit"])
def test_updates_are_the_references(official: Recording, lm: PlainModel, moments: dict[int, Tensor], run: str) -> None:
    strong = "strong." if run.startswith("strong") else ""
    window = official.recipe.window
    ends = (window[0], window[-1])
    steps, targets = {
        "memit": (spread(window), {ends[1]: official.target(f"{strong}all.layer{ends[1]}")}),
        "one_layer": (spread(ends[1:]), {ends[1]: official.target(f"all.layer{ends[1]}")}),
        "blue_memit": (each_its_own(ends), {layer: official.target(f"all.layer{layer}") for layer in ends}),
        "fe_memit": (
            each_its_own(window),
            {layer: official.target(f"{strong}firstforward.layer{layer}") for layer in window},
        ),
    }[run.removeprefix("strong_")]
    last_block = official.decoder.depth - 1
    before = lm.states(official.facts, last_block)
    weight = 1.0 if strong else float(official.given["mom2_update_weight"])
    changes = plain_sweep(lm, official.facts, official.contexts.groups, steps, targets, moments, weight)
    for layer, change in changes.items():
        expected = official.update(f"f64.{run}", layer)
        assert float((change - expected).norm() / expected.norm()) < 1e-6
    assert torch.equal(lm.states(official.facts, last_block), before)


def test_blue_as_its_repository_runs_it(
    official: Recording, lm: PlainModel, moments: dict[int, Tensor], settings: AnchorSettings
) -> None:
    ends = (official.recipe.window[0], official.recipe.window[-1])
    weight = float(official.given["mom2_update_weight"])
    changes = plain_blue_after_first_edit(lm, official.facts, official.contexts.groups, ends, moments, weight, settings)
    for layer, change in changes.items():
        expected = official.update("blue_memit_blue_repo", layer, "other_repos_blue")
        assert float((change - expected).norm() / expected.norm()) < 2e-3  # recorded in float32
