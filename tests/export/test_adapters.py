"""An edit as a low-rank adapter: the same logits when it is loaded back, and what a smaller rank costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader

from errata import Decoder, SideMemory, WeightDelta, WeightEdit
from errata.errors import StoreError, UnfitParts, UnknownName, UnsupportedModel, WrongEdit
from errata.export.base import change_of_weights
from errata.export.forms import form_of
from errata.export.gguf_lora import GgufLora, modelfile
from errata.export.lora import Lora
from errata.factors import cut, exact_factors
from tests.export.test_checkpoint import edit_of
from tests.models import FAMILIES, RELATIVES, tokenizer_of


def decoder_of(family: str) -> Decoder:
    model = (RELATIVES if family in RELATIVES else FAMILIES)[family]().float()
    return Decoder(model, tokenizer_of(family), name=family)


def weights_of(decoder: Decoder) -> dict[str, torch.Tensor]:
    return {name: parameter.clone() for name, parameter in decoder.model.named_parameters()}


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "gemma3"])
def test_peft_gives_the_logits_of_the_edited_weights(family: str, tmp_path: Path) -> None:
    """Linear, Conv1D, tied embeddings, and a decoder nested in another model."""
    decoder = decoder_of(family)
    before, modules = weights_of(decoder), [name for name, _ in decoder.model.named_modules()]
    edit = edit_of(decoder)
    written = Lora().write(edit, decoder, tmp_path / "made")
    assert written.complete
    assert not written.notes
    said = json.loads((tmp_path / "made" / "errata.json").read_text())
    assert said["rank"] == 3
    assert said["largest_logit_difference"] < 1e-3
    assert said["left_out_at_keys"] < 1e-5
    config = json.loads((tmp_path / "made" / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == sorted(name.removesuffix(".weight") for name in edit.delta.changes)
    assert config["fan_in_fan_out"] == (family == "gpt2")
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (3, 3, {})
    assert "library_name: peft" in (tmp_path / "made" / "README.md").read_text()
    assert not decoder.is_edited
    assert not Decoder(decoder.model, decoder.tokenizer).is_edited
    assert [name for name, _ in decoder.model.named_modules()] == modules
    assert all(torch.equal(parameter, before[name]) for name, parameter in decoder.model.named_parameters())


def test_matrices_of_different_ranks_are_scaled_alike(tmp_path: Path) -> None:
    decoder = decoder_of("llama")
    edit = edit_of(decoder, (1, 2))
    name = decoder.parameter_name(2)
    left, _, right = torch.linalg.svd(edit.delta.changes[name])
    edit.delta.changes[name] = 0.2 * left[:, :1] @ right[:1]  # type: ignore[index]
    for form, folder in ((Lora(), "peft"), (GgufLora(), "gguf")):
        form.write(edit, decoder, tmp_path / folder)
        said = json.loads((tmp_path / folder / "errata.json").read_text())
        assert sorted(said["ranks"].values()) == [1, 3]
        assert said["largest_logit_difference"] < 1e-3


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_llama_cpp_gets_an_adapter_by_its_own_names(family: str, tmp_path: Path) -> None:
    decoder = decoder_of(family)
    edit = edit_of(decoder)
    GgufLora().write(edit, decoder, tmp_path / "made")
    reader = GGUFReader(tmp_path / "made" / "adapter.gguf")
    fields = {key: reader.fields[key].contents() for key in reader.fields if not key.startswith("GGUF.")}
    assert fields["general.architecture"] == family
    assert (fields["general.type"], fields["adapter.type"]) == ("adapter", "lora")
    assert fields["adapter.lora.alpha"] == 3
    tensors = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    assert sorted(tensors) == [f"blk.{i}.ffn_down.weight.lora_{side}" for i in (1, 2) for side in "ab"]
    for layer in (1, 2):
        product = (tensors[f"blk.{layer}.ffn_down.weight.lora_{side}"] for side in "ba")
        up, down = product
        assert torch.allclose(up @ down, edit.delta.changes[decoder.parameter_name(layer)], atol=1e-6)
    assert json.loads((tmp_path / "made" / "errata.json").read_text())["largest_logit_difference"] < 1e-3
    assert "ADAPTER ./adapter.gguf" in (tmp_path / "made" / "Modelfile").read_text()


def test_a_smaller_rank_says_what_it_costs(tmp_path: Path) -> None:
    decoder = decoder_of("llama")
    written = Lora(rank=2).write(edit_of(decoder), decoder, tmp_path / "made")
    assert dict(written.lines)["rank"] == "2, cut from 3"
    said = json.loads((tmp_path / "made" / "errata.json").read_text())
    assert 0.001 < said["left_out_at_keys"] < 1
    assert said["largest_logit_difference"] > 1e-3


def test_a_rank_above_what_vllm_serves_is_told(tmp_path: Path) -> None:
    decoder = decoder_of("llama")
    edit = edit_of(decoder)
    for name, change in edit.delta.changes.items():
        edit.delta.changes[name] = 0.01 * torch.randn(change.shape[0], 20) @ torch.randn(20, change.shape[1])  # type: ignore[index]
    written = Lora().write(edit, decoder, tmp_path / "made")
    assert written.notes == ["vLLM serves ranks up to 16 unless it is started with --max-lora-rank 32"]


def test_factors_have_the_rank_of_the_change_and_its_values() -> None:
    for shape, rank in (((40, 90), 5), ((1100, 1300), 7)):
        change = torch.randn(shape[0], rank) @ torch.randn(rank, shape[1])
        factors = exact_factors(change, guess=2)
        assert factors.rank == rank
        assert (factors.product - change.double()).norm() / change.norm() < 1e-6


def test_a_cut_loses_least_at_the_keys() -> None:
    keys = torch.randn(4, 90)
    factors = exact_factors(torch.randn(40, 6) @ torch.randn(6, 90), guess=6)

    def lost(keyed: bool) -> float:
        thin = cut(factors, 2, keys if keyed else None)
        assert thin.rank == 2
        return float(((factors.product - thin.product) @ keys.double().T).norm())

    values = torch.linalg.svdvals(factors.product @ keys.double().T)
    assert lost(True) == pytest.approx(float(values[2:].norm()), rel=1e-5)
    assert lost(True) < lost(False)


@pytest.mark.parametrize("to", ["lora", "gguf-lora", "checkpoint"])
def test_a_side_memory_is_refused_with_the_reason(to: str) -> None:
    with pytest.raises(WrongEdit, match="decides for each prompt which of two matrices"):
        change_of_weights(SideMemory("x", 2, "silu", ()), to)


@pytest.mark.parametrize("to", ["lora", "gguf-lora"])
def test_what_an_adapter_cannot_hold_is_refused_before_anything_is_written(to: str, tmp_path: Path) -> None:
    decoder = decoder_of("llama")
    edit = edit_of(decoder)
    form = form_of(to, {"rank": None})
    embedding = "model.embed_tokens.weight"
    changes = {embedding: torch.ones_like(decoder.weights.original(embedding))}
    with pytest.raises(UnsupportedModel, match=r"embed_tokens\.weight|llama.cpp has no"):
        form.write(WeightEdit(WeightDelta(edit.delta.fingerprint, changes), edit.manifest), decoder, tmp_path / "made")
    with pytest.raises(UnfitParts, match="changes nothing"):
        form.write(WeightEdit(edit.delta.scaled(0), edit.manifest), decoder, tmp_path / "made")
    with pytest.raises(UnfitParts, match="expected 1 or more"):
        form_of(to, {"rank": 0}).check("llama", tmp_path / "made")
    (tmp_path / "made").write_text("a file")
    with pytest.raises(StoreError):
        form.write(edit, decoder, tmp_path / "made")
    assert not decoder.is_edited


def test_a_model_that_llama_cpp_does_not_know_is_refused(tmp_path: Path) -> None:
    decoder = decoder_of("opt")
    with pytest.raises(UnsupportedModel, match="is of the type opt"):
        GgufLora().write(edit_of(decoder), decoder, tmp_path / "made")


def test_options_of_other_forms_and_unknown_forms_are_refused() -> None:
    with pytest.raises(UnfitParts, match="--rank is an option of gguf-lora and lora, not of checkpoint"):
        form_of("checkpoint", {"rank": 2})
    with pytest.raises(UnknownName, match="Did you mean 'lora'"):
        form_of("loar", {})


def test_a_modelfile_names_a_base_that_it_can_name(tmp_path: Path) -> None:
    assert modelfile(f"{tmp_path}/base.gguf").startswith(f"FROM {tmp_path}/base.gguf\n")
    assert "FROM ./base.gguf" in modelfile(f"{tmp_path}/two\nlines.gguf")
    assert "FROM ./base.gguf" in modelfile("owner/name")
