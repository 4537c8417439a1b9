"""Our scores of the reference's models, unedited and edited by the reference, are the recorded ones."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from errata.dataset import read_cases
from errata.decoder.decoder import Decoder
from errata.delta import WeightDelta
from errata.evaluate import Case, Recall, Specificity, evaluate, probes
from tests.parity.recording import Recording

NAMES = {"efficacy": "rewrite_prompts", "generalisation": "paraphrase_prompts", "neighbourhood": "neighborhood_prompts"}
MEASURES = {"success": "probs", "accuracy": "correct", "diff": "diff"}
IN_FLOAT32 = ("unedited", "memit", "fe_memit", "alphaedit", "fe_alphaedit")
"""Runs whose float32 update is recorded, so that float32 scores are compared with scores of the same update."""
ONLY_FLOAT64 = (
    *("one_layer", "rect", "emmet", "strong_fe_memit"),
    *("blue_memit", "blue_alphaedit", "fe_rect", "prune", "fe_prune", "fe_emmet", "pmet"),
    *("prune_active", "fe_prune_active", "rome_fact0_layer3", "rome_fact0_spread", "strong_memit"),
    *("memit_seq", "fe_memit_seq", "alphaedit_seq", "fe_alphaedit_seq", "alphaedit_seq_online_z"),
    "strong_fe_alphaedit",
)


@pytest.fixture(scope="module")
def cases(official: Recording) -> list[Case]:
    return read_cases(official.folder.parent / "facts.json")


@pytest.fixture(scope="module")
def single(official: Recording) -> Decoder:
    """The recorded model in float32, as it was scored."""
    return Decoder.from_pretrained(official.folder / "model")


def put_on(decoder: Decoder, official: Recording, run: str, precision: str) -> None:
    """The run's recorded update, made by the reference in this precision."""
    layers = official.layers(run)
    assert bool(layers) == (run != "unedited")
    changes = {decoder.parameter_name(layer): official.total(run, layer, precision) for layer in layers}
    decoder.restore()
    decoder.put_on(WeightDelta(decoder.fingerprint, changes))


@pytest.fixture
def exact(official: Recording) -> Iterator[Decoder]:
    yield official.decoder
    official.decoder.restore()


def nlls(decoder: Decoder, cases: list[Case]) -> torch.Tensor:
    """[fact, prompt, 3]: prompts in the order rewrite, two paraphrases, ten neighbours; nll of new and true, hit."""
    asked = []
    for case in cases:
        prompts = [case.fact.text, *case.paraphrases, *case.neighbourhood]
        answers = (case.fact.target_new, str(case.target_true))
        asked += [Recall(prompt, answer) for prompt in prompts for answer in answers]
    readings = Recall.ask(decoder, asked)
    pairs = list(zip(readings[::2], readings[1::2], strict=True))
    wanted = [new if i % 13 < 3 else true for i, (new, true) in enumerate(pairs)]
    rows = [[new.nll, true.nll, right.exact] for (new, true), right in zip(pairs, wanted, strict=True)]
    return torch.tensor(rows, dtype=torch.float64).reshape(len(cases), 13, 3)


def test_every_scored_run_is_asked_for_here(official: Recording) -> None:
    assert {f"f64.nll.{run}" for run in (*IN_FLOAT32, *ONLY_FLOAT64)} == {
        k for k in official.arrays["evals"] if k[:3] == "f64"
    }


@pytest.mark.parametrize("run", [*IN_FLOAT32, *ONLY_FLOAT64])
def test_every_nll_and_hit_in_float64_is_the_recorded_one(
    official: Recording, exact: Decoder, cases: list[Case], run: str
) -> None:
    put_on(exact, official, run, "f64")
    expected = official.arrays["evals"][f"f64.nll.{run}"].double()
    torch.testing.assert_close(nlls(exact, cases), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("run", IN_FLOAT32)
def test_every_nll_and_hit_is_the_recorded_one(
    official: Recording, single: Decoder, cases: list[Case], run: str
) -> None:
    put_on(single, official, run, "f32")
    expected = official.arrays["evals"][f"f32.nll.{run}"].double()
    torch.testing.assert_close(nlls(single, cases), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("run", IN_FLOAT32)
def test_every_metric_is_the_recorded_one(official: Recording, single: Decoder, cases: list[Case], run: str) -> None:
    put_on(single, official, run, "f32")
    given = official.read("metrics.json")[run]
    scores = evaluate(single, cases, probes("belief", "neighbourhood", "specificity"))
    for kind, theirs in NAMES.items():
        for measure, suffix in MEASURES.items():
            sign = -1 if (kind, measure) == ("neighbourhood", "diff") else 1  # theirs is always new minus true
            score = scores[f"{kind}_{measure}"]
            assert sign * score.value == pytest.approx(given["counterfact"][f"{theirs}_{suffix}"], abs=1e-4)
            each = [sign * value for value in score.per_case if value is not None]
            assert each == pytest.approx([fact[f"{theirs}_{suffix}"] for fact in given["per_fact"]], abs=1e-4)
    for measure, value in given["locality"].items():
        probe = Specificity(measure, compatibility=True)
        assert probe(single, cases).value == pytest.approx(value, abs=1e-4), measure
        assert run != "unedited" or scores[f"specificity_{measure}"].value == value
