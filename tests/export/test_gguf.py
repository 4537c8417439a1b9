"""Edits written into GGUF files: what stays as it was, what types round away, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from errata import Decoder, Fact, WeightEdit
from errata.delta import WeightDelta
from errata.editors.side_memory import SideMemory
from errata.errors import ModelError, NotFinite, StoreError, UnknownName, UnsupportedModel, WrongEdit, WrongModel
from errata.export.base import Written, change_of_weights
from errata.export.forms import form_of
from errata.export.gguf import Gguf
from errata.export.rounding import Rounded, rounded_for, smallest
from errata.export.stored import Stored, stored, write_with
from tests.gguf_files import SIZES, gguf_model, write_gguf
from tests.models import tiny_corpus, tiny_model, tiny_tokenizer

FAMILIES = ("llama", "qwen2", "gpt2")
LAYERS = (1, 2)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: write_gguf(folder / f"{family}.gguf", family) for family in FAMILIES}


def edit_of(decoder: Decoder, size: float = 1e-2, facts: int = 2) -> WeightEdit:
    """A change of two layers, with keys and facts, one of which the changed model says: it is what it says."""
    draw = torch.Generator().manual_seed(1)
    shapes = {layer: decoder.original(layer).shape for layer in LAYERS}
    changes = {decoder.parameter_name(n): size * torch.randn(*shape, generator=draw) for n, shape in shapes.items()}
    keys = {layer: torch.randn(facts, shape[1], generator=draw) for layer, shape in shapes.items()}
    made: dict[str, Any] = {"identity": decoder.described().to_json(), "model": decoder.name}
    return WeightEdit(WeightDelta(decoder.fingerprint, changes), made, keys)


def with_facts(edit: WeightEdit, decoder: Decoder) -> WeightEdit:
    """The edit with a fact that holds once it is on the model: a word that the edited model says of a subject."""
    subjects = sorted({word.strip(".,") for sentence in tiny_corpus() for word in sentence.split()})
    facts = [Fact("{} is a city in", subject, "?") for subject in subjects]
    edit.put_on(decoder)
    said = decoder.generate([decoder.token_ids(fact.text) for fact in facts], 1)
    edit.take_off(decoder)
    for fact, ids in zip(facts, said, strict=True):
        word = decoder.decode(ids).strip()
        if word.isalpha() and decoder.answer_ids(word) == list(ids):
            return replace(edit, manifest={**edit.manifest, "facts": [asdict(replace(fact, target_new=word))]})
    raise AssertionError(f"the edited model says no whole word: {said}")


def told(written: Written) -> dict[str, str]:
    return {name: str(value) for name, value in written.lines}


def tensors(path: Path) -> dict[str, tuple[str, bytes]]:
    return {t.name: (t.tensor_type.name, t.data.tobytes()) for t in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_without_change_gives_the_very_same_file(
    family: str, files: Mapping[str, Path], tmp_path: Path
) -> None:
    decoder = Decoder.from_pretrained(files[family])
    Gguf().write(edit_of(decoder, size=0.0), decoder, tmp_path / "same.gguf")
    assert (tmp_path / "same.gguf").read_bytes() == files[family].read_bytes()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("type", ["same", "f16", "q8_0"])
def test_only_edited_matrices_differ_and_they_hold_the_edit(
    type: str, family: str, files: Mapping[str, Path], tmp_path: Path
) -> None:
    decoder = Decoder.from_pretrained(files[family])
    edit = edit_of(decoder)
    Gguf(type).write(edit, decoder, tmp_path / "edited.gguf")
    before, after = tensors(files[family]), tensors(tmp_path / "edited.gguf")
    assert list(before) == list(after)
    edited = {f"blk.{layer}.ffn_down.weight" for layer in LAYERS}
    assert {name for name in before if before[name] != after[name]} == edited
    assert {after[name][0] for name in edited} == {{"same": "F32"}.get(type, type.upper())}
    loaded = Decoder.from_pretrained(tmp_path / "edited.gguf")
    edit.put_on(decoder)
    tolerance = {"same": 0.0, "f16": 1e-3, "q8_0": 1e-2}[type]
    for layer in LAYERS:
        torch.testing.assert_close(loaded.weight(layer), decoder.weight(layer), atol=tolerance, rtol=0)


def test_everything_before_the_tensors_but_types_and_places_is_as_it_was(
    files: Mapping[str, Path], tmp_path: Path
) -> None:
    decoder = Decoder.from_pretrained(files["llama"])
    Gguf("f16").write(edit_of(decoder), decoder, tmp_path / "edited.gguf")
    before, after = (gguf.GGUFReader(path) for path in (files["llama"], tmp_path / "edited.gguf"))
    assert before.data_offset == after.data_offset
    table = before.tensors[0].field.offset
    assert np.array_equal(before.data[:table], after.data[:table])
    assert all(tensor.data_offset % before.alignment == 0 for tensor in after.tensors)


def test_four_bits_stay_four_bits_and_what_they_round_away_is_told(tmp_path: Path) -> None:
    base = write_gguf(tmp_path / "base.gguf", "llama", "q4_1")
    decoder = Decoder.from_pretrained(base)
    edit = with_facts(edit_of(decoder, size=0.1), decoder)
    written = Gguf("same").write(edit, decoder, tmp_path / "edited.gguf")
    assert tensors(tmp_path / "edited.gguf")["blk.1.ffn_down.weight"][0] == "Q4_1"
    assert re.fullmatch(
        r"\d of these 1 hold; rounding takes .*% of what the edit adds at its keys; 0.0 MB", told(written)["in Q4_1"]
    )
    assert (tmp_path / "edited.gguf").stat().st_size == base.stat().st_size


def test_the_smallest_type_that_keeps_every_fact_is_taken(tmp_path: Path) -> None:
    """An edit far below a step of four bits is rounded away there; eight bits keep it."""
    decoder = Decoder.from_pretrained(write_gguf(tmp_path / "base.gguf", "llama", "q4_1"))
    edit = with_facts(edit_of(decoder, size=0.1), decoder)
    written = Gguf().write(edit, decoder, tmp_path / "edited.gguf")
    assert written.complete
    types = [name for name in told(written) if name.startswith("in ")]
    assert types == ["in Q4_1", "in Q8_0", "in F16"]
    kept = [type for type in types if told(written)[type].startswith("1 of these 1 hold")]
    assert f" {kept[0]}, all else as in the base" in told(written)["written"]


def test_where_no_type_keeps_every_fact_the_one_that_keeps_most_is_taken() -> None:
    facts = [Fact("{} is", "Velm", word) for word in ("near", "far")]
    matrix = stored(torch.ones(2, 32), "q8_0", "w")
    tried = [
        Rounded("same", {"w": matrix}, frozenset(), None),
        Rounded("f16", {"w": matrix}, frozenset(facts[:1]), None),
    ]
    assert smallest(tried, frozenset(facts)).type == "f16"
    assert smallest(tried, frozenset()).type == "same"


@pytest.mark.parametrize("type", ["q4_1", "q8_0", "f16", "bf16"])
def test_rounding_minds_the_keys_of_the_edit(type: str) -> None:
    """Rounded blindly, any type takes more than twice as much of what a matrix gives for them."""
    draw = torch.Generator().manual_seed(0)
    goal, keys = torch.randn(64, 320, generator=draw), torch.randn(4, 320, generator=draw)
    blind, minded = stored(goal, type, "w"), rounded_for(keys, goal, type, "w")
    lost = [float(((matrix.values - goal) @ keys.T).norm()) for matrix in (blind, minded)]
    assert lost[1] < lost[0] / 2.5
    assert (minded.values - goal).norm() < 1.3 * (blind.values - goal).norm()
    assert minded.data.shape == blind.data.shape
    assert torch.equal(values_of_data(minded), minded.values)
    assert torch.equal(rounded_for(None, goal, type, "w").values, blind.values)


def test_so_many_keys_that_they_are_summed_up_are_minded_too() -> None:
    draw = torch.Generator().manual_seed(0)
    goal = torch.randn(16, 320, generator=draw)
    keys = torch.randn(700, 8, generator=draw) @ torch.randn(8, 320, generator=draw)
    lost = [
        float(((matrix.values - goal) @ keys.T).norm())
        for matrix in (stored(goal, "q4_1", "w"), rounded_for(keys, goal, "q4_1", "w"))
    ]
    assert lost[1] < lost[0] / 2


def values_of_data(matrix: Stored) -> torch.Tensor:
    return torch.from_numpy(gguf.quants.dequantize(matrix.data, matrix.type)).reshape(matrix.values.shape)


# -- refusals ------------------------------------------------------------------------------------------


def test_the_base_is_never_written_over_and_nothing_else_is(files: Mapping[str, Path], tmp_path: Path) -> None:
    before = files["llama"].read_bytes()
    with pytest.raises(StoreError, match="is the base itself; nothing was written"):
        Gguf().check(str(files["llama"]), files["llama"])
    (tmp_path / "link.gguf").symlink_to(files["llama"])
    with pytest.raises(StoreError, match="is the base itself"):
        Gguf().check(str(files["llama"]), tmp_path / "link.gguf")
    (tmp_path / "other.gguf").write_text("another model")
    decoder = Decoder.from_pretrained(files["llama"])
    with pytest.raises(StoreError, match="exists; nothing was written"):
        Gguf().write(edit_of(decoder), decoder, tmp_path / "other.gguf")
    assert (tmp_path / "other.gguf").read_text() == "another model"
    assert files["llama"].read_bytes() == before


def test_an_edit_of_another_model_is_refused(files: Mapping[str, Path], tmp_path: Path) -> None:
    other = Decoder.from_pretrained(write_gguf(tmp_path / "other.gguf", type="q8_0"))
    decoder = Decoder.from_pretrained(files["llama"])
    with pytest.raises(WrongModel, match="this edit was made for weights"):
        Gguf().write(edit_of(other), decoder, tmp_path / "edited.gguf")
    assert not (tmp_path / "edited.gguf").exists()


def test_an_edit_of_the_checkpoint_with_the_same_weights_is_taken_and_what_differs_is_told(
    files: Mapping[str, Path], tmp_path: Path
) -> None:
    """A GGUF file rounds the epsilon of its norms to float32, and its tokenizer is put together anew."""
    own = Decoder(gguf_model("llama"), tiny_tokenizer(bos=True))
    decoder = Decoder.from_pretrained(files["llama"])
    written = Gguf("f16").write(edit_of(own), decoder, tmp_path / "edited.gguf")
    assert "another tokenizer" in written.notes[0]
    assert "rms_norm_eps is 9.999999974752427e-07, expected 1e-06" in written.notes[1]
    edit_of(decoder).put_on(decoder)
    read = Decoder.from_pretrained(tmp_path / "edited.gguf")
    torch.testing.assert_close(read.weight(1), decoder.weight(1), atol=1e-3, rtol=0)


def test_a_side_memory_is_refused_with_the_reason() -> None:
    memory = SideMemory("base", 1, "silu", ())
    with pytest.raises(WrongEdit, match="is a SideMemory: it decides for each prompt which of two matrices"):
        change_of_weights(memory, "gguf")


def test_a_type_that_cannot_be_written_is_refused_with_what_can(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"unknown type 'q4_k'.*'q4_0'"):
        Gguf("q4_k").check("model.gguf", tmp_path / "edited.gguf")
    with pytest.raises(UnknownName, match=r"unknown form 'ggfu'.*'gguf'"):
        form_of("ggfu", {})
    with pytest.raises(ModelError, match="model: not a GGUF file"):
        Gguf().check("model", tmp_path / "edited.gguf")


def test_matrices_of_a_type_that_is_only_read_are_not_kept_as_they_are(tmp_path: Path) -> None:
    """The file's own type is one that nothing here can write; the types that are tried leave it out."""
    model = tiny_model("llama", **{**SIZES, "intermediate_size": 256}).float()
    base = write_gguf(tmp_path / "base.gguf", "llama", "f32", model, random_q6_k="ffn_down")
    decoder = Decoder.from_pretrained(base)
    edit = edit_of(decoder)
    with pytest.raises(UnsupportedModel, match=r"blk.1.ffn_down.weight is stored as Q6_K.*Use --type q8_0 or f16"):
        Gguf("same").write(edit, decoder, tmp_path / "edited.gguf")
    written = Gguf().write(edit, decoder, tmp_path / "edited.gguf")
    assert [name for name in told(written) if name.startswith("in ")] == ["in Q8_0", "in F16"]
    assert not decoder.is_edited


def test_rows_that_fit_no_block_are_refused(tmp_path: Path) -> None:
    model = tiny_model("llama", **{**SIZES, "intermediate_size": 80}).float()
    decoder = Decoder.from_pretrained(write_gguf(tmp_path / "base.gguf", "llama", "f32", model))
    with pytest.raises(UnsupportedModel, match="rows of 80 values, which cannot be divided into the blocks of q8_0"):
        Gguf("q8_0").write(edit_of(decoder), decoder, tmp_path / "edited.gguf")
    assert not list(tmp_path.glob("*edited*"))
    assert list(told(Gguf().write(edit_of(decoder), decoder, tmp_path / "edited.gguf"))) == [
        *("base", "exact edit", "in F32", "written", "read back"),
    ]


def test_values_beyond_a_type_are_refused(files: Mapping[str, Path], tmp_path: Path) -> None:
    decoder = Decoder.from_pretrained(files["llama"])
    with pytest.raises(NotFinite, match="values too large for f16"):
        Gguf("f16").write(edit_of(decoder, size=1e6), decoder, tmp_path / "edited.gguf")
    assert not decoder.is_edited
    assert not list(tmp_path.iterdir())


def test_tensors_that_overlap_are_refused(files: Mapping[str, Path], tmp_path: Path) -> None:
    damaged = tmp_path / "base.gguf"
    content = bytearray(files["llama"].read_bytes())
    tensor = gguf.GGUFReader(files["llama"]).tensors[1]
    place = tensor.field.offset + sum(part.nbytes for part in tensor.field.parts[:-1])
    content[place : place + 8] = bytes(8)  # the second tensor now lies where the first one does
    damaged.write_bytes(content)
    with pytest.raises(ModelError, match="overlaps the tensor behind it"):
        write_with(gguf.GGUFReader(damaged), {}, tmp_path / "edited.gguf")
    assert not (tmp_path / "edited.gguf").exists()
