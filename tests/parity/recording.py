"""Recorded numbers, and errata at work on the same model.

Two kinds of recordings have the same form, a folder with facts.json, contexts.json, corpus.json and one folder per
model. The official ones were made by the published code and stay outside of the project: ERRATA_REFERENCE points to
them. The own one beside this file was made by the plain oracle (`python -m tests.parity.record`): two layers, four
facts, and only what the oracle can do.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from errata import Contexts, Decoder, Editor, Fact, KeyStatistics, Recipe, Store, WeightEdit
from errata.targets import AnchorSettings, Search, optimise_anchors

OWN = Path(__file__).parent / "own"
OFFICIAL = Path(os.environ.get("ERRATA_REFERENCE", "nowhere"))
WHY = "ERRATA_REFERENCE does not point to numbers recorded from published code"
STRONG: dict[str, Any] = {"clamp": 4.0, "evaluations": 40, "lr": 0.5}
"""What differs in the runs called strong, whatever else the set's settings are; by the oracle's names."""


def models_in(root: Path) -> list[Path]:
    """The folder of each recorded model."""
    return sorted(file.parent for file in root.glob("*/hparams.json"))


@dataclass(frozen=True)
class Recording:
    """One model in float64, the settings of its set, and what was recorded; arrays are read when asked for."""

    folder: Path
    decoder: Decoder
    store: Store

    def read(self, name: str) -> Any:
        """A JSON file of this model."""
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def shared(self, name: str) -> Any:
        """A JSON file that all models of the set share."""
        return json.loads((self.folder.parent / name).read_text(encoding="utf-8"))

    @cached_property
    def given(self) -> dict[str, Any]:
        return dict(self.read("hparams.json"))

    @cached_property
    def log(self) -> dict[str, Any]:
        return dict(self.read("z_log.json")["f64"])

    @cached_property
    def facts(self) -> list[Fact]:
        return [Fact(row["prompt"], row["subject"], row["target_new"]) for row in self.shared("facts.json")]

    @cached_property
    def true_facts(self) -> list[Fact]:
        return [Fact(row["prompt"], row["subject"], row["target_true"]) for row in self.shared("facts.json")]

    @cached_property
    def contexts(self) -> Contexts:
        return Contexts(tuple(tuple(group) for group in self.shared("contexts.json")))

    @cached_property
    def arrays(self) -> dict[str, dict[str, Tensor]]:
        return {file.stem: load_file(file) for file in self.folder.glob("*.safetensors")}

    @cached_property
    def statistics(self) -> dict[int, KeyStatistics]:
        return {layer: KeyStatistics(self.arrays["cov"][f"layer{layer}"].double()) for layer in self.recipe.window}

    @cached_property
    def recipe(self) -> Recipe:
        given = self.given
        anchor = AnchorSettings(
            learning_rate=given["v_lr"],
            steps=given["v_num_grad_steps"],
            clamp=given["clamp_norm_factor"],
            weight_decay=given["v_weight_decay"],
            kl_factor=given["kl_factor"],
            stop_loss=given["early_stop_loss"],
        )
        weight = float(given["mom2_update_weight"])
        solvers: dict[str, dict[str, float | str]] = {
            "least_squares": {"weight": weight},
            "null_space": {"threshold": given["nullspace"]["threshold"], "ridge": float(given["L2"]["alphaedit"])},
            "equality_constrained": {"weight": weight, "gamma": given["inv_coef"]["emmet"]},
        }
        return Recipe("reference", tuple(given["edit_layers"]), anchor=anchor, solvers=solvers)

    def target(self, name: str, precision: str = "f64") -> Tensor:
        return self.arrays["targets"][f"{precision}.{name}"].T.double()  # recorded with facts as columns

    def update(self, tag: str, layer: int, source: str = "deltas") -> Tensor:
        """[model, inner], whatever the recorded weight's orientation."""
        stored, tag = self.arrays[source], f"{tag}.layer{layer}"
        change = stored[tag].double() if tag in stored else stored[f"{tag}.A"].double() @ stored[f"{tag}.B"].double()
        decoder = self.decoder
        return change if change.shape == (decoder.width, decoder.inner(layer)) else change.T

    def total(self, run: str, layer: int, precision: str = "f64") -> Tensor:
        """`update`, summed over the batches of a run that has them."""
        tags = [f"{precision}.{run}", *(f"{precision}.{run}.batch{batch}" for batch in range(9))]
        found = [self.update(tag, layer) for tag in tags if self._recorded(f"{tag}.layer{layer}")]
        return torch.stack(found).sum(0)

    def _recorded(self, tag: str) -> bool:
        return tag in self.arrays["deltas"] or f"{tag}.A" in self.arrays["deltas"]

    def layers(self, run: str) -> list[int]:
        """The layers that a run changed."""
        shape = re.compile(rf"f64\.{re.escape(run)}(?:\.batch\d)?\.layer(\d+)(?:\.[AB])?")
        return sorted({int(match[1]) for match in map(shape.fullmatch, self.arrays["deltas"]) if match})

    def anchors(
        self,
        layer: int,
        settings: AnchorSettings | None = None,
        facts: Sequence[Fact] | None = None,
        contexts: Contexts | None = None,
        search: Search | None = None,
    ) -> Tensor:
        site = self.decoder.tokens.site(self.facts if facts is None else facts, contexts or self.contexts)
        found = dict(
            optimise_anchors(self.decoder, site, layer, settings or self.recipe.anchor, search=search or Search())
        )
        return torch.stack([found[i].state for i in range(len(site))])

    def edit(
        self,
        method: str,
        recipe: Recipe | None = None,
        facts: Sequence[Fact] | None = None,
        statistics: dict[int, KeyStatistics] | None = None,
        **schedule: Any,
    ) -> dict[int, Tensor]:
        """Layer -> change by our method; the decoder is restored."""
        recipe = recipe or self.recipe
        editor = Editor(
            self.decoder,
            method,
            recipe=recipe,
            statistics=statistics or self.statistics,
            contexts=self.contexts,
            guard=None,  # published code has none, and some recorded edits are strong ones
            store=self.store,
        )
        outcome = editor.edit(self.facts if facts is None else facts, **schedule)
        outcome.restore()
        assert isinstance(outcome.edit, WeightEdit)
        named = {self.decoder.parameter_name(layer): layer for layer in recipe.window}
        return {named[name]: change for name, change in outcome.edit.delta.changes.items()}


def recording(folder: Path) -> Recording:
    return Recording(folder, Decoder.from_pretrained(folder / "model", dtype=torch.float64), Store.nowhere())


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
