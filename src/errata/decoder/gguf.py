"""GGUF: models in the file format of llama.cpp, de-quantised when they are loaded.

transformers turns such a file into a model, reading configuration, tokenizer and weights from it. What is checked
here is that it can, and that it leaves nothing of the file out without a word.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from transformers.utils import cached_file
from transformers.utils import logging as transformers_logging

from errata.errors import ModelError, UnsupportedModel, printable

if TYPE_CHECKING:
    from gguf import GGUFReader

SUFFIX = ".gguf"
INSTALL = "pip install 'errata[gguf]'"


def gguf_path(name: str, options: Mapping[str, Any], shared: Mapping[str, Any]) -> Path | None:
    """The GGUF file that a model's name, or its option `gguf_file`, means; None if it means none.

    Raises ModelError for a file that is not there.
    """
    inside = options.get("gguf_file")
    if inside is None and not name.lower().endswith(SUFFIX):
        return None
    path = Path(name) if inside is None else Path(name) / inside
    if path.is_file():
        return path
    if inside is None or Path(name).is_dir():
        raise ModelError(f"{path}: there is no such GGUF file.")
    return Path(str(cached_file(name, inside, **shared)))


def check_installed(path: str | Path) -> None:
    """Raises ModelError without the package that reads and writes GGUF files."""
    if find_spec("gguf") is None:
        raise ModelError(f"{path}: GGUF files need the package gguf: {INSTALL}")


def open_gguf(path: str | Path) -> GGUFReader:
    """A GGUF file's metadata and tensors. Raises ModelError if it is none or is damaged."""
    check_installed(path)
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
    except Exception as error:  # whatever its bytes make the reader stumble over
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:160]
        raise ModelError(
            f"{path}: not a whole GGUF file ({reason}; {os.path.getsize(path):,} bytes). Download it again."
        ) from None
    if reader.byte_order != "I":
        raise ModelError(f"{path}: written for computers of the other byte order; convert it with gguf_convert_endian.")
    return reader


def readable_gguf(path: Path) -> GGUFReader:
    """The file, if it is one that transformers can make a model of. Raises UnsupportedModel, ModelError."""
    reader = open_gguf(path)
    architecture = architecture_of(reader, path)
    known = _architectures()
    if architecture not in known:
        raise UnsupportedModel(
            f"{path}: its architecture is {printable(architecture)}, which transformers cannot read from GGUF, only "
            f"{', '.join(sorted(known))}. Nothing was loaded. Use the model's original checkpoint."
        )
    kind = text_of(reader, "general.type")
    if kind not in (None, "model"):
        raise UnsupportedModel(f"{path}: its general.type is {printable(kind)}, expected a model. Nothing was loaded.")
    if (parts := _number(reader, "split.count")) > 1:
        raise UnsupportedModel(
            f"{path}: one of {parts} parts of a model. Join them with llama-gguf-split --merge. Nothing was loaded."
        )
    return reader


def architecture_of(reader: GGUFReader, path: str | Path) -> str:
    """llama.cpp's name of the architecture. Raises ModelError if the file names none."""
    architecture = text_of(reader, "general.architecture")
    if architecture is None:
        raise ModelError(f"{path}: does not name its architecture; it is damaged or holds no model.")
    return architecture


def origin_of(path: Path, reader: GGUFReader) -> dict[str, str]:
    """Where the weights are from, for the record of an edit."""
    return {"file": str(path), "format": "GGUF, de-quantised", "types": types_in(reader)}


def types_in(reader: GGUFReader) -> str:
    """How the tensors are stored, the most frequent type first: `Q4_1 211, F32 61`."""
    counted = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    return ", ".join(f"{name} {count}" for name, count in counted.most_common())


def dequantised(options: Mapping[str, Any]) -> dict[str, Any]:
    """The option that has transformers unpack every weight: packed ones cannot be edited, and the code that multiplies
    by them comes from the hub. Raises ModelError if the file is to be quantised in another way.
    """
    if options.get("quantization_config") is not None:
        raise ModelError("quantization_config: a GGUF file is de-quantised when it is loaded; leave it out.")
    config = getattr(transformers, "GgufConfig", None)  # before transformers had it, every weight was unpacked
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def quiet_bar() -> None:
    """Let the bar that transformers draws while it unpacks weights obey the switch of all its other bars."""
    from transformers import modeling_gguf_pytorch_utils as reading

    if hasattr(reading, "tqdm"):
        reading.tqdm = transformers_logging.tqdm


def without_quantiser(model: Any) -> None:
    """Let transformers treat a de-quantised model as any other: it can be saved, and its configuration names no file
    from which it came.
    """
    model.hf_quantizer = None
    for name in ("is_quantized", "quantization_method"):
        if hasattr(model, name):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def check_all_read(model: Any, reader: GGUFReader, path: Path) -> None:
    """Raises UnsupportedModel for a tensor of the file that is no parameter of the model made of it."""
    if architecture_of(reader, path) in _explicit():  # every tensor has a rule, or belongs to what predicts further on
        return
    name_of = naming(reader, path, model.config.get_text_config(decoder=True).num_hidden_layers)
    read = {*map(name_of, model.state_dict()), "rope_freqs.weight"}
    if left := sorted({tensor.name for tensor in reader.tensors} - read):
        raise UnsupportedModel(
            f"{path}: transformers leaves out {len(left)} of its tensors, such as {left[0]}; the model would not be "
            "the one that llama.cpp runs. Use the model's original checkpoint."
        )


def naming(reader: GGUFReader, path: str | Path, blocks: int) -> Callable[[str], str | None]:
    """What llama.cpp calls a parameter of transformers, wherever in the model it is; None if it has no name for it.

    Raises UnsupportedModel for an architecture that the package gguf does not know.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    architecture = architecture_of(reader, path)
    kind = next((kind for kind, name in MODEL_ARCH_NAMES.items() if name == architecture), None)
    if kind is None:
        raise UnsupportedModel(f"{path}: the installed gguf does not know the architecture {architecture}: update it.")
    names = get_tensor_name_map(kind, blocks)

    def name_of(parameter: str) -> str | None:
        parts = parameter.split(".")
        within = (".".join(parts[i:]) for i in range(len(parts) - 1))
        return next((name for part in within if (name := names.get_name(part, (".weight", ".bias")))), None)

    return name_of


def _architectures() -> set[str]:
    """Names of architectures, as llama.cpp writes them, that transformers makes a model of."""
    from transformers import modeling_gguf_pytorch_utils as reading

    legacy = set(reading.GGUF_SUPPORTED_ARCHITECTURES) - {"general", "tokenizer"}
    spelt = {"qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "gpt_oss": "gpt-oss", "minimax_m2": "minimax-m2"}
    return {spelt.get(name, name) for name in legacy} | _explicit()


def _explicit() -> set[str]:
    """Architectures for which transformers says tensor by tensor how they are read."""
    try:
        from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
    except ImportError:
        return set()
    return set(GGUF_CONFIG_ARCHS)


def text_of(reader: GGUFReader, key: str) -> str | None:
    """An entry of the metadata; None if there is none of this name."""
    field = reader.get_field(key)
    return None if field is None else str(field.contents())


def _number(reader: GGUFReader, key: str) -> int:
    field = reader.get_field(key)
    return 0 if field is None else int(field.contents())
