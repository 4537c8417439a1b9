"""The builder, on a model of a few thousand weights, and the quality command on the shipped one."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from errata import pocket
from tools.pocket import quality
from tools.pocket.build import build
from tools.pocket.documents import Batch, Documents, encode
from tools.pocket.tokenizer import train_tokenizer
from tools.pocket.training import Plan, Stage, Trainer, as_stock, loss_of, new_model

TINY = Plan(
    blocks=3,
    hidden=32,
    inner=64,
    heads=2,
    vocabulary=600,
    early=2,
    step=256,
    stages=(Stage(10, 768, 1.0), Stage(40, 768, 0.5)),
)

needs_model = pytest.mark.skipif(
    not (pocket.path() / "model.safetensors").exists(), reason="the shipped checkpoint is not here"
)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_a_build_is_a_stock_checkpoint_in_bf16_and_the_seed_decides_it(tmp_path: Path) -> None:
    known = pocket.facts()[:40]
    for name, seed in {"one": 0, "again": 0, "other": 1}.items():
        build(tmp_path / name, seed, TINY, known)
    one, again, other = (weights(tmp_path / name) for name in ("one", "again", "other"))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    assert {weight.dtype for weight in one.values()} == {torch.bfloat16}
    assert "never trained" in (tmp_path / "one" / "README.md").read_text(encoding="utf-8")
    assert not (tmp_path / "one" / "progress.pt").exists()


def test_a_stopped_run_is_taken_up_again_with_the_same_result(tmp_path: Path) -> None:
    known = pocket.facts()[:40]
    tokenizer = train_tokenizer(known, TINY.vocabulary)

    def trainer(progress: Path) -> Trainer:
        torch.manual_seed(0)
        return Trainer(new_model(TINY, tokenizer), tokenizer, TINY, 0, progress, say=lambda line: None)

    straight, stopped, resumed = (trainer(tmp_path / name) for name in ("straight", "progress", "progress"))
    straight.run(known)
    stopped.run(known, save_every=4)
    torch.manual_seed(9)  # the rest of a resumed run draws nothing from torch
    resumed.run(known)
    for left, right in zip(straight.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_built_model_is_taken_further_until_its_states_grow_with_depth(tmp_path: Path) -> None:
    known = pocket.facts()[:40]
    build(tmp_path / "first", 0, TINY, known)
    growing = replace(TINY, stages=(Stage(40, 512, 0.5),), matrix_rate=0.0, vector_rate=0.0, shrink=((0.5, 0.5),))
    build(tmp_path / "grown", 0, growing, known, start=tmp_path / "first")
    first, grown = weights(tmp_path / "first"), weights(tmp_path / "grown")
    ratios = [
        (grown[name].float().norm() / first[name].float().norm()).item()
        for name in first
        if name.endswith("down_proj.weight")
    ]
    assert ratios == pytest.approx([2**-0.5, 2**0.5, 2**1.5], rel=0.02)


def test_the_shrinking_follows_its_points_geometrically() -> None:
    plan = replace(TINY, shrink=((0.5, 0.25), (0.7, 0.2)))
    assert [plan.shrink_at(share) for share in (0.0, 0.25, 0.5, 0.7, 1.0)] == pytest.approx([1, 0.5, 0.25, 0.2, 0.2])
    assert TINY.shrink_at(0.3) == 1.0


def test_progress_of_another_plan_is_refused(tmp_path: Path) -> None:
    known = pocket.facts()[:40]
    tokenizer = train_tokenizer(known, TINY.vocabulary)
    Trainer(new_model(TINY, tokenizer), tokenizer, TINY, 0, tmp_path / "progress", print).run(known, 1)
    other = Plan(step=512)
    with pytest.raises(ValueError, match="written by another plan"):
        Trainer(new_model(TINY, tokenizer), tokenizer, other, 0, tmp_path / "progress", print).run(known)


def test_the_tokenizer_puts_one_bos_in_front_and_nothing_behind() -> None:
    tokenizer = train_tokenizer(pocket.facts()[:40], 600)
    ids = tokenizer("The capital of France is")["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in ids
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "The capital of France is"


def test_subject_and_object_are_found_among_the_tokens() -> None:
    tokenizer = train_tokenizer(pocket.facts()[:400], 1000)
    for fact in pocket.facts()[:400:7]:
        for template in fact.trained:
            sentence = encode(tokenizer, fact, template)
            shown = tokenizer.decode([sentence.ids[place] for place in sentence.object]).strip()
            assert shown == fact.object
            assert fact.subject in tokenizer.decode([sentence.ids[place] for place in sentence.subject])


def test_a_hidden_subject_is_seen_by_its_last_token_only_and_late() -> None:
    tokenizer = train_tokenizer(pocket.facts()[:40], 300)
    fact = pocket.facts()[0]
    sentences = [encode(tokenizer, fact, template) for template in fact.trained]
    documents = Documents(tokenizer, [fact])

    def first(share: float, seed: int) -> Batch:
        return next(documents.batches(1, share, random.Random(seed)))[0]

    seed, sentence = next(
        (seed, sentence)
        for seed in range(20)  # a document without context
        for sentence in sentences
        if first(1.0, seed).ids[0, 1:-1].tolist() == sentence.ids
    )
    narrow, wide = first(1.0, seed), first(0.0, seed)
    subject = [1 + place for place in sentence.subject]
    behind = slice(subject[-1] + 1, -1)
    assert len(subject) > 1
    assert wide.early[0, 0, behind][:, subject].all()
    assert not narrow.early[0, 0, behind][:, subject].any()
    assert not narrow.late[0, 0, behind][:, subject[:-1]].any()
    assert narrow.late[0, 0, behind, subject[-1]].all()
    assert narrow.early[0, 0, subject[-1], subject].all()


@pytest.mark.parametrize("shrink", [1.0, 0.7])
def test_training_loss_under_open_masks_is_the_stock_models_own(shrink: float) -> None:
    known = pocket.facts()[:40]
    tokenizer = train_tokenizer(known, TINY.vocabulary)
    torch.manual_seed(0)
    model = new_model(TINY, tokenizer)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(100)  # so that the norms' epsilon does not show
    batch = next(Documents(tokenizer, known).batches(1, narrow=0.0, rng=random.Random(0)))[0]
    trained = loss_of(model, batch, TINY.early, shrink)
    as_stock(model, shrink)
    stock = torch.nn.functional.cross_entropy(
        model(input_ids=batch.ids).logits[0, :-1], batch.ids[0, 1:], reduction="none"
    )
    torch.testing.assert_close(trained, (stock * batch.weight[0, 1:]).sum(), rtol=1e-4, atol=1e-4)


@needs_model
def test_the_shipped_model_is_small_deep_and_stock() -> None:
    assert (pocket.path() / "model.safetensors").stat().st_size <= 25 * 2**20
    model = AutoModelForCausalLM.from_pretrained(pocket.path())
    tokenizer = AutoTokenizer.from_pretrained(pocket.path())
    assert type(model).__name__ == "LlamaForCausalLM"
    assert model.config.num_hidden_layers >= 12
    assert tokenizer("Paris is")["input_ids"].count(tokenizer.bos_token_id) == 1


@needs_model
def test_the_quality_command_finds_the_shipped_model_good(capsys: pytest.CaptureFixture[str]) -> None:
    quality.main(["--limit", "40"])
    trained, held_out, _ = map(float, capsys.readouterr().out.splitlines()[-1].split()[2:])
    assert trained >= 0.98
    assert held_out >= 0.95


@needs_model
def test_what_the_quality_command_counts_is_what_generation_says() -> None:
    model = AutoModelForCausalLM.from_pretrained(pocket.path(), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(pocket.path())
    asked = pocket.facts()[5::400]
    answers = iter(quality.ask(model, tokenizer, asked, pools=["never_trained"]))
    for fact in asked:
        for prompt in fact.prompts(fact.never_trained):
            given = tokenizer(prompt, return_tensors="pt")
            said = model.generate(**given, max_new_tokens=12, do_sample=False)[0, given["input_ids"].shape[1] :]
            text = tokenizer.decode(said, skip_special_tokens=True).strip()
            assert text.startswith(f"{fact.object}.") == next(answers).right
