"""One tiny trial for all studies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from errata.editors.supplies import Supplies
from errata.study import STUDIES, Trial
from tests.editing import CONTEXTS, RECIPE, decoder_of
from tests.models import tiny_corpus, tiny_facts


def trial_of(family: str, facts: int = 3) -> Trial:
    supplies = Supplies(decoder_of(family), RECIPE, corpus=tiny_corpus(), contexts=CONTEXTS)
    return Trial(tuple(tiny_facts()[:facts]), supplies)


@pytest.fixture(scope="session")
def trial() -> Trial:
    return trial_of("llama")


SMALL: dict[str, dict[str, Any]] = {
    "steering": {"methods": ("memit",), "iterations": 48, "starts": 1, "probes": 2, "dense": 1},
    "stability": {"seeds": (0, 1)},
    "tracing": {"samples": 2, "mlp_window": 3},
}


@pytest.fixture(scope="session")
def short(trial: Trial) -> Trial:
    """Over two layers, so that one Jacobian is left to look at."""
    return replace(trial, supplies=trial.supplies.under(RECIPE.with_window((1, 3))))


@pytest.fixture(scope="session")
def findings(trial: Trial, short: Trial) -> Callable[[str], Any]:
    """Each study run once, when first asked for."""
    return cache(lambda name: STUDIES[name](short if name == "steering" else trial, **SMALL.get(name, {})))
