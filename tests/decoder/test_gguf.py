"""GGUF files as models: the very model, its tokenizer and positions; damaged and foreign ones refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from errata import Decoder, Editor
from errata.decoder import gguf, loading
from errata.errors import ModelError, UnsupportedModel
from tests.gguf_files import SIZES, gguf_model, write_gguf
from tests.models import tiny_model, tiny_tokenizer

FAMILIES = ("llama", "qwen2", "gpt2")
TEXT = "Velm is a city in"


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model fails the test."""

    def load(*args: object, **options: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(loading.AutoModelForCausalLM, "from_pretrained", load)


def logits(model: PreTrainedModel) -> torch.Tensor:
    values: torch.Tensor = model(torch.tensor([[1, 5, 9, 14, 2, 7]])).logits
    return values


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gguf_file_becomes_the_model_that_it_was_made_of(family: str, tmp_path: Path) -> None:
    read = Decoder.from_pretrained(write_gguf(tmp_path / "model.gguf", family))
    own = Decoder(gguf_model(family), tiny_tokenizer(bos=family == "llama"))
    assert read.identity.weights == own.identity.weights
    assert read.token_ids(TEXT) == own.token_ids(TEXT)
    assert read.dtype == torch.float32
    torch.testing.assert_close(logits(read.model), logits(own.model))


def test_the_file_may_be_named_in_its_folder(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    read = Editor.from_pretrained(tmp_path, "memit", gguf_file="model.gguf", dtype="bfloat16", subfolder="").decoder
    assert read.dtype == torch.bfloat16
    assert read.origin["file"] == str(tmp_path / "model.gguf")


def test_it_can_be_saved_as_a_checkpoint_which_is_the_same_model(tmp_path: Path) -> None:
    read = Decoder.from_pretrained(write_gguf(tmp_path / "model.gguf", type="q8_0"))
    read.save(tmp_path / "whole")
    assert Decoder.from_pretrained(tmp_path / "whole").identity == read.identity
    assert "quantization_config" not in json.loads((tmp_path / "whole" / "config.json").read_text())
    AutoModelForCausalLM.from_pretrained(tmp_path / "whole")


def test_its_origin_tells_the_file_and_how_it_was_stored(tmp_path: Path) -> None:
    read = Decoder.from_pretrained(write_gguf(tmp_path / "model.gguf", type="q8_0"))
    assert read.origin == {
        "file": str(tmp_path / "model.gguf"),
        "format": "GGUF, de-quantised",
        "types": "Q8_0 37, F32 11",
    }


@pytest.mark.parametrize("rope", [{"rope_type": "linear", "factor": 4.0}, {"rope_type": "llama3", "factor": 8.0}])
def test_stretched_positions_are_those_of_the_model(rope: dict[str, Any], tmp_path: Path) -> None:
    """transformers reads neither from GGUF, and would compute other logits without a word."""
    shape = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    full = {"rope_theta": 10000.0, **rope, **(shape if rope["rope_type"] == "llama3" else {})}
    model = tiny_model("llama", **SIZES, rope_parameters=full).float()
    entries: dict[str, Any] = {}
    tensors = {}
    if rope["rope_type"] == "linear":
        entries = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    else:
        plain = 10000.0 ** (-torch.arange(8) / 8)
        tensors = {"rope_freqs.weight": (plain / model.model.rotary_emb.inv_freq).float().numpy()}
    path = write_gguf(tmp_path / "model.gguf", model=model, entries=entries, tensors=tensors)
    torch.testing.assert_close(logits(Decoder.from_pretrained(path).model), logits(model))
    plain_logits = logits(tiny_model("llama", **SIZES).float())
    assert not torch.allclose(plain_logits, logits(model), atol=1e-3)


@pytest.mark.parametrize(
    ("entries", "tensors"),
    [
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}, {}),
        ({}, {"rope_freqs.weight": np.linspace(1, 7, 8, dtype=np.float32)}),
        ({}, {"rope_factors_long.weight": np.ones(8, dtype=np.float32)}),
    ],
)
@pytest.mark.usefixtures("unloaded")
def test_positions_stretched_in_an_unknown_way_are_refused(
    entries: dict[str, Any], tensors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    path = write_gguf(tmp_path / "model.gguf", entries=entries, tensors=tensors)
    with pytest.raises(UnsupportedModel, match="stretches rotary positions"):
        Decoder.from_pretrained(path)


def test_a_tensor_that_transformers_would_leave_out_is_refused(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", tensors={"blk.1.ffn_gate_inp.weight": np.ones((4, 64), np.float32)})
    with pytest.raises(UnsupportedModel, match=r"leaves out 1 of its tensors, such as blk.1.ffn_gate_inp.weight"):
        Decoder.from_pretrained(path)


@pytest.mark.usefixtures("unloaded")
def test_an_architecture_that_transformers_cannot_read_is_refused_by_name(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes().replace(b"llama", b"lamda"))
    with pytest.raises(UnsupportedModel, match=r"architecture is 'lamda', which transformers cannot read.*gemma3, "):
        Decoder.from_pretrained(path)


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize(
    ("entries", "words"),
    [({"general.type": "adapter"}, "general.type is 'adapter'"), ({"split.count": 3}, "one of 3 parts")],
)
def test_what_is_no_whole_model_is_refused(entries: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=words):
        Decoder.from_pretrained(write_gguf(tmp_path / "model.gguf", entries=entries))


def cut_in_the_tensors(content: bytes) -> bytes:
    return content[: len(content) // 2]


def cut_in_the_metadata(content: bytes) -> bytes:
    return content[:900]


def emptied(content: bytes) -> bytes:
    return b""


def another_kind_of_file(content: bytes) -> bytes:
    return b"PK\3\4" + content[4:]


def endless_text(content: bytes) -> bytes:
    return content[:24] + b"\xff" * 8 + content[32:]


def future_version(content: bytes) -> bytes:
    return content[:4] + b"\x09" + content[5:]


DAMAGE = (
    cut_in_the_tensors,
    cut_in_the_metadata,
    emptied,
    another_kind_of_file,
    endless_text,
    future_version,
)


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_in_one_line(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ModelError, match="not a whole GGUF file") as refused:
        Decoder.from_pretrained(path)
    assert len(str(refused.value).splitlines()) == 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such GGUF file"):
        Decoder.from_pretrained(tmp_path / "model.gguf")


def test_without_the_package_it_is_told_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(tmp_path / "model.gguf")
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"need the package gguf: pip install 'errata\[gguf\]'"):
        Decoder.from_pretrained(path)


def test_weights_are_unpacked_and_no_kernels_are_fetched() -> None:
    """transformers may otherwise keep weights packed, and take code for them from the hub."""
    (config,) = gguf.dequantised({}).values()
    assert config.dequantize
    with pytest.raises(ModelError, match="leave it out"):
        gguf.dequantised({"quantization_config": object()})
