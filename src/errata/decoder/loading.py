"""Loading: a checkpoint and its tokenizer through transformers, with nothing left out unnoticed; models in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

from errata.decoder.gguf import (
    check_all_read,
    dequantised,
    gguf_path,
    origin_of,
    quiet_bar,
    readable_gguf,
    without_quantiser,
)
from errata.decoder.gguf_rope import restore_rope
from errata.decoder.site import is_panic
from errata.errors import ModelError, UnknownName, UnsupportedModel

SHARED_OPTIONS = frozenset(
    ["cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token"]
)
"""Loading options of transformers that say where files are: for configuration, tokenizer and model alike."""
MODEL_OPTIONS = frozenset(
    "attn_implementation device_map experts_implementation gguf_file key_mapping max_memory offload_buffers"  # noqa: SIM905
    " offload_folder quantization_config tp_plan use_safetensors variant".split()
)
"""Loading options of transformers that only the model is loaded with."""
LONGEST = 400
"""Characters of another library's message that are shown."""


def load(
    name: str,
    tokenizer: Any = None,
    *,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    options: Mapping[str, Any],
) -> tuple[PreTrainedModel, Any, dict[str, str]]:
    """Model, tokenizer, and what an edit's record says of where they are from, beyond the name.

    Raises UnknownName or ModelError before anything is loaded, ModelError if it cannot be.
    """
    check_options(options)
    chosen = _dtype(dtype)
    device = None if device is None else device_of(device)
    shared = {key: value for key, value in options.items() if key in SHARED_OPTIONS}
    shared["trust_remote_code"] = trust_remote_code
    origin: dict[str, str] = {}
    try:
        if file := gguf_path(name, options, shared):
            model, tokenizer, report, origin = _from_gguf(file, tokenizer, chosen, options, trust_remote_code)
        else:
            model, tokenizer, report = _from_checkpoint(name, tokenizer, chosen, {**options, **shared}, shared)
    except ModelError:
        raise
    except BaseException as error:  # its readers raise whatever a damaged file makes them stumble over
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise ModelError(f"{name}: not loaded as a causal language model: {in_brief(error)}") from error
    _check_whole(name, report)
    if device is not None:
        nn.Module.to(model, device)
    return model, tokenizer, origin


def _from_checkpoint(
    name: str, tokenizer: Any, dtype: torch.dtype | str, options: dict[str, Any], shared: dict[str, Any]
) -> tuple[PreTrainedModel, Any, Mapping[str, Any]]:
    """Model, tokenizer, and what transformers reports of loading."""
    config = AutoConfig.from_pretrained(name, **shared)
    if not shared["trust_remote_code"]:
        _refuse_kernels(name, config, options.get("attn_implementation"))
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(name, **shared)
    loaded: Any = loader_of(config).from_pretrained(
        name, config=config, dtype=dtype, output_loading_info=True, **options
    )
    return loaded[0], tokenizer, loaded[1]


def _from_gguf(
    file: Path, tokenizer: Any, dtype: torch.dtype | str, options: Mapping[str, Any], trusted: bool
) -> tuple[PreTrainedModel, Any, Mapping[str, Any], dict[str, str]]:
    """The same of a GGUF file, and where the weights are from. They are float32 unless a dtype is asked for."""
    reader = readable_gguf(file)
    here: dict[str, Any] = {"gguf_file": file.name}
    given = {key: value for key, value in options.items() if key not in SHARED_OPTIONS} | dequantised(options) | here
    if not trusted:
        _refuse_kernels(str(file), None, options.get("attn_implementation"))
    config = AutoConfig.from_pretrained(file.parent, **here)
    restore_rope(config, reader, file)
    quiet_bar()
    tokenizer = tokenizer or AutoTokenizer.from_pretrained(file.parent, **here)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        file.parent, config=config, dtype=torch.float32 if dtype == "auto" else dtype, output_loading_info=True, **given
    )
    check_all_read(loaded[0], reader, file)
    without_quantiser(loaded[0])
    return loaded[0], tokenizer, loaded[1], origin_of(file, reader)


def loader_of(config: Any) -> Any:
    """The loader of the class that wrote a checkpoint: one that also takes images keeps all of its parts and names."""
    written, kind = (config.architectures or [""])[0], type(config)
    with_images: Any = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    if kind in with_images and with_images[kind].__name__ == written:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def check_options(options: Iterable[str], own: Iterable[str] = ()) -> None:
    """Raises UnknownName for a loading option that transformers would not know; `own`: other options one may mean."""
    known = {*SHARED_OPTIONS, *MODEL_OPTIONS, "dtype", "device", "layout", "tokenizer", "trust_remote_code", *own}
    for option in options:
        if option not in SHARED_OPTIONS | MODEL_OPTIONS:
            raise UnknownName("loading option", option, known)


def check_in_memory(model: Any, dtype: torch.dtype | str | None, device: Any, options: Mapping[str, Any]) -> None:
    """Raises ModelError if loading options contradict a model that is in memory already."""
    if options:
        raise ModelError(
            f"{', '.join(sorted(options))}: options of loading, but the model is in memory already. Leave them out, or "
            "give the checkpoint's name."
        )
    wanted = _dtype(dtype)
    if wanted != "auto" and wanted != model.dtype:
        raise ModelError(f"dtype={dtype}: the model in memory is in {_word(model.dtype)}. Leave it out, or load it so.")
    if device is not None and device_of(device).type != model.device.type:
        raise ModelError(f"device={device}: the model in memory is on {model.device}. Leave it out, or move it there.")


def device_of(device: str | torch.device) -> torch.device:
    """A device that is there. Raises ModelError."""
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"device {str(device)!r}: {in_brief(error)}. Expected cpu, cuda, cuda:1, mps ...") from None
    if wanted.type == "cuda" and (wanted.index or 0) >= (count := torch.cuda.device_count()):
        raise ModelError(f"device {str(device)!r}: this machine has {count} CUDA devices that PyTorch can use.")
    if wanted.type == "mps" and not torch.backends.mps.is_available():
        raise ModelError("device 'mps': PyTorch can use none on this machine.")
    return wanted


def bare_model(model: Any, tokenizer: Any) -> PreTrainedModel:
    """The transformers model inside what was given. Raises UnsupportedModel, or ModelError without a tokenizer."""
    while not isinstance(model, PreTrainedModel) and isinstance(inside := _inside(model), nn.Module):
        model = inside
    if not isinstance(model, PreTrainedModel):
        kind = type(model).__name__
        raise UnsupportedModel(f"found a {kind}; expected a causal language model of transformers, or its name.")
    if _has_adapters(model):
        raise UnsupportedModel(
            f"{model.config.name_or_path or model.config.model_type} carries PEFT adapters, which change what its "
            "weights give. Call merge_and_unload() first, and give the model that it returns."
        )
    if tokenizer is None:
        raise ModelError("no tokenizer was given; pass tokenizer=AutoTokenizer.from_pretrained(...).")
    return model


def _inside(model: Any) -> Any:
    """What a wrapper that computes the very same holds: torch.compile's, or one for several devices."""
    if _has_adapters(model):
        raise UnsupportedModel(
            f"a {type(model).__name__} adds adapters to a model's weights. Call merge_and_unload() first, and give the "
            "model that it returns."
        )
    wrappers = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
    name = wrappers.get(type(model).__name__)
    return getattr(model, name, None) if name else None


def _has_adapters(model: Any) -> bool:
    if not isinstance(model, nn.Module):
        return False
    kinds = {type(module).__module__.partition(".")[0] for module in model.modules()}
    return "peft" in kinds or hasattr(model, "peft_config")


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | str:
    """A floating-point dtype, or "auto" for the checkpoint's own. Raises ModelError."""
    if dtype is None or dtype == "auto":
        return "auto"
    known = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(known, torch.dtype) or not known.is_floating_point:
        raise ModelError(f"dtype {dtype!r}: expected float32, bfloat16, float16 or float64.")
    return known


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _refuse_kernels(name: str, config: Any, wanted: Any) -> None:
    """Code for attention that is fetched from the hub is remote code, whoever asks for it."""
    configs = [config, *(getattr(config, part, None) for part in getattr(config, "sub_configs", {}))]
    asked = [wanted, *(getattr(one, "_attn_implementation", None) for one in configs)]
    spread = [one for value in asked for one in (value.values() if isinstance(value, Mapping) else [value])]
    if kernels := [one for one in spread if isinstance(one, str) and ("/" in one or ":" in one)]:
        raise ModelError(
            f"{name}: attention is to be computed by {kernels[0]!r}, which is code from the hub. Nothing was loaded. "
            "Pass attn_implementation='sdpa', or trust_remote_code=True if you trust it."
        )


def _check_whole(name: str, report: Mapping[str, Any]) -> None:
    """transformers fills in random values for what a checkpoint lacks; errata does not edit such a model."""
    missing = sorted(map(str, report.get("missing_keys", ())))
    if missing:
        raise ModelError(
            f"{name}: the checkpoint lacks {len(missing)} weights of the model, such as {missing[0]!r}; they would be "
            "random. The download may have been cut short, or the checkpoint is of another kind of model."
        )


def in_brief(error: BaseException) -> str:
    """What an exception says, on one line, not too long."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
