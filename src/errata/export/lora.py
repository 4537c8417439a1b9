"""Lora: an edit as a PEFT adapter, which is loaded beside the unedited model."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from errata.decoder.decoder import Decoder
from errata.delta import write_tensors
from errata.editors.base import WeightEdit
from errata.errors import ModelError, StoreError, UnfitParts
from errata.export.base import Form, Written, changed, fitted
from errata.export.card import card
from errata.export.thin import Thin, largest, logits_of, rows_of, thin
from errata.files import check_folder, refuse_to_replace, whole_folder, write_text

ADAPTER, CARD, CHECKED = "adapter_model.safetensors", "README.md", "errata.json"
INSTALL = "pip install 'errata[lora]'"


@dataclass(frozen=True)
class Lora(Form):
    """A PEFT folder. `rank`: at most so much per matrix; None: the exact rank of the change."""

    rank: int | None = None
    summary: ClassVar[str] = "a LoRA adapter for PEFT, transformers, vLLM and Ollama"

    def check(self, base: str, output: Path) -> None:
        if find_spec("peft") is None:
            raise ModelError(f"writing a LoRA adapter needs the package peft: {INSTALL}")
        check_rank(self.rank)
        refuse_to_replace(output)
        check_folder(output)

    def write(self, edit: WeightEdit, decoder: Decoder, output: Path) -> Written:
        self.check(decoder.name, output)
        decoder.check_unedited()
        edit, notes = fitted(edit, decoder)
        adapter = thin(edit, decoder, self.rank)
        with whole_folder(output) as made:
            _write_adapter(made, adapter, decoder)
            apart = _apart(made, adapter, decoder)
            size = (made / ADAPTER).stat().st_size
            lines = [
                ("base", decoder.name),
                *adapter.lines(),
                ("loaded back by PEFT", f"logits at most {apart:.2g} from those of the edited weights"),
                ("size", f"{size / 1e6:.2f} MB in {ADAPTER}"),
            ]
            use = (
                "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n"
                f"model = AutoModelForCausalLM.from_pretrained({str(decoder.name)!r})\n"
                'model = PeftModel.from_pretrained(model, "THIS FOLDER")'
            )
            front = {"library_name": "peft", "tags": ["lora"]}
            write_text(made / CARD, card(edit, decoder.name, "A LoRA adapter with an edit", use, lines, front))
            write_text(made / CHECKED, checked(adapter, apart))
        return Written(lines, [*notes, *adapter.notes()], complete=adapter.exact <= adapter.held)


def check_rank(rank: int | None) -> None:
    """Raises UnfitParts for a rank below one."""
    if rank is not None and rank < 1:
        raise UnfitParts(f"--rank {rank}: expected 1 or more. Nothing was written.")


def checked(adapter: Thin, apart: float) -> str:
    """What the adapter keeps of the edit, as JSON."""
    said = {
        "rank": adapter.rank,
        "ranks": {name: one.rank for name, one in adapter.factors.items()},
        "exact_ranks": dict(adapter.full),
        "left_out_at_keys": adapter.lost,
        "largest_logit_difference": apart,
        "facts": len(adapter.edit.facts),
        "facts_held": len(adapter.held),
        "facts_held_by_the_edit": len(adapter.exact),
        "manifest": adapter.edit.manifest,
    }
    return json.dumps(said, indent=1, ensure_ascii=False)


def _write_adapter(made: Path, adapter: Thin, decoder: Decoder) -> None:
    """`adapter_config.json` and the factors, named as PEFT names them."""
    with _peft():
        from peft import LoraConfig

        ranks = {name.removesuffix(".weight"): one.rank for name, one in adapter.factors.items()}
        uneven = {module: rank for module, rank in ranks.items() if rank != adapter.rank}
        config = LoraConfig(
            base_model_name_or_path=str(decoder.name),
            task_type="CAUSAL_LM",
            inference_mode=True,
            r=adapter.rank,
            lora_alpha=adapter.rank,
            rank_pattern=dict(uneven),
            alpha_pattern=dict(uneven),
            target_modules=list(ranks),
            fan_in_fan_out=any(map(decoder.weights.is_transposed, adapter.factors)),
        )
        config.save_pretrained(str(made))
    tensors = {}
    for name, one in adapter.factors.items():
        module = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{module}.lora_A.weight"], tensors[f"{module}.lora_B.weight"] = one.down, one.up
    write_tensors(made / ADAPTER, tensors, {"format": "pt"})


def _apart(made: Path, adapter: Thin, decoder: Decoder) -> float:
    """Load the adapter onto the decoder's model with PEFT, and compare logits with those of the edited weights.

    The model is then as it was. Raises StoreError if PEFT does not take all of it.
    """
    rows = rows_of(decoder, adapter.edit.facts)
    with changed(decoder, adapter.edit.delta):
        expected = logits_of(decoder, rows)
    with _loaded(made, decoder, adapter.factors) as model:
        return largest(logits_of(decoder, rows, model), expected)


@contextmanager
def _loaded(made: Path, decoder: Decoder, names: Iterable[str]) -> Iterator[nn.Module]:
    """The decoder's model with an adapter; its own modules are in their places again afterwards."""
    model: Any = decoder.model
    own = {name.removesuffix(".weight"): decoder.weights.module(name) for name in names}
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        with _peft():
            from peft import PeftModel

            wrapped = PeftModel.from_pretrained(model, str(made))
        if sum("lora_A" in name for name, _ in wrapped.named_parameters()) != len(own):
            raise StoreError("PEFT did not find every module of this adapter in the model; nothing was written")
        yield wrapped.eval()
    finally:
        for name, module in own.items():
            model.set_submodule(name, module)
        model.__dict__.pop("peft_config", None)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained[name])


@contextmanager
def _peft() -> Iterator[None]:
    """Inside, warnings of PEFT and of what it imports are not shown: what it makes of the adapter is checked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
