"""GGUF files on the command line: in, edited, and out again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from errata import Decoder
from tests.cli.conftest import Run, write_supplies
from tests.gguf_files import write_gguf
from tests.models import tiny_facts


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    write_supplies(folder)
    rows = [json.dumps({"prompt": f.prompt, "subject": f.subject, "target_new": f.target_new}) for f in tiny_facts()]
    (folder / "facts.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return write_gguf(folder / "base.gguf", type="q8_0")


def options(base: Path) -> list[object]:
    return ["--recipe", base.parent / "recipe.yaml", "--corpus", base.parent / "corpus.txt"]


def test_a_gguf_file_is_edited_and_the_edit_is_written_into_it(run: Run, base: Path, tmp_path: Path) -> None:
    made, whole, out = tmp_path / "edit", tmp_path / "whole", tmp_path / "edited.gguf"
    facts = base.parent / "facts.jsonl"
    code, said = run(
        "edit", base, facts, "-o", made, "--checkpoint", whole, "--require", 0, "--no-guard", *options(base)
    )
    assert code == 0, said
    manifest = json.loads((made / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["origin"] == {"file": str(base), "format": "GGUF, de-quantised", "types": "Q8_0 37, F32 11"}
    code, said = run("export", made, "--to", "gguf", "-o", out, "--type", "same")
    assert code in (0, 3), said
    assert f"{base} (Q8_0 37, F32 11)" in said
    assert "blk.1.ffn_down.weight to blk.2.ffn_down.weight in Q8_0, all else as in the base" in said
    assert out.stat().st_size == base.stat().st_size
    edited, expected, plain = (Decoder.from_pretrained(place).weight(1) for place in (out, whole, base))
    assert (edited - expected).norm() < (plain - expected).norm()


def test_doctor_shows_how_the_weights_were_stored(run: Run, base: Path) -> None:
    code, said = run("doctor", base, *options(base))
    assert code == 0, said
    assert "GGUF, de-quantised from Q8_0 37, F32 11" in said


def test_a_cut_file_is_refused_in_one_line(run: Run, base: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(base.read_bytes()[:5000])
    code, said = run("doctor", cut)
    assert code == 1
    assert said.startswith("ModelError: ")
    assert said.count("\n") <= 2
    assert "not a whole GGUF file" in said
