"""One pass for questions of all kinds: nothing is run twice, nothing is shared that must not be, no answer changes."""

from __future__ import annotations

import pytest
import torch

from errata.decoder.decoder import Decoder
from errata.evaluate import Case, Recall, evaluate, probes
from errata.evaluate.places import Places, _shared
from errata.evaluate.specificity import NextToken
from tests.models import FAMILIES, tiny_tokenizer


def test_the_distribution_after_a_prompt_costs_the_edited_model_no_row(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    logits = decoder.logits
    monkeypatch.setattr(decoder, "logits", lambda r, p: passes.append(len(r)) or logits(r, p))
    prompt = "Una was born in"
    Places.ask(decoder, [NextToken(prompt), *(Recall(prompt, answer) for answer in ("Velm", "Quill", "Marrow Bay"))])
    assert passes == [1, 1]  # the edited model's, and the unedited one's


def test_questions_asked_together_have_the_answers_they_have_alone(decoder: Decoder, cases: list[Case]) -> None:
    together = evaluate(decoder, cases, probes("belief", "neighbourhood", "specificity"))
    alone = evaluate(decoder, cases, probes("belief", "neighbourhood")) | evaluate(
        decoder, cases, probes("specificity")
    )
    assert list(together) == list(alone)
    for name, score in together.items():
        assert score.value == pytest.approx(alone[name].value, abs=1e-12)


def test_a_graft_decides_by_the_prompt_so_other_prompts_share_no_row() -> None:
    rows = [(1, 2), (1, 2, 3), (1, 2, 3), (1, 2, 3, 4)]
    assert _shared(rows, None) == ([(1, 2, 3, 4)], [0, 0, 0, 0])
    kept, home = _shared(rows, [(1,), (1,), (1, 2), (1, 2)])
    assert kept == [(1, 2, 3), (1, 2, 3, 4)]
    assert home == [0, 0, 1, 1]


@pytest.mark.parametrize(("dtype", "together"), [(torch.bfloat16, False), (torch.float32, True)])
def test_in_half_precision_each_kind_runs_in_batches_of_its_own(dtype: torch.dtype, together: bool) -> None:
    decoder = Decoder(FAMILIES["llama"](dtype=dtype), tiny_tokenizer())
    assert (NextToken.reader(decoder) is Recall.reader(decoder)) is together
