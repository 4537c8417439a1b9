"""How far the work is, on the error stream."""

from __future__ import annotations

import pytest

from errata.cli import console


def test_where_output_is_piped_a_stage_is_told_in_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.progress() as tell:
        tell("anchors at layer 4", 2, 20)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(console.Lines, "SECONDS", 0)
    with console.progress() as tell:
        tell("anchors at layer 4", 3, 20)
        tell("statistics", 1024, 0)
    assert capsys.readouterr().err == "anchors at layer 4: 3 of 20\nstatistics: 1,024\n"
