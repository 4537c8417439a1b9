"""GgufLora: an edit as an adapter in the format of llama.cpp, for its --lora and for Ollama's ADAPTER."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

from errata.decoder.decoder import Decoder
from errata.decoder.gguf import SUFFIX, architecture_of, check_installed, open_gguf
from errata.delta import WeightDelta
from errata.editors.base import WeightEdit
from errata.errors import StoreError, UnsupportedModel
from errata.export.base import Form, Written, changed, fitted
from errata.export.card import card
from errata.export.lora import CARD, CHECKED, check_rank, checked
from errata.export.thin import Thin, largest, logits_of, rows_of, thin
from errata.files import check_folder, refuse_to_replace, whole_folder, write_text

if TYPE_CHECKING:
    from gguf import TensorNameMap

ADAPTER, MODELFILE = "adapter.gguf", "Modelfile"
ARCHITECTURES = {
    "mistral": "llama",
    "ministral": "llama",
    "gemma3_text": "gemma3",
    "gpt_neox": "gptneox",
    "cohere": "command-r",
}
"""Model type of transformers -> llama.cpp's name of the architecture, where it is another."""


@dataclass(frozen=True)
class GgufLora(Form):
    """A folder with `adapter.gguf` and a Modelfile. `rank`: as of Lora."""

    rank: int | None = None
    summary: ClassVar[str] = "a LoRA adapter as GGUF, for llama.cpp's --lora and Ollama's ADAPTER"

    def check(self, base: str, output: Path) -> None:
        check_installed(base)
        check_rank(self.rank)
        refuse_to_replace(output)
        check_folder(output)

    def write(self, edit: WeightEdit, decoder: Decoder, output: Path) -> Written:
        self.check(decoder.name, output)
        decoder.check_unedited()
        edit, notes = fitted(edit, decoder)
        architecture = architecture_for(decoder)
        names = _tensor_names(edit, decoder, architecture)
        adapter = thin(edit, decoder, self.rank)
        with whole_folder(output) as made:
            write_adapter(made / ADAPTER, adapter, architecture, names)
            apart = _apart(made / ADAPTER, adapter, decoder, names)
            lines = [
                ("base", f"{decoder.name}, for llama.cpp {architecture!r}"),
                *adapter.lines(),
                ("read back", f"logits at most {apart:.2g} from those of the edited weights"),
                ("size", f"{(made / ADAPTER).stat().st_size / 1e6:.2f} MB in {ADAPTER}"),
            ]
            write_text(made / MODELFILE, modelfile(decoder.name))
            use = f"llama-cli -m BASE.gguf --lora {ADAPTER}\nollama create NAME -f {MODELFILE}"
            front = {"library_name": "llama.cpp", "tags": ["lora", "gguf"]}
            write_text(made / CARD, card(edit, decoder.name, "An adapter with an edit", use, lines, front))
            write_text(made / CHECKED, checked(adapter, apart))
        if not decoder.name.endswith(SUFFIX):
            notes.append(f"{MODELFILE}: put the base's GGUF file, or its name in Ollama, behind FROM")
        return Written(lines, notes, complete=adapter.exact <= adapter.held)


def architecture_for(decoder: Decoder) -> str:
    """llama.cpp's name of the base's architecture. Raises UnsupportedModel if it knows none."""
    from gguf import MODEL_ARCH_NAMES

    if decoder.name.endswith(SUFFIX):
        return architecture_of(open_gguf(decoder.name), decoder.name)
    kind = decoder.model.config.model_type
    name = ARCHITECTURES.get(kind, kind)
    if name not in MODEL_ARCH_NAMES.values():
        raise UnsupportedModel(
            f"{decoder.name} is of the type {kind}, whose name in llama.cpp errata does not know. Nothing was written. "
            "Name the model's GGUF file with --base FILE."
        )
    return name


def _tensor_names(edit: WeightEdit, decoder: Decoder, architecture: str) -> dict[str, str]:
    """Parameter -> llama.cpp's name of its tensor. Raises UnsupportedModel."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    kind = next(kind for kind, name in MODEL_ARCH_NAMES.items() if name == architecture)
    known: TensorNameMap = get_tensor_name_map(kind, decoder.depth)
    names = {}
    for parameter, change in edit.delta.changes.items():
        if not change.any():
            continue
        name = known.get_name(parameter, try_suffixes=(".weight",)) or known.get_name(
            parameter.replace("language_model.", ""), try_suffixes=(".weight",)
        )
        if name is None:
            raise UnsupportedModel(f"llama.cpp has no tensor for {parameter} of {architecture}. Nothing was written.")
        names[parameter] = name
    return names


def write_adapter(path: Path, adapter: Thin, architecture: str, names: Mapping[str, str]) -> None:
    """The file, as llama.cpp's convert_lora_to_gguf.py writes it: `NAME.lora_a` [rank, inner], `.lora_b` [model, rank].

    llama.cpp scales each by alpha / its rank; thinner factors are filled up with zeros, so that this is one.
    """
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(adapter.rank))
    writer.add_string("general.description", f"{len(adapter.edit.facts)} facts, edited by errata")
    for parameter, one in adapter.factors.items():
        short = adapter.rank - one.rank
        down, up = torch.nn.functional.pad(one.down, (0, 0, 0, short)), torch.nn.functional.pad(one.up, (0, short))
        writer.add_tensor(f"{names[parameter]}.lora_a", down.contiguous().numpy())
        writer.add_tensor(f"{names[parameter]}.lora_b", up.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _apart(path: Path, adapter: Thin, decoder: Decoder, names: Mapping[str, str]) -> float:
    """How far logits are from the edited weights' with the products of what the file holds. Raises StoreError."""
    held = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in open_gguf(path).tensors}
    changes = {}
    for parameter, change in adapter.edit.delta.changes.items():
        if parameter in names:
            pair = [held.get(f"{names[parameter]}.lora_{side}") for side in "ba"]
            if pair[0] is None or pair[1] is None:
                raise StoreError(f"{path}: {names[parameter]} was not read back; nothing was written")
            changes[parameter] = (pair[0].double() @ pair[1].double()).to(change.dtype)
    rows = rows_of(decoder, adapter.edit.facts)
    with changed(decoder, adapter.edit.delta):
        expected = logits_of(decoder, rows)
    with changed(decoder, WeightDelta(adapter.edit.delta.fingerprint, changes)):
        return largest(logits_of(decoder, rows), expected)


def modelfile(base: str) -> str:
    """For `ollama create`. The base is named if it is a GGUF file with a path that a Modelfile can hold."""
    path = str(Path(base).resolve())
    usable = base.endswith(SUFFIX) and path.isprintable() and not set('"#') & set(path)
    named = f"FROM {path}" if usable else "# FROM the GGUF file of the base, or its name in Ollama:\nFROM ./base.gguf"
    return f"{named}\nADAPTER ./{ADAPTER}\n"
