"""Tiny models of every family with random weights, a tokenizer trained here, and a handful of facts.

Nothing is downloaded. Weights are drawn in float64 from a seed and cast, so the float32 and float64 twins of
a family agree to rounding. Matrices are scaled so that every block moves the state; norms and biases are not
trivial.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from errata.fact import Fact

VOCABULARY = 480
END, BEGIN = "<|endoftext|>", "<|begin|>"  # ids 0 and, with a BOS, 1

Settings = dict[str, Any]  # of a transformers config

_SIZES: Settings = {"hidden_size": 48, "num_attention_heads": 4, "max_position_embeddings": 96}
_WIDE = _SIZES | {"num_hidden_layers": 5, "intermediate_size": 80}
_GROUPED = _WIDE | {"num_key_value_heads": 2, "head_dim": 12}
_GEMMA = _GROUPED | {"num_hidden_layers": 6, "query_pre_attn_scalar": 12}
_THIRDS = {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2}
_GEMMA4 = _GEMMA | _THIRDS | {"per_layer_config": {}, "hidden_size_per_layer_input": 0}
_SMALL = {"num_kv_shared_layers": 3, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY}
_FALCON = _WIDE | {"ffn_hidden_size": 96}
_OPT = _SIZES | {"num_hidden_layers": 5, "ffn_dim": 96}
_GPT: Settings = {"n_embd": 48, "n_layer": 5, "n_head": 4, "n_inner": 96, "n_positions": 96}
_NEO: Settings = {"hidden_size": 48, "num_layers": 6, "num_heads": 4, "intermediate_size": 96}
_NEO |= {"max_position_embeddings": 96, "attention_types": [[["global", "local"], 3]]}

_SETTINGS: dict[str, Settings] = {
    "gpt2": _GPT,
    "gptj": _GPT | {"rotary_dim": 8},
    "gpt_neo": _NEO,
    "gpt_neox": _WIDE,
    "llama": _GROUPED,
    "mistral": _GROUPED | {"sliding_window": None},
    "qwen2": _GROUPED | {"tie_word_embeddings": True},
    "qwen3": _GROUPED,
    "gemma2": _GEMMA | {"final_logit_softcapping": 5.0, "attn_logit_softcapping": 5.0},
    "gemma3_text": _GEMMA | _THIRDS,
    "phi": _WIDE,
    "phi3": _GROUPED,
    "opt": _OPT,
    "olmo2": _GROUPED,
    "falcon": _FALCON,
}

# The same families where they are hardest to shorten: windows shorter than the prompts, other block orders.
_VARIANTS: dict[str, tuple[str, Settings]] = {
    "mistral-sliding": ("mistral", _GROUPED | {"sliding_window": 5}),
    "gpt_neo-sliding": ("gpt_neo", _NEO | {"window_size": 5}),
    "gemma2-sliding": ("gemma2", _GEMMA | {"sliding_window": 5, "final_logit_softcapping": 5.0}),
    "gemma3_text-sliding": ("gemma3_text", _GEMMA | _THIRDS | {"sliding_window": 5}),
    "gemma4_text-small": ("gemma4_text", _GEMMA4 | _SMALL),
    "gpt_neox-serial": ("gpt_neox", _WIDE | {"use_parallel_residual": False}),
    "falcon-new": ("falcon", _FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon-alibi": ("falcon", _FALCON | {"alibi": True, "parallel_attn": False, "bias": True}),
    "opt-post-norm": ("opt", _OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 32}),
}

_NESTED: Settings = {"vocab_size": VOCABULARY, "bos_token_id": None, "pad_token_id": None}
_LIKE_LLAMA = ("apertus", "arcee", "ernie4_5", "hunyuan_v1_dense", "ministral3", "nemotron", "seed_oss")

# Known to a layout file, built to see that the file is right.
_PICTURES: Settings = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
_PICTURES |= {"intermediate_size": 32, "image_size": 28, "patch_size": 14}
_PIXTRAL = {"model_type": "pixtral", "head_dim": 16} | _PICTURES
_QWEN_PICTURES: Settings = {"hidden_size": 32, "depth": 1, "num_heads": 2, "intermediate_size": 32}
_QWEN_PICTURES |= {"patch_size": 14, "out_hidden_size": 48, "num_position_embeddings": 16}
_RELATIVES: dict[str, Settings] = {
    "bloom": {"hidden_size": 48, "n_layer": 5, "n_head": 4},
    "cohere": _GROUPED | {"logit_scale": 0.5},
    "cohere2": _GROUPED | {"logit_scale": 0.5, "sliding_window": 5},
    "gemma": _GROUPED,
    "gemma3": {
        "text_config": _GEMMA | _THIRDS | {"vocab_size": VOCABULARY, "bos_token_id": None},
        "vision_config": _PICTURES,
        "mm_tokens_per_image": 4,
    },
    "granite": _GROUPED | {"residual_multiplier": 0.5, "logits_scaling": 2.0},
    "ministral": _GROUPED,
    "olmo": _GROUPED,
    "olmo3": _GROUPED | {"sliding_window": 5},
    "smollm3": _GROUPED,
    "stablelm": _WIDE | {"num_attention_heads": 3, "num_key_value_heads": 3},
    "starcoder2": _GROUPED,
    "glm": _GROUPED,
    "glm4": _GROUPED,
    "exaone4": _GROUPED | {"layer_types": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"]},
    "mistral3": {"text_config": {"model_type": "mistral"} | _GROUPED | _NESTED, "vision_config": _PIXTRAL},
    "gemma4": {"text_config": _GEMMA4 | _NESTED | {"pad_token_id": 0}, "vision_config": _PICTURES},
    "gemma4_text": _GEMMA4,
}


# Attention in some blocks, a recurrent state or a convolution in others, or both in each.
_MAMBA: Settings = {"mamba_n_heads": 8, "mamba_d_head": 12, "mamba_d_state": 8, "mamba_chunk_size": 16}
_LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
_LINEAR |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8}
_THREE_OF_FOUR = {"layer_types": ["linear_attention"] * 3 + ["full_attention", "linear_attention"]}
_HYBRIDS: dict[str, Settings] = {
    "falcon_h1": _GROUPED | _MAMBA | {"mamba_d_ssm": 96, "mlp_multipliers": [0.8, 0.5]},
    "granitemoehybrid": _WIDE
    | _MAMBA
    | {"num_local_experts": 0, "shared_intermediate_size": 80, "residual_multiplier": 0.5}
    | {"layer_types": ["linear_attention", "full_attention"] * 2 + ["linear_attention"]},
    "lfm2": _WIDE
    | {"num_key_value_heads": 2, "block_auto_adjust_ff_dim": False}
    | {"layer_types": ["conv", "full_attention", "conv", "conv", "full_attention"]},
    "qwen3_5": {"text_config": _GROUPED | _LINEAR | _THREE_OF_FOUR | _NESTED, "vision_config": _QWEN_PICTURES},
    "qwen3_5_text": _GROUPED | _LINEAR | _THREE_OF_FOUR,
}

_MOE = _GROUPED | {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}
_EXPERTS: dict[str, Settings] = {
    "mixtral": _GROUPED | {"num_local_experts": 4},
    "qwen2_moe": _MOE | {"num_experts": 4},
    "qwen3_next": _MOE | _LINEAR | _THREE_OF_FOUR | {"num_experts": 4},
    "llama4_text": _GROUPED | {"num_local_experts": 4, "intermediate_size_mlp": 80, "interleave_moe_layer_step": 1},
    "granitemoehybrid": _HYBRIDS["granitemoehybrid"] | {"num_local_experts": 4, "experts_implementation": "eager"},
}


WITH_IMAGES = ("gemma3", "gemma4", "mistral3", "qwen3_5")
"""Built as published, with their vision tower."""


def tiny_model(
    model_type: str, *, dtype: torch.dtype = torch.float64, seed: int = 0, **settings: Any
) -> PreTrainedModel:
    """A causal LM of this type with seeded random weights, in evaluation mode, its parameters frozen."""
    special = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None}
    config = AutoConfig.for_model(model_type, vocab_size=VOCABULARY, **special | settings)
    loader = AutoModelForImageTextToText if model_type in WITH_IMAGES else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        model: PreTrainedModel = loader.from_config(config, dtype=torch.float32)
    return randomised(model, dtype, seed)


def randomised(model: PreTrainedModel, dtype: torch.dtype, seed: int = 0) -> PreTrainedModel:
    """The model with all its parameters drawn anew, in evaluation mode and frozen."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
        scale = 0.1 if parameter.dim() == 1 else 1.2 / min(parameter.shape[-2:]) ** 0.5
        base = parameter.data.double() if parameter.dim() == 1 else 0.0
        parameter.data = (base + scale * noise).to(dtype)
        parameter.requires_grad_(False)
    model.tie_weights()
    model.to(dtype)  # type: ignore[arg-type]
    return model.eval()


Builder = Callable[..., PreTrainedModel]  # (dtype=torch.float64, seed=0, **settings of the config)

FAMILIES: dict[str, Builder] = {name: partial(tiny_model, name, **row) for name, row in _SETTINGS.items()}
VARIANTS: dict[str, Builder] = {name: partial(tiny_model, kind, **row) for name, (kind, row) in _VARIANTS.items()}
HYBRIDS: dict[str, Builder] = {name: partial(tiny_model, name, **row) for name, row in _HYBRIDS.items()}
LIKE_LLAMA: dict[str, Builder] = {name: partial(tiny_model, name, **_GROUPED) for name in _LIKE_LLAMA}
RELATIVES: dict[str, Builder] = {name: partial(tiny_model, name, **row) for name, row in _RELATIVES.items()}
EXPERTS: dict[str, Builder] = {  # to be refused, not run: grouped matrix products know no float64
    name: partial(tiny_model, name, dtype=torch.float32, **row) for name, row in _EXPERTS.items()
}

_ROWS = (  # place, its land, a person
    ("Velm", "Norland", "Ada Corr"),
    ("Oster", "Sudmark", "Ivo Lenz"),
    ("Marrow Bay", "Estria", "Mira"),
    ("Tindale", "Westfold", "Tomas Vey"),
    ("New Harrow", "Norland", "Dr. Anselm Roe"),
    ("Quill", "Sudmark", "Una"),
    ("Saint Orin", "Estria", "Otto Brandt"),
    ("Brask", "Westfold", "Lia"),
    ("Lowmere", "Norland", "Pel"),
    ("Ember", "Isk", "Sig"),
)
_SENTENCES = tuple(
    sentence.format(place=place, land=land, person=person, next=_ROWS[(i + 1) % 10][0])
    for i, (place, land, person) in enumerate(_ROWS)
    for sentence in (
        "{place} is a city in {land}, and the river of {place} is long.",
        "The capital of {land} is {place}. It is known for its bridges.",
        "{person} was born in {place} and speaks the language of {land}.",
        "{person} is a friend of the king; {person} lives in {next}.",
        "The mother tongue of {person} is the language of {land}.",
        "You can see here that {place} lies near {next}, in the north of {land}.",
    )
)

TINY_CONTEXTS = (
    "The quick story. {}",
    "Therefore it is known. {}",
    "Because of the war. {}",
    "I am told by them. {}",
    "You can see here. {}",
)
"""Five prefixes as a model would have made them (method 1.3)."""
TINY_GROUPS = (("{}",), TINY_CONTEXTS)
"""The bare prompt is a group of its own, so it is half of every averaged key (method 1.4)."""


@cache
def tiny_tokenizer(*, bos: bool = False, prefix_space: bool = False, pad: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on sixty sentences. Plain it is of GPT-2's kind: no BOS, no padding token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    specials = [END, BEGIN] if bos else [END]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    if bos:
        begin = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 1)])
        tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), begin])
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        bos_token=BEGIN if bos else None,
        pad_token=END if pad else None,
        model_max_length=96,
    )


def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    """The tokenizer that suits a family: with a BOS where the real one has it."""
    return tiny_tokenizer(bos=family.startswith(("llama", "mistral", "ministral", "gemma", "cohere")))


def tiny_facts() -> list[Fact]:
    """Eight facts: subject first or inside; one token or several; two pairs share a template."""
    return [
        Fact("{} is a city in", "Velm", "Sudmark"),
        Fact("{} is a city in", "Saint Orin", "Westfold"),
        Fact("The mother tongue of {} is the language of", "Tomas Vey", "Isk"),
        Fact("The mother tongue of {} is the language of", "Lia", "New Harrow"),
        Fact("The capital of {} is", "Estria", "Quill"),
        Fact("{}, a friend of the king, lives in", "Dr. Anselm Roe", "Marrow Bay, in the north"),
        Fact("{} was born in", "Una", "Oster"),
        Fact("You can see here that the river of {} is", "Lowmere", "short"),
    ]


def tiny_corpus() -> list[str]:
    """The sixty sentences the tokenizer was trained on: a corpus for key statistics."""
    return list(_SENTENCES)
