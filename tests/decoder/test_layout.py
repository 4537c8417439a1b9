"""Layouts from a file: what fits is used, what does not is refused by name."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from errata import Decoder, DecoderLayout
from errata.decoder.layout import known_layouts
from errata.errors import ErrataError, UnknownName, UnsupportedModel
from tests.models import FAMILIES, tokenizer_of

LLAMA = {name: value for name, value in asdict(known_layouts()["llama"]).items() if name != "guessed"}


def written(folder: Path, **changes: Any) -> Path:
    row = LLAMA | {"model_types": ["llama"]} | changes
    path = folder / "layout.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in row.items() if value is not ...}), encoding="utf-8")
    return path


def test_a_layout_file_is_read_and_used_in_place_of_the_familys(tmp_path: Path) -> None:
    layout = DecoderLayout.read(written(tmp_path, model_types=..., note="mine"))
    assert (layout.note, layout.model_types, layout.guessed) == ("mine", (), False)
    decoder = Decoder(FAMILIES["llama"](), tokenizer_of("llama"), layout)
    assert decoder.layout is layout
    assert len(decoder.blocks) == decoder.model.config.num_hidden_layers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": "model.blocks"}, "layout does not fit"),
        ({"blocks": "model.norm"}, "layout does not fit|no block at"),
        ({"down_projection": "mlp.down"}, "layout does not fit"),
        ({"down_projection": "mlp"}, "expected Linear or Conv1D"),
        ({"attention": "attn"}, "no block at model.layers has 'attn'"),
        ({"final_norm": "model.ln_f"}, "layout does not fit"),
        ({"head": "head"}, "layout does not fit"),
    ],
)
def test_a_layout_that_does_not_fit_the_model_is_refused(changes: Any, message: str, tmp_path: Path) -> None:
    layout = DecoderLayout.read(written(tmp_path, **changes))
    with pytest.raises(UnsupportedModel, match=message):
        Decoder(FAMILIES["llama"](), tokenizer_of("llama"), layout)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"down_projektion": "mlp.down_proj"}, UnknownName, "Did you mean 'down_projection'"),
        ({"guessed": True}, UnknownName, "unknown field of the layout"),
        ({"blocks": ...}, UnsupportedModel, "'blocks' must be a module's path, found None"),
        ({"head": 3}, UnsupportedModel, "'head' must be a module's path, found 3"),
        ({"mlp": [1]}, UnsupportedModel, r"'mlp' must be a module's path, found \[1\]"),
        ({"model_types": "llama"}, UnsupportedModel, "'model_types' must be a list of names"),
    ],
)
def test_a_layout_file_with_a_wrong_field_is_refused_by_its_name(
    changes: Any, error: type[ErrataError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        DecoderLayout.read(written(tmp_path, **changes))


@pytest.mark.parametrize("content", [b"\xff", b"", b"- a\n", b"a: [", b"3"])
def test_what_is_no_layout_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "layout.yaml").write_bytes(content)
    with pytest.raises(UnsupportedModel, match=r"layout .*layout\.yaml: "):
        DecoderLayout.read(tmp_path / "layout.yaml")
    with pytest.raises(UnsupportedModel, match="no such file"):
        DecoderLayout.read(tmp_path / "absent.yaml")
