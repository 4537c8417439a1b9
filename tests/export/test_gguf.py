"""Edits written into GGUF files: what stays as it was, what types round away, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from errata import Decoder, Fact, WeightEdit
from errata.delta import WeightDelta
from errata.export.gguf import Gguf
from tests.gguf_files import gguf_model, write_gguf
from tests.models import tiny_corpus, tiny_tokenizer

gguf = pytest.importorskip("gguf")

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


def tensors(path: Path) -> dict[str, tuple[str, bytes]]:
    return {t.name: (t.tensor_type.name, t.data.tobytes()) for t in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_of_llama_cpp_becomes_the_model_that_it_was_made_of(family: str, files: Mapping[str, Path]) -> None:
    read = Decoder.from_pretrained(files[family])
    own = Decoder(gguf_model(family), tiny_tokenizer(bos=family == "llama"))
    assert read.identity.weights == own.identity.weights
    text = "Velm is a city in"
    assert read.token_ids(text) == own.token_ids(text)


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
    told = dict(written.lines)["as same"]
    assert "of 1 facts hold" in told
    assert "of what the edit does to its keys" in told
    assert (tmp_path / "edited.gguf").stat().st_size == base.stat().st_size


def test_the_smallest_type_that_keeps_every_fact_is_taken(tmp_path: Path) -> None:
    """An edit far below a step of four bits is rounded away there; eight bits keep it."""
    decoder = Decoder.from_pretrained(write_gguf(tmp_path / "base.gguf", "llama", "q4_1"))
    edit = with_facts(edit_of(decoder, size=0.1), decoder)
    written = Gguf().write(edit, decoder, tmp_path / "edited.gguf")
    assert written.complete
    types = [name.removeprefix("as ") for name, _ in written.lines if name.startswith("as ")]
    assert types == ["same", "q8_0", "f16"]
    chosen = str(dict(written.lines)["written as"]).partition(":")[0]
    kept = [type for type in types if str(dict(written.lines)[f"as {type}"]).startswith("1 of 1")]
    assert chosen == kept[0]


def test_where_no_type_keeps_every_fact_the_one_that_keeps_most_is_taken() -> None:
    from errata.export.rounding import Rounded, smallest

    facts = [Fact("{} is", "Velm", word) for word in ("near", "far")]
    matrix = gguf_stored(32)
    tried = [
        Rounded("same", {"w": matrix}, frozenset(), None),
        Rounded("f16", {"w": matrix}, frozenset(facts[:1]), None),
    ]
    assert smallest(tried, frozenset(facts)).type == "f16"
    assert smallest(tried, frozenset()).type == "same"


def gguf_stored(width: int) -> Any:
    from errata.export.stored import stored

    return stored(torch.ones(2, width), "q8_0", "w")
