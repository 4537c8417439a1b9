"""A saved edit becomes a checkpoint like its base, and the checkpoint becomes the base again, bit for bit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from errata import Decoder, WeightDelta, WeightEdit
from errata.errors import StoreError, WrongModel
from errata.export.checkpoint import Checkpoint
from errata.export.original import write_original
from tests.models import FAMILIES, tiny_facts, tokenizer_of

FACTS = tiny_facts()[:3]


def base_of(folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32, shards: str = "40KB") -> Path:
    FAMILIES[family]().to(dtype).save_pretrained(folder, max_shard_size=shards)
    tokenizer_of(family).save_pretrained(folder)
    (folder / "README.md").write_text("the base's own card", encoding="utf-8")
    return folder


def edit_of(decoder: Decoder, layers: tuple[int, ...] = (1, 2), size: float = 0.1) -> WeightEdit:
    """A random change of rank three, as three facts make."""
    changes, keys = {}, {}
    for layer in layers:
        model, inner = decoder.weight(layer).shape
        draw = torch.Generator().manual_seed(layer)
        keys[layer] = torch.randn(3, inner, generator=draw)
        changes[decoder.parameter_name(layer)] = size * torch.randn(model, 3, generator=draw) @ keys[layer] / inner**0.5
    facts = [{"prompt": f.prompt, "subject": f.subject, "target_new": f.target_new} for f in FACTS]
    manifest = {"model": decoder.name, "method": "memit", "facts": facts}
    return WeightEdit(WeightDelta(decoder.fingerprint, changes), manifest, keys)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_holds_the_edited_weights_and_is_undone_bit_for_bit(
    family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    base = base_of(tmp_path / "base", family, dtype)
    decoder = Decoder.from_pretrained(base)
    edit = edit_of(decoder)
    Checkpoint().write(edit, decoder, tmp_path / "made")
    assert not decoder.is_edited
    before, made = contents(base), contents(tmp_path / "made")
    shards = {name for name in before if name.endswith(".safetensors")}
    assert len(shards) > 2
    differing = {name for name in before if made[name] != before[name]}
    assert differing < shards | {"README.md"}
    assert "README.md" in differing
    edit.put_on(decoder)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    assert loaded.dtype == dtype
    for name, parameter in decoder.model.named_parameters():
        assert torch.equal(parameter, loaded.get_parameter(name)), name
    written = write_original(tmp_path / "made", tmp_path / "undone")
    assert contents(tmp_path / "undone") == before
    assert not written.notes


def test_the_card_and_the_edit_are_inside(tmp_path: Path) -> None:
    decoder = Decoder.from_pretrained(base_of(tmp_path / "base"))
    edit = edit_of(decoder)
    written = Checkpoint().write(edit, decoder, tmp_path / "made")
    said = dict(written.lines)
    assert said["facts that hold"] == "0 of 3 (0 with the edit itself)"
    assert "2 matrices" in str(said["changed"])
    card = (tmp_path / "made" / "README.md").read_text()
    assert card.startswith("---\n")
    assert FACTS[0].target_new in card
    assert "Facts were changed on purpose" in card
    again = WeightEdit.load(tmp_path / "made" / "errata" / "edit")
    assert again.delta.same_changes(edit.delta)


def test_a_base_of_other_files_is_written_as_transformers_writes_it(tmp_path: Path) -> None:
    """A model that was never in a folder of safetensors, such as one in memory or of a GGUF file."""
    model = FAMILIES["llama"]().float()
    decoder = Decoder(model, tokenizer_of("llama"), name="in memory")
    edit = edit_of(decoder)
    written = Checkpoint().write(edit, decoder, tmp_path / "made")
    assert any("written as transformers writes it" in note for note in written.notes)
    write_original(tmp_path / "made", tmp_path / "undone")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "undone")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, loaded.get_parameter(name)), name
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_edit_of_an_edited_checkpoint_is_undone_one_at_a_time(tmp_path: Path) -> None:
    first = Decoder.from_pretrained(base_of(tmp_path / "base"))
    Checkpoint().write(edit_of(first), first, tmp_path / "one")
    second = Decoder.from_pretrained(tmp_path / "one")
    Checkpoint().write(edit_of(second, (2, 3)), second, tmp_path / "two")
    write_original(tmp_path / "two", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(tmp_path / "one")
    write_original(tmp_path / "back", tmp_path / "first")
    assert contents(tmp_path / "first") == contents(tmp_path / "base")


def test_other_copies_of_the_weights_are_left_out_and_named(tmp_path: Path) -> None:
    base = base_of(tmp_path / "base")
    (base / "pytorch_model.bin").write_bytes(b"unedited weights")
    decoder = Decoder.from_pretrained(base)
    written = Checkpoint().write(edit_of(decoder), decoder, tmp_path / "made")
    assert not (tmp_path / "made" / "pytorch_model.bin").exists()
    assert any("pytorch_model.bin" in note for note in written.notes)


def test_what_rounding_loses_is_told(tmp_path: Path) -> None:
    decoder = Decoder.from_pretrained(base_of(tmp_path / "base", dtype=torch.bfloat16))
    written = Checkpoint().write(edit_of(decoder, size=1e-3), decoder, tmp_path / "made")
    assert "to bfloat16 changes" in str(dict(written.lines)["rounding"])


def test_what_cannot_be_written_is_refused_before_anything_is(tmp_path: Path) -> None:
    decoder = Decoder.from_pretrained(base_of(tmp_path / "base"))
    edit = edit_of(decoder)
    other = replace(edit, delta=WeightDelta("other", edit.delta.changes))
    with pytest.raises(WrongModel):
        Checkpoint().write(other, decoder, tmp_path / "made")
    with pytest.raises(StoreError, match="exists"):
        Checkpoint().write(edit, decoder, tmp_path / "base")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base"]


def test_files_that_hold_other_values_than_the_model_are_not_taken_for_it(tmp_path: Path) -> None:
    """A model was trained in memory, or its folder written to since, if only in a tensor that no edit changes."""
    decoder = Decoder.from_pretrained(base_of(tmp_path / "base", shards="1GB"))
    file, name = tmp_path / "base" / "model.safetensors", "model.layers.0.self_attn.q_proj.weight"
    tensors = load_file(file)
    save_file({**tensors, name: tensors[name] + 1}, file, {"format": "pt"})
    written = Checkpoint().write(edit_of(decoder), decoder, tmp_path / "made")
    assert written.notes == ["the base has no safetensors files with these values; written as transformers writes it"]
    assert torch.equal(load_file(tmp_path / "made" / "model.safetensors")[name], tensors[name])


def test_a_checkpoint_that_was_trained_since_is_not_undone(tmp_path: Path) -> None:
    decoder = Decoder.from_pretrained(base_of(tmp_path / "base", shards="1GB"))
    Checkpoint().write(edit_of(decoder), decoder, tmp_path / "made")
    weights = tmp_path / "made" / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensor * 1.01 for name, tensor in tensors.items()}, weights, {"format": "pt"})
    with pytest.raises(StoreError, match=r"model\.safetensors was changed by something else.*Nothing was written"):
        write_original(tmp_path / "made", tmp_path / "undone")
    assert not (tmp_path / "undone").exists()


def test_changes_of_other_files_are_told(tmp_path: Path) -> None:
    decoder = Decoder.from_pretrained(base_of(tmp_path / "base"))
    Checkpoint().write(edit_of(decoder), decoder, tmp_path / "made")
    (tmp_path / "made" / "generation_config.json").write_text("{}")
    (tmp_path / "made" / "notes.txt").write_text("mine")
    notes = write_original(tmp_path / "made", tmp_path / "undone").notes
    assert notes == [
        "changed since, and copied as it is now: generation_config.json",
        "not in the base, and copied as it is: notes.txt",
    ]


@pytest.mark.parametrize("damage", ["no record", "no json", "other kind", "no original", "no weights", "file gone"])
def test_a_damaged_checkpoint_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    decoder = Decoder.from_pretrained(base_of(tmp_path / "base"))
    made = tmp_path / "made"
    Checkpoint().write(edit_of(decoder), decoder, made)
    record = made / "errata" / "checkpoint.json"
    if damage == "no record":
        shutil.rmtree(made / "errata")
    elif damage == "no json":
        record.write_text("{")
    elif damage == "other kind":
        record.write_text(json.dumps({**json.loads(record.read_text()), "kind": "x"}))
    elif damage == "no original":
        (made / "errata" / "original.safetensors").write_bytes(b"12345678")
    elif damage == "no weights":
        (made / "model.safetensors.index.json").unlink()
    else:
        (made / "config.json").unlink()
    with pytest.raises(StoreError) as caught:
        write_original(made, tmp_path / "undone")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "undone").exists()
