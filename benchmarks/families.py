"""Every decoder that transformers knows, tiny and with random weights: what does errata say to it?

    python -m benchmarks.families [model_type ...]

Prints the tables of docs/models.md. A family "works" if an edit of three facts makes the new objects likelier
and taking the edit off leaves every parameter as it was, bit for bit; else its row holds errata's own words.
"""

from __future__ import annotations

import signal
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from errata import Contexts, Corpus, Decoder, Editor, Recipe, Store
from errata.errors import ErrataError
from errata.fact import Fact
from errata.targets import AnchorSettings
from tests.models import randomised, tiny_corpus, tiny_facts, tiny_tokenizer

SECONDS = 30
ENCODERS = [
    "bart",
    "bert",
    "bert-generation",
    "big_bird",
    "bigbird_pegasus",
    "blenderbot",
    "blenderbot-small",
    "camembert",
    "data2vec-text",
    "electra",
    "ernie",
    "git",
    "marian",
    "mbart",
    "megatron-bert",
    "mllama",
    "moshi",
    "musicgen",
    "musicgen_melody",
    "mvp",
    "pegasus",
    "plbart",
    "prophetnet",
    "reformer",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roc_bert",
    "roformer",
    "trocr",
    "whisper",
    "xlm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xlnet",
    "xmod",
    "got_ocr2",
    "emu3",
    "fuyu",
    "moss_transcribe_diarize",
    "modernbert-decoder",
    "aria_text",
    "gemma4_assistant",
    "gemma4_unified_assistant",
]
NESTED = ["gemma3", "gemma4", "llava", "mistral3", "qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_vl", "smolvlm"]
SIZES: dict[str, Any] = {
    **dict.fromkeys(["hidden_size", "d_model", "n_embd"], 48),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers"], 5),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "num_heads"], 4),
    **dict.fromkeys(["intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "shared_intermediate_size"], 80),
    **dict.fromkeys(["max_position_embeddings", "n_positions"], 96),
    **dict.fromkeys(["num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"], 4),
    **dict.fromkeys(["linear_key_head_dim", "linear_value_head_dim", "mamba_d_state"], 8),
    **{"num_key_value_heads": 2, "head_dim": 12, "vocab_size": 480, "sliding_window": 64, "moe_intermediate_size": 32},
    **{"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None, "shared_expert_intermediate_size": 32},
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4, "mamba_n_heads": 8, "mamba_d_head": 12},
    **{"mamba_d_ssm": 96, "mamba_n_groups": 1, "mamba_expand": 2, "mamba_chunk_size": 16, "num_experts_per_tok": 2},
    **{"image_size": 28, "patch_size": 14, "rotary_dim": 8, "lru_width": 48},
}
PICTURES = SIZES | {"hidden_size": 32, "embed_dim": 32, "depth": 1, "num_hidden_layers": 1, "num_attention_heads": 2}
PICTURES |= {"num_heads": 2, "intermediate_size": 32, "head_dim": 16, "out_hidden_size": 48}
NUMBERED = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
PER_LAYER = ("layer_types", "mlp_layer_types", "layers_block_type")
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]}
OWN: dict[str, dict[str, Any]] = {
    "codegen": {"n_embd": 48, "rotary_dim": 8},
    "cwm": NUMBERED,
    "gemma3n_text": {"num_kv_shared_layers": 0, "laurel_rank": 8, "hidden_size_per_layer_input": 8},
    "gemma4_text": {"hidden_size_per_layer_input": 0, "per_layer_config": {}, "pad_token_id": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 2], [["global"], 1]], "num_layers": 5},
    "granitemoehybrid": {
        "num_local_experts": 0,
        "layer_types": ["linear_attention", "full_attention"] * 2 + ["linear_attention"],
    },
    "lfm2": {"block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention"] * 2 + ["conv"]},
    "mamba2": {"num_heads": 8, "head_dim": 12, "state_size": 8, "n_groups": 1},
    "minicpm3": {"num_key_value_heads": 4},
    "nanochat": {},
    **{key: {"rope_parameters": MROPE} for key in ["qwen2_vl_text", "qwen2_5_vl_text"]},
    "stablelm": {"num_attention_heads": 3, "num_key_value_heads": 3},
    "youtu": {"num_key_value_heads": 4},
}


def sizes_of(config: Any, sizes: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Small values for whatever of `sizes` this configuration has."""
    have = config.to_dict()
    known = {*have, *getattr(config, "attribute_map", {})}
    small = {name: value for name, value in sizes.items() if name in known}
    for name in getattr(config, "sub_configs", {}):
        if (part := getattr(config, name, None)) is not None:
            text = "text" in name
            small[name] = sizes_of(part, SIZES if text else PICTURES, OWN.get(part.model_type, {}))
    for name in PER_LAYER:
        if isinstance(have.get(name), list) and have[name]:
            small[name] = (list(dict.fromkeys(have[name])) * 5)[:5]
    return small | own


def built(kind: str) -> Any:
    """A tiny model of this type, float32."""
    config = AutoConfig.for_model(kind)
    config = AutoConfig.for_model(kind, **sizes_of(config, SIZES, OWN.get(kind, {})))
    loader = AutoModelForImageTextToText if kind in NESTED else AutoModelForCausalLM
    return loader.from_config(config, dtype=torch.float32)


def likelihood(decoder: Decoder, facts: list[Fact]) -> torch.Tensor:
    """Mean log-probability of each fact's new object [fact]."""
    found = []
    for fact in facts:
        prompt, answer = decoder.token_ids(fact.text), decoder.answer_ids(fact.target_new)
        places = list(range(len(prompt) - 1, len(prompt) + len(answer) - 1))
        ((_, _, logits),) = decoder.logits([prompt + answer], [places])
        found.append(logits.log_softmax(-1)[range(len(answer)), answer].mean())
    return torch.stack(found)


def edited(decoder: Decoder) -> str:
    """Edit three facts and take the edit off again: "works", or what went wrong."""
    facts = [tiny_facts()[i] for i in (0, 3, 5)]
    recipe = Recipe(
        "tiny",
        (1, 2),
        anchor=AnchorSettings(learning_rate=0.3, steps=25, clamp=4.0, kl_factor=0.0, weight_decay=0.0),
        solvers={"least_squares": {"weight": 1e-4, "ridge": 1e-6}},
    )
    options: dict[str, Any] = {"contexts": Contexts((("{}",),)), "store": Store.nowhere()}
    editor = Editor(decoder, "memit+fe", recipe=recipe, corpus=Corpus.of(tiny_corpus()), **options)
    original = {name: value.clone() for name, value in decoder.model.state_dict().items()}
    before = likelihood(decoder, facts)
    outcome = editor.edit(facts)
    gain = likelihood(decoder, facts) - before
    outcome.restore()
    if not all(torch.equal(value, original[name]) for name, value in decoder.model.state_dict().items()):
        return "NOT UNDONE"
    return "works" if bool(gain.mean() > 0.05) else f"WEAK: {gain.tolist()}"


def answer(kind: str) -> tuple[str, str, str]:
    """Where the down-projections are, whether the layout is known, and how an edit went."""
    try:
        model = built(kind)
    except (Exception, TimeoutError) as error:
        return "", "", f"not built: {' '.join(f'{type(error).__name__}: {error}'.split())[:160]}"
    where, how = "", ""
    try:
        decoder = Decoder(model, tiny_tokenizer())
        randomised(model, torch.float32)
        where = f"{decoder.layout.blocks} / {decoder.layout.down_projection}"
        how = "discovered" if decoder.layout.guessed else "known"
        return where, how, edited(decoder)
    except ErrataError as error:
        return where, how, f"refused: {error}"
    except (Exception, TimeoutError) as error:
        return where, how, f"FAILED: {' '.join(f'{type(error).__name__}: {error}'.split())[:300]}"


def tables(answers: Iterable[tuple[str, str, str, str]]) -> Iterator[str]:
    """Of (model type, where, how, edit): what works, by where its down-projections are; then what does not, and why."""
    works: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    others: dict[str, list[str]] = defaultdict(list)
    for kind, where, how, edit in answers:
        if edit == "works":
            works[where][how].append(kind)
        else:
            others[in_short(edit, kind)].append(kind)
    yield "| blocks / down-projection | works, known | works, discovered |"
    yield "|---|---|---|"
    for where, kinds in sorted(works.items(), key=lambda item: -sum(map(len, item[1].values()))):
        yield f"| `{where}` | {', '.join(kinds['known'])} | {', '.join(kinds['discovered'])} |"
    yield "\n| does not work | why |\n|---|---|"
    for reason, names in sorted(others.items(), key=lambda item: -len(item[1])):
        yield f"| {', '.join(names)} | {reason} |"


def in_short(edit: str, kind: str) -> str:
    """errata's words without the names in them, so that equal reasons are one row."""
    if "mixture of experts" in edit:
        offered = "Every token also passes" in edit
        gated = "multiplies what the shared expert gives" in edit
        behind = "; a layout file may name the shared expert" * offered + "; its shared expert is gated" * gated
        return f"refused: a mixture of experts{behind}"
    return edit.replace(f"{kind}: ", "").replace("|", "/").partition("; errata edits")[0]


def asked(kind: str) -> tuple[str, str, str, str]:
    """`answer` with the model type in front, within a time limit, and shown on stderr as it comes."""
    signal.alarm(SECONDS)
    row = (kind, *answer(kind))
    signal.alarm(0)
    print(" | ".join(row)[:200], file=sys.stderr, flush=True)
    return row


def late(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    signal.signal(signal.SIGALRM, late)
    decoders = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES} - {*ENCODERS}
    nested = {*NESTED} & {*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}
    chosen = sys.argv[1:] or sorted(decoders | nested)
    print("\n".join(tables(map(asked, chosen))))
