"""What tests of the command line share: a command run in this process, and a tiny model on the disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from errata.cli import app as cli
from tests.models import FAMILIES, tiny_corpus, tokenizer_of

Run = Callable[..., tuple[int, str]]
"""A command, word by word -> its exit code and all that it printed."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "tiny"
    FAMILIES["llama"]().float().save_pretrained(folder)
    tokenizer_of("llama").save_pretrained(folder)
    write_supplies(folder.parent)
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("ERRATA_STORE", str(tmp_path / "store"))

    def call(*words: object) -> tuple[int, str]:
        capsys.readouterr()
        monkeypatch.setattr("sys.argv", ["errata", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        streams = capsys.readouterr()
        return int(left.value.code or 0), streams.out + streams.err

    return call


def write_supplies(folder: Path) -> None:
    """`corpus.txt` and `recipe.yaml` for an edit of a tiny model."""
    (folder / "corpus.txt").write_text("\n".join(tiny_corpus()), encoding="utf-8")
    recipe = "name: tiny\nwindow: [1, 2]\nanchor: {steps: 4}\nsolvers: {least_squares: {weight: 1, ridge: 0.01}}\n"
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
