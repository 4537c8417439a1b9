"""A model of which parts lie elsewhere, in main memory or on disk, is edited as if it were all in one place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import dispatch_model

from errata import Decoder, WeightDelta
from errata.decoder.offload import is_away
from errata.errors import NotFinite, UnsupportedModel
from tests.editing import decoder_of, editor_of
from tests.models import FAMILIES, tiny_facts, tokenizer_of

FAMILY = {"llama": ("model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb", "lm_head")}
FAMILY["gpt2"] = ("transformer.wte", "transformer.h", "transformer.ln_f", "", "lm_head")


def spread(family: str, folder: Path, *away: int) -> Decoder:
    """A decoder whose blocks `away` lie on disk between passes; -1: embedding and head too."""
    embedding, blocks, norm, rotary, head = FAMILY[family]
    where = {f"{blocks}.{i}": "disk" if i in away else "cpu" for i in range(5)}
    ends = "disk" if -1 in away else "cpu"
    where |= {name: "cpu" for name in (norm, rotary) if name} | {embedding: ends, head: ends}
    if family == "gpt2":
        where |= {"transformer.wpe": "cpu", "transformer.drop": "cpu"}
    model = FAMILIES[family]()
    dispatched = dispatch_model(model, device_map=where, main_device="cpu", offload_dir=str(folder), force_hooks=True)
    return Decoder(dispatched, tokenizer_of(family))


@pytest.mark.filterwarnings("ignore:Attempting to save a model with offloaded modules")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_edit_of_blocks_on_disk_is_that_of_the_whole_model(family: str, tmp_path: Path) -> None:
    whole, parts = decoder_of(family), spread(family, tmp_path, -1, 1, 2, 4)
    assert is_away(parts.down_projection(1).weight)
    assert not is_away(parts.down_projection(3).weight)
    assert parts.fingerprint == whole.fingerprint
    assert parts.device == torch.device("cpu")
    facts, rows = tiny_facts()[:3], [whole.token_ids(fact.text) for fact in tiny_facts()]
    before = parts.generate(rows, 3)
    assert before == whole.generate(rows, 3)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}

    deltas = [editor_of(decoder, "memit+fe").edit(facts).edit.delta for decoder in (whole, parts)]  # type: ignore[attr-defined]
    for name, change in deltas[0].changes.items():
        assert torch.allclose(deltas[1].changes[name], change, rtol=1e-9, atol=1e-12)
    assert torch.allclose(parts.weight(1), whole.weight(1), rtol=0, atol=1e-12)
    assert not torch.equal(parts.weight(1), parts.original(1))
    positions = [[len(row) - 1] for row in rows]
    for (_, _, one), (_, _, other) in zip(whole.logits(rows, positions), parts.logits(rows, positions), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)
    with parts.unedited():
        assert parts.generate(rows, 3) == before
    parts.save(tmp_path / "saved")
    assert torch.equal(Decoder.from_pretrained(tmp_path / "saved").weight(1), parts.weight(1))

    parts.restore()
    assert torch.equal(parts.weight(1), decoder_of(family).weight(1))
    assert parts.generate(rows, 3) == before
    assert files == {path: path.read_bytes() for path in files}, "what lies on disk is not ours to change"


def test_training_through_what_is_away_is_refused_before_anything_changes(tmp_path: Path) -> None:
    decoder = spread("llama", tmp_path, 1, 2, 3)
    with pytest.raises(UnsupportedModel, match="kept off the device"):
        editor_of(decoder, "ft-m").edit(tiny_facts()[:2])
    assert not decoder.is_edited


def test_nothing_changes_if_a_change_does_not_fit(tmp_path: Path) -> None:
    decoder = spread("llama", tmp_path, 1)
    name = decoder.parameter_name(1)
    with pytest.raises(NotFinite):
        decoder.put_on(WeightDelta(decoder.fingerprint, {name: torch.full_like(decoder.weight(1), torch.nan)}))
    assert torch.equal(decoder.weight(1), decoder_of("llama").weight(1))


def test_a_checkpoint_is_opened_spread_out(tmp_path: Path) -> None:
    FAMILIES["llama"]().save_pretrained(tmp_path / "model")
    tokenizer_of("llama").save_pretrained(tmp_path / "model")
    decoder = Decoder.from_pretrained(tmp_path / "model", device_map="auto")
    assert decoder.fingerprint == decoder_of("llama").fingerprint
