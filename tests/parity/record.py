"""Makes our own recording: `python -m tests.parity.record`. A tiny Llama, two layers, four facts, by the plain oracle.

It has the form of the official recordings, so that the same tests read it; what the oracle cannot do is not in it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks import plain
from errata import Fact
from tests.models import TINY_GROUPS, tiny_corpus, tiny_facts, tiny_model, tokenizer_of
from tests.parity.recording import OWN, STRONG

WINDOW = (1, 2)
FACTS = [tiny_facts()[i] for i in (0, 2, 5, 6)]
TRUE = ("Norland", "Norland", "Velm", "Quill")
WEIGHT, STRONG_WEIGHT = 20.0, 1.0
SETTINGS = plain.AnchorSettings(lr=0.2, evaluations=8)
SIZES = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24}
README = """# A recording of our own

A tiny Llama with random weights, four made-up facts, and what the plain oracle (`benchmarks/plain.py`) computes on them
in float64, by `python -m tests.parity.record`. **These are not numbers of published code**: they hold errata to what it
computed before, wherever the tests run. The official recordings are kept outside of the project.
"""


def write(name: str, value: Any, folder: Path = OWN) -> None:
    (folder / name).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def by_layer(tag: str, values: dict[int, Tensor]) -> dict[str, Tensor]:
    return {f"{tag}.layer{layer}": value.contiguous() for layer, value in values.items()}


def record(root: Path = OWN) -> None:
    folder = root / "tiny"
    folder.mkdir(parents=True, exist_ok=True)
    tiny = tiny_model("llama", dtype=torch.float32, num_hidden_layers=4, max_position_embeddings=64, **SIZES)
    tiny.save_pretrained(folder / "model")
    tokenizer_of("llama").save_pretrained(folder / "model")
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float64).eval().requires_grad_(False)
    lm = plain.PlainModel(model, tokenizer_of("llama"))
    first, last = WINDOW[0], WINDOW[-1]
    strong = replace(SETTINGS, **STRONG)
    true = [Fact(fact.prompt, fact.subject, target) for fact, target in zip(FACTS, TRUE, strict=True)]

    moments = {layer: plain.plain_moment(lm, tiny_corpus(), layer) for layer in WINDOW}
    every = {layer: plain.plain_anchors(lm, FACTS, TINY_GROUPS, layer, SETTINGS) for layer in WINDOW}
    alone = {layer: anchors.z for layer, anchors in every.items()}
    far = {layer: plain.plain_anchors(lm, FACTS, TINY_GROUPS, layer, strong).z for layer in WINDOW}
    early = plain.plain_anchors(lm, true, [["{}"]], last, SETTINGS)
    replayed, far_replayed = (plain.plain_replay(lm, FACTS, z[first], first, WINDOW) for z in (alone, far))

    def sweep(steps: list[plain.Step], targets: dict[int, Tensor], weight: float = WEIGHT) -> dict[int, Tensor]:
        return plain.plain_sweep(lm, FACTS, TINY_GROUPS, steps, targets, moments, weight)

    spread, own = plain.spread(WINDOW), plain.each_its_own(WINDOW)
    deltas = {
        "memit": sweep(spread, alone),
        "one_layer": sweep(plain.spread([last]), alone),
        "blue_memit": sweep(plain.each_its_own([first, last]), alone),
        "fe_memit": sweep(own, replayed),
        "strong_memit": sweep(spread, far, STRONG_WEIGHT),
        "strong_fe_memit": sweep(own, far_replayed, STRONG_WEIGHT),
    }
    blue = plain.plain_blue_after_first_edit(lm, FACTS, TINY_GROUPS, WINDOW, moments, WEIGHT, SETTINGS)
    states = {layer: lm.states(FACTS, layer) for layer in WINDOW}
    keys = {layer: lm.keys(FACTS, TINY_GROUPS, layer) for layer in WINDOW}
    targets = {
        **by_layer("f64.all", alone),
        **by_layer("f64.firstforward", replayed),
        **by_layer("f64.init", states),
        **by_layer("f64.strong.all", {last: far[last]}),
        **by_layer("f64.strong.firstforward", far_replayed),
        **by_layer("f64.earlystop_target_true_bare_template", {last: early.z}),
    }
    changes = {tag: value for run, change in deltas.items() for tag, value in by_layer(f"f64.{run}", change).items()}
    save_file({name: value.T.contiguous() for name, value in targets.items()}, folder / "targets.safetensors")
    save_file(changes, folder / "deltas.safetensors")
    save_file(by_layer("blue_memit_blue_repo", blue), folder / "other_repos_blue.safetensors")
    save_file(by_layer("f64.unedited", keys), folder / "keys.safetensors")
    save_file({f"layer{layer}": moment for layer, moment in moments.items()}, folder / "cov.safetensors")

    facts = [asdict(fact) | {"target_true": target} for fact, target in zip(FACTS, TRUE, strict=True)]
    write("facts.json", facts, root)
    write("contexts.json", TINY_GROUPS, root)
    write("corpus.json", tiny_corpus(), root)
    (root / "README.md").write_text(README, encoding="utf-8")
    evaluations = {str(layer): anchors.evaluations for layer, anchors in every.items()}
    write("z_log.json", {"f64": {"all": {"evaluations": evaluations}}}, folder)
    settings = {
        "edit_layers": WINDOW,
        "v_lr": SETTINGS.lr,
        "v_num_grad_steps": SETTINGS.evaluations,
        "v_weight_decay": SETTINGS.weight_decay,
        "clamp_norm_factor": SETTINGS.clamp,
        "kl_factor": SETTINGS.kl_factor,
        "early_stop_loss": SETTINGS.stop_below,
        "mom2_update_weight": WEIGHT,
        "L2": {"alphaedit": 10},
        "inv_coef": {"emmet": 0.1},
        "nullspace": {"threshold": 0.05},
        "cov_tokens": sum(len(lm.tokenizer(text)["input_ids"]) for text in tiny_corpus()),
        "max_length": 64,
    }
    write("hparams.json", settings, folder)


if __name__ == "__main__":
    record()
