"""Tiny GGUF files, written here with the format's own library from tiny models with random weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, get_tensor_name_map, quants
from transformers import PreTrainedModel

from tests.models import tiny_model, tiny_tokenizer

SIZES: dict[str, Any] = {"num_attention_heads": 4, "max_position_embeddings": 96, "num_hidden_layers": 5}
SIZES |= {"hidden_size": 64, "intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 16}
GPT2: dict[str, Any] = {"n_embd": 64, "n_layer": 5, "n_head": 4}


def gguf_model(family: str) -> PreTrainedModel:
    """A model whose matrices are wide enough for blocks of 32 values."""
    tied = {"tie_word_embeddings": False} if family == "llama" else {"tie_word_embeddings": True}
    return tiny_model(family, **(GPT2 if family == "gpt2" else SIZES | tied)).float()


def write_gguf(
    path: Path,
    family: str = "llama",
    type: str = "f32",
    model: PreTrainedModel | None = None,
    entries: Mapping[str, str | int | float] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    random_q6_k: str = "none",
) -> Path:
    """A model's GGUF file: vectors as F32, matrices in `type`; and what else is given."""
    model = gguf_model(family) if model is None else model
    writer = GGUFWriter(path, family)
    writer.add_name("tiny")
    writer.add_string("errata.test.note", "kept — byte for byte")
    for key, value in (entries or {}).items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[value.__class__]
        add(key, value)
    _add_sizes(writer, model.config)
    _add_tokenizer(writer, bos=family == "llama")
    kind = next(kind for kind, name in MODEL_ARCH_NAMES.items() if name == family)
    names = get_tensor_name_map(kind, model.config.num_hidden_layers)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    for parameter, values in model.state_dict().items():
        if parameter not in tied and (name := names.get_name(parameter, try_suffixes=(".weight", ".bias"))):
            array = _as_llama_cpp_keeps_it(parameter, values.float().numpy(), model)
            kept = GGMLQuantizationType[type.upper()] if array.ndim == 2 else GGMLQuantizationType.F32
            data = quants.quantize(np.ascontiguousarray(array), kept)
            if random_q6_k in name:
                kept, data = GGMLQuantizationType.Q6_K, _random_q6_k(*array.shape)
            writer.add_tensor(name, data, raw_dtype=kept)
    for name, array in (tensors or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _random_q6_k(rows: int, columns: int) -> np.ndarray:
    """Blocks of 256 values in 210 bytes, the last two of which are their scale."""
    blocks = np.random.default_rng(0).integers(0, 256, (rows, columns // 256, 210), dtype=np.uint8)
    blocks[..., -2:] = np.array([1e-4], dtype=np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


def _add_sizes(writer: GGUFWriter, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(4 * config.n_embd)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: GGUFWriter, bos: bool) -> None:
    parts = json.loads(tiny_tokenizer(bos=bos).backend_tokenizer.to_str())
    vocabulary = sorted(parts["model"]["vocab"], key=parts["model"]["vocab"].get)
    special = {token["content"] for token in parts["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token in special else 1 for token in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in parts["model"]["merges"]])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(1 if bos else 0)
    writer.add_add_bos_token(bos)


def _as_llama_cpp_keeps_it(parameter: str, array: np.ndarray, model: PreTrainedModel) -> np.ndarray:
    """llama.cpp turns the rows of a llama's queries and keys, and keeps what is a Conv1D as [out, in]."""
    if model.config.model_type == "gpt2":
        turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
        return array.T if parameter.endswith(turned) else array
    if model.config.model_type == "llama" and parameter.endswith(("q_proj.weight", "k_proj.weight")):
        heads = len(array) // model.config.head_dim
        return array.reshape(heads, 2, len(array) // heads // 2, -1).swapaxes(1, 2).reshape(array.shape)
    return array
