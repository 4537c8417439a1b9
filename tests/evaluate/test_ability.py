"""General ability: lm-eval's figures of the pocket model in memory, before and after an edit, and no trace of it."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from errata import pocket
from errata.decoder.decoder import Decoder
from errata.errors import BadRecord, ErrataError, UnknownName, Untrusted
from errata.evaluate import Recall
from errata.evaluate.ability import Skill, general_ability, shipped
from tests.evaluate.conftest import noise, talkative
from tests.evaluate.pocket_questions import FILE, questions

SOME = 24


def test_the_shipped_task_is_made_from_facts_that_are_never_edited_in_a_report() -> None:
    assert shipped() == ["pocket_facts"]
    assert FILE.read_text(encoding="utf-8").splitlines() == list(questions())
    reported = {fact.id for fact in pocket.facts("report")}
    assert not reported & {json.loads(line)["id"] for line in questions()}


def answered(decoder: Decoder, rows: list[dict[str, Any]]) -> list[float]:
    """1 where the likeliest choice is the right one; by our own scoring, sums of log probabilities."""
    asked = [Recall(row["prompt"], choice) for row in rows for choice in row["choices"]]
    sums = torch.tensor([sum(r.log_probabilities) for r in Recall.ask(decoder, asked)]).view(len(rows), -1)
    return [float(i == row["answer"]) for i, row in zip(sums.argmax(-1).tolist(), rows, strict=True)]


def test_the_pocket_models_ability_before_and_after_an_edit() -> None:
    pytest.importorskip("lm_eval")
    decoder = Decoder.from_pretrained(pocket.path(), dtype=torch.float32)
    decoder.put_on(noise(decoder, scale=0.6))
    edited, states = decoder.weight(2).clone(), (random.getstate(), np.random.get_state()[1], torch.get_rng_state())
    accuracy, brier = general_ability(decoder, ["pocket_facts"], limit=SOME)
    rows = [json.loads(line) for line in questions()][:SOME]
    after = answered(decoder, rows)
    with decoder.unedited():
        before = answered(decoder, rows)
    assert (accuracy.before, accuracy.after) == (pytest.approx(np.mean(before)), pytest.approx(np.mean(after)))
    assert accuracy.before > 0.8 > accuracy.after
    change = np.array(after) - np.array(before)
    assert accuracy.difference == pytest.approx(change.mean())
    assert accuracy.error == pytest.approx(change.std(ddof=1) / SOME**0.5)
    assert (accuracy.task, accuracy.metric, accuracy.count) == ("pocket_facts", "acc", SOME)
    assert accuracy.higher_is_better
    assert brier.metric == "brier_score"
    assert brier.difference > 0
    assert json.loads(json.dumps(accuracy.to_json()))["difference"] == accuracy.difference
    assert torch.equal(decoder.weight(2), edited)
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_task_of_ones_own_is_a_yaml_file_with_its_data_beside_it(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    (tmp_path / "data.jsonl").write_text('{"q": "Velm is a city in", "a": "Isk"}\n{"q": "Una is", "a": "in Oster"}\n')
    (tmp_path / "own.yaml").write_text(
        "task: own\ndataset_path: json\ndataset_kwargs: {data_files: {test: data.jsonl}}\ntest_split: test\n"
        "output_type: loglikelihood\ndoc_to_text: '{{q}}'\ndoc_to_target: ' {{a}}'\nmetric_list: [{metric: acc}]\n"
    )
    [skill] = general_ability(talkative(bos=False), [str(tmp_path / "own.yaml")], trust_remote_code=True)
    assert skill == Skill("own", "acc", 0.0, None, 0.0, 2, True, skill.version)
    assert skill.difference is None


def test_what_cannot_be_run_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    decoder = talkative()
    with pytest.raises(ErrataError, match="a limit of -1 records of each task; expected at least 1"):
        general_ability(decoder, ["pocket_facts"], limit=-1)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "lm_eval", None)
        with pytest.raises(ErrataError, match=r"general ability needs `pip install 'errata\[lm-eval\]'`"):
            general_ability(decoder, ["pocket_facts"])
    harness = pytest.importorskip("lm_eval.tasks")
    with pytest.raises(BadRecord, match=r"none.yaml: no task could be read"):
        general_ability(decoder, [str(tmp_path / "none.yaml")], trust_remote_code=True)
    monkeypatch.setattr(harness, "TaskManager", lambda include_defaults: type("M", (), {"all_tasks": ["hellaswag"]}))
    with pytest.raises(UnknownName, match=r"unknown task 'pocket_fact'. Did you mean 'pocket_facts'"):
        general_ability(decoder, ["pocket_fact"])


def test_a_strangers_task_runs_no_code_unless_its_reader_trusts_it(tmp_path: Path) -> None:
    for name in ("evil.yaml", "evil.yml", "EVIL.YAML", "pocket_facts.yaml"):
        task = tmp_path / name
        template = f"{{{{ cycler.__init__.__globals__.os.popen('touch {tmp_path}/pwned').read() }}}}{{{{q}}}}"
        task.write_text(
            f"task: evil\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: d.jsonl}}}}\ntest_split: test\n"
            f'output_type: multiple_choice\ndoc_to_text: "{template}"\ndoc_to_choice: [b, c]\ndoc_to_target: 0\n'
        )
        (tmp_path / "d.jsonl").write_text('{"q": "a"}\n')
        with pytest.raises(Untrusted, match="Nothing was run"):
            general_ability(talkative(bos=False), [str(task)])
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("text", ["- a list", "task: !function x.y", "\udc80", "[" * 100_000])
def test_a_task_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    pytest.importorskip("lm_eval")
    (tmp_path / "task.yaml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BadRecord, match="no task could be read") as caught:
        general_ability(talkative(bos=False), [str(tmp_path / "task.yaml")], trust_remote_code=True)
    assert len(str(caught.value)) < 600
