"""Identity: what a model is. Its weights, the configuration that changes what it computes, its tokenizer, its layout.

Every store key, bench cell, manifest and saved edit names a model by this.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from errata.decoder.layout import DecoderLayout
from errata.errors import StoreError, WrongModel, in_words

NARROW = (torch.bfloat16, torch.float16)
"""Dtypes in which a checkpoint is often loaded that was written in a wider one."""

NOT_COMPUTED = {
    # names, paths, and who wrote the file
    *("_name_or_path", "name_or_path", "architectures", "auto_map", "transformers_version", "_commit_hash"),
    *("tokenizer_class", "model_name", "_model_name_or_path"),
    # what values are stored in: the weights tell, and keys name the dtype beside
    *("dtype", "torch_dtype"),
    # which of several equal ways to compute is taken, and what is returned besides logits
    *("_attn_implementation", "attn_implementation", "use_cache", "cache_implementation", "chunk_size_feed_forward"),
    *("output_attentions", "output_hidden_states", "return_dict", "torchscript"),
    # training and its losses: errata runs models without dropout
    *("initializer_range", "initializer_factor", "gradient_checkpointing", "attention_dropout", "hidden_dropout"),
    *("dropout", "activation_dropout", "classifier_dropout", "layerdrop", "resid_pdrop", "embd_pdrop", "attn_pdrop"),
    *("problem_type", "id2label", "label2id", "num_labels", "finetuning_task", "task_specific_params"),
    *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"),
    # generation: what stands in front of a prompt and where it stops is the tokenizer's and errata's
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
    *("forced_bos_token_id", "forced_eos_token_id"),
}
"""Keys of a configuration that change nothing of what a model computes. All others count, whoever invented them."""


class RoundedBase(UserWarning):
    """An edit is put on its own base, loaded in another precision than it was made in."""


@dataclass(frozen=True)
class Identity:
    """What a model is without its edits; any two that differ in a part may give different numbers.

    weights, tokenizer: hashes. configuration: every setting but NOT_COMPUTED, those switched off left out.
    layout: where blocks and their parts are. dtype: what states are computed in.
    rounded: dtype -> what `weights` is once they are rounded to it; only where an edit is described.
    """

    weights: str
    configuration: Mapping[str, Any]
    tokenizer: str
    layout: Mapping[str, Any]
    dtype: str
    rounded: Mapping[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """Weights and configuration in one word: what an edit is made for, whatever text it was made from."""
        return f"{self.weights}-{hashed(self.configuration)}"

    @property
    def key(self) -> dict[str, str]:
        """All parts, as short as a store key needs them."""
        return {
            "weights": self.weights,
            "configuration": hashed(self.configuration),
            "tokenizer": self.tokenizer,
            "layout": hashed(self.layout),
            "dtype": self.dtype,
        }

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: object) -> Identity:
        """The inverse of `to_json`. Raises StoreError."""
        try:
            return TypeAdapter(cls).validate_python(row)
        except ValidationError as error:
            raise StoreError(f"the description of an edit's base is not one: {in_words(error.errors()[0])}") from None


def check_base(made_for: Identity, here: Identity, name: str) -> None:
    """Raises WrongModel, naming what differs, unless an edit of one base may be put on the other.

    The same checkpoint in another precision is the same base: a RoundedBase warning tells so. Tokenizer and layout
    do not count: an edit names its parameters itself.
    """
    if differing := list(differences(made_for.configuration, here.configuration)):
        raise WrongModel(
            f"this edit was made for another configuration than that of {name}: {'; '.join(differing[:4])}. "
            "Nothing was changed. Load the model as it was configured when the edit was made."
        )
    if made_for.weights == here.weights:
        return
    if here.weights in made_for.rounded.values() or made_for.weights in here.rounded.values():
        warnings.warn(
            f"this edit was made for {name} in {made_for.dtype}, which is loaded in {here.dtype}: its weights are the "
            "same but for rounding, and the edit is put on as it is.",
            RoundedBase,
            stacklevel=4,
        )
        return
    advice = ""
    if made_for.dtype != here.dtype:
        advice = f" The edit was made in {made_for.dtype}, the model is loaded in {here.dtype}: load it in the same."
    raise WrongModel(
        f"this edit was made for weights {made_for.weights}, the model at hand ({name}) has {here.weights}. Nothing "
        f"was changed.{advice or ' Load the model that the edit names.'}"
    )


def differences(made_for: Mapping[str, Any], here: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """`rope_parameters.rope_theta is 500000.0, expected 10000.0` for each setting that differs."""
    for key in sorted({*made_for, *here}):
        expected, value = made_for.get(key), here.get(key)
        if isinstance(expected, Mapping) and isinstance(value, Mapping):
            yield from differences(expected, value, f"{where}{key}.")
        elif expected != value:
            yield f"{where}{key} is {value!r}, expected {expected!r}"


def configuration_of(config: Any) -> dict[str, Any]:
    """The settings that change what a model computes, as JSON types; those that are off (None, False) left out,
    so that a setting that a later version of transformers invents is no other model while it is off.
    """
    computed: dict[str, Any] = _computed(json.loads(json.dumps(config.to_dict(), default=str)))
    return computed


def _computed(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _computed(item) for key, item in value.items() if key not in NOT_COMPUTED}
        return {key: item for key, item in kept.items() if item is not None and item is not False}
    return [_computed(item) for item in value] if isinstance(value, list) else value


def layout_of_states(layout: DecoderLayout) -> dict[str, Any]:
    """Where a layout finds states and keys."""
    return {key: value for key, value in asdict(layout).items() if key not in ("model_types", "note", "guessed")}


def tokenizer_hash(tokenizer: Any) -> str:
    """A hash of all that decides which ids a text becomes: vocabulary, merges, normaliser, pre-tokeniser, what is put
    in front, added and special tokens. Padding and truncation, which errata sets itself, are left out.
    """
    specials = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        parts: Any = {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}
    else:
        added = {str(id_): repr(token) for id_, token in tokenizer.added_tokens_decoder.items()}
        parts = [type(tokenizer).__qualname__, tokenizer.get_vocab(), added, repr(_own(tokenizer.init_kwargs))]
    return hashed([parts, specials])


def _own(given: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What a slow tokenizer was made with, but for paths."""
    plain = {key: value for key, value in given.items() if isinstance(value, bool | int | float)}
    return sorted(plain.items())


def hashed(value: object) -> str:
    """A hash of JSON types."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode("utf-8", "replace"), digest_size=8).hexdigest()


def writes(model: nn.Module) -> tuple[Any, ...]:
    """Changes whenever a parameter is written to in place or replaced; only a write through `.data` leaves no trace."""
    return tuple(
        (name, p.data_ptr(), 0 if p.is_inference() else p._version, p.dtype) for name, p in model.named_parameters()
    )
