"""Tables 1, 2 and 5 of the paper: what was measured layer by layer, to be printed beside a study of another model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import yaml

from errata.record.tables import Table

FILE = "by_layer.yaml"


@dataclass(frozen=True)
class PaperCurves:
    """Numbers per edited layer, by errata's names of the methods; None where a method does not edit the layer."""

    model: str
    layers: tuple[int, ...]
    methods: Mapping[str, tuple[float | None, ...]]

    @property
    def window(self) -> str:
        """Whose numbers these are: `paper, Llama-3-8B, window 4-8`."""
        return f"paper, {self.model}, window {self.layers[0]}-{self.layers[-1]}"

    def row(self, method: str) -> list[str]:
        """A method's numbers, to be read."""
        return ["-" if value is None else f"{value:.2f}" for value in self.methods[method]]

    def grid(self) -> Table:
        """All of them, under the paper's own layers."""
        rows = [[method, *self.row(method)] for method in self.methods]
        return Table.plain(["after editing layer", *map(str, self.layers)], rows)


@cache
def paper_curves(study: str) -> PaperCurves:
    """Those of a study: `cosines` (table 1) or `residuals` (tables 2 and 5)."""
    row = yaml.safe_load(resources.files("errata.paper").joinpath(FILE).read_text(encoding="utf-8"))
    methods = {method: tuple(values) for method, values in row["tables"][study].items()}
    return PaperCurves(row["model"], tuple(row["layers"]), methods)
