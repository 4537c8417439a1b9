"""Figures for a paper."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from errata.report.figures import NoFigures, write_figures
from errata.report.material import read_material
from tests.report.records import write_bench, write_study


def test_every_figure_is_there_as_svg_and_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    material = read_material([write_bench(tmp_path / "bench"), write_study(tmp_path / "study")])
    made = write_figures(material, tmp_path / "figures")
    names = {"scores", "residuals", "frontier", "study-cosines", "study-steering"}
    assert {path.name for path in made} == {f"{name}.{kind}" for name in names for kind in ("svg", "png")}
    for path in made:
        if path.suffix == ".svg":
            ElementTree.parse(path)
        else:
            assert path.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_this_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(NoFigures, match=r"errata\[figures\]"):
        write_figures(read_material([write_bench(tmp_path / "bench")]), tmp_path / "figures")
