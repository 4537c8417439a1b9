"""Score: means, intervals and JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest

from errata.errors import EmptyScore, ErrataError, UnknownName
from errata.evaluate import PROBES, Score, Scores, probes


def score(*values: float | None, **options: object) -> Score:
    return Score("efficacy_success", "mcf/teacher-forced", values, **options)  # type: ignore[arg-type]


def test_the_mean_is_over_cases_that_have_a_value_and_may_be_weighted() -> None:
    assert score(1.0, None, 0.0, 0.5).value == 0.5
    assert score(1.0, None, 0.0, 0.5).count == 3
    assert score(1.0, None, 0.0, weights=(3.0, 9.0, 1.0)).value == 0.75


def test_the_interval_is_that_of_the_normal_approximation_and_repeats_by_seed() -> None:
    values = np.random.default_rng(1).random(500)
    low, high = (s := score(*values)).interval()
    half = 1.96 * values.std() / 500**0.5
    assert low == pytest.approx(values.mean() - half, abs=0.003)
    assert high == pytest.approx(values.mean() + half, abs=0.003)
    assert s.interval() == (low, high) != s.interval(seed=1)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    samples = [score(*(draw.random(80) < 0.6).astype(float)).interval(draws=400) for _ in range(200)]
    assert 0.88 <= np.mean([low <= 0.6 <= high for low, high in samples]) <= 0.99


def test_the_interval_of_equal_values_is_a_point() -> None:
    assert score(1.0, 1.0, None).interval() == (1.0, 1.0)


def test_scores_survive_json() -> None:
    scores = Scores([score(1.0, None, 0.25), Score("x_kl", "p", (0.5, 1.5), False, "nat", (2.0, 1.0))])
    rows = json.loads(json.dumps(scores.to_json()))
    assert Scores.from_json(rows) == scores
    assert rows[0]["value"] == 0.625
    assert rows[1]["unit"] == "nat"
    assert scores.values_by_name() == {"efficacy_success": 0.625, "x_kl": pytest.approx(2.5 / 3)}


def test_nothing_and_not_a_number_are_refused_by_name() -> None:
    with pytest.raises(EmptyScore, match="'efficacy_success': none of 2 cases has prompts"):
        score(None, None)
    with pytest.raises(ErrataError, match=r"not a finite number for case 1 \(nan\) and 1 others"):
        score(1.0, float("nan"), float("inf"))
    with pytest.raises(ErrataError, match="2 weights, 1 cases"):
        score(1.0, weights=(1.0, 1.0))


def test_an_unknown_score_or_family_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'efficacy_success'"):
        Scores([score(1.0)])["efficacy_succes"]
    with pytest.raises(UnknownName, match="Did you mean 'specificity'"):
        probes("specifity")


def test_no_two_probes_share_a_name() -> None:
    names = [probe.name for probe in probes(*PROBES)]
    assert len(names) == len(set(names))
    assert {"fluency", "consistency"} == set(names) - {probe.name for probe in probes()}
