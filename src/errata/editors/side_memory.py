"""SideMemory: an edit that stands beside one down-projection, and sends each sequence to one of the two.

How a sequence is routed. The memory's distance is read on the sequence's prompt and the decision then holds for all
of its tokens, also while it is continued from a cache. The published code decides once per batch, anew at every
generated token: answers then depend on the neighbours in the batch, and a sequence may change its mind half-way
through an answer (method 2.15). Training measures distance on prompts too, so that the recorded distances, which make
the thresholds, are of the kind that routing meets. In teacher-forced scoring the prompt is what comes before the
first wanted position, so that an answer is scored under the decision that generation would make.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.activations import ACT2FN

from errata.decoder.decoder import Decoder
from errata.decoder.graft import Graft
from errata.delta import WeightDelta, read_tensors, write_tensors
from errata.editors.base import Edit
from errata.editors.folder import MEMORY, edit_folder, facts_in, read_manifest
from errata.errors import NotPutOn, StoreError

KIND = "errata.SideMemory"
SHOWN = 40
"""Characters of a wrong value that an error shows."""
LONG = 100
"""Prompts of more tokens than this are judged by their farthest token, not by the mean (method 2.15)."""


@dataclass(frozen=True)
class Side:
    """One side weight as its change of the original, and the distance from which on it is used."""

    change: Float[Tensor, "model inner"]
    threshold: float


@dataclass(frozen=True)
class SideMemory(Edit):
    """An edit that leaves every weight as it is and stands beside one down-projection."""

    fingerprint: str
    layer: int
    activation: str
    sides: tuple[Side, ...]
    manifest: dict[str, Any] = field(default_factory=dict)

    def fitted_to(self, decoder: Decoder) -> SideMemory:
        return replace(self, fingerprint=self.base_on(decoder, self.fingerprint))

    def put_on(self, decoder: Decoder) -> None:
        """Graft it. It stands alone: its distances were measured on the unedited model."""
        base = self.fitted_to(decoder).fingerprint
        decoder.check_fits(WeightDelta(base))
        decoder.check_window([self.layer])
        name = decoder.parameter_name(self.layer)
        for side in self.sides:
            decoder.check_fits(WeightDelta(base, {name: side.change}))
        decoder.graft(Router(self, decoder.weight(self.layer).device, decoder.precision))

    def take_off(self, decoder: Decoder) -> None:
        if not self.is_on(decoder):
            raise NotPutOn("this side memory is not on the model; nothing was changed.")
        decoder.restore()

    def is_on(self, decoder: Decoder) -> bool:
        """Whether the decoder carries this memory, or one equal to it."""
        carried = decoder.grafted
        if not isinstance(carried, Router) or carried.memory.layer != self.layer:
            return False
        theirs = carried.memory.sides
        return len(theirs) == len(self.sides) and all(map(_equal, theirs, self.sides))

    def save(self, folder: str | Path, ledgers: Mapping[str, Any] | None = None) -> None:
        """`memory.safetensors` and `manifest.json`."""
        tensors = {f"change.{i}": side.change.detach().cpu().contiguous() for i, side in enumerate(self.sides)}
        tensors["thresholds"] = torch.tensor([side.threshold for side in self.sides], dtype=torch.float64)
        metadata = {
            "kind": KIND,
            "fingerprint": self.fingerprint,
            "layer": str(self.layer),
            "activation": self.activation,
        }
        with edit_folder(folder, self.manifest, ledgers) as made:
            write_tensors(made / MEMORY, tensors, metadata)

    @classmethod
    def load(cls, folder: str | Path) -> SideMemory:
        """Read what `save` wrote. Raises StoreError."""
        folder = Path(folder)
        tensors, metadata = read_tensors(folder / MEMORY)
        if metadata.get("kind") != KIND:
            raise StoreError(f"{folder / MEMORY}: expected a side memory, found {metadata or 'no metadata'}")
        manifest = read_manifest(folder)
        facts_in(manifest, folder)
        if problem := _problem(tensors, metadata):
            raise StoreError(f"{folder / MEMORY}: {problem}; the side memory is damaged")
        thresholds = tensors["thresholds"].tolist()
        sides = tuple(Side(tensors[f"change.{i}"], threshold) for i, threshold in enumerate(thresholds))
        return cls(metadata["fingerprint"], int(metadata["layer"]), metadata["activation"], sides, manifest)


def _problem(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str | None:
    """What makes the parts of a side memory unusable, in words."""
    if missing := [name for name in ("fingerprint", "layer", "activation") if name not in metadata]:
        return f"its description lacks {missing[0]!r}"
    if not metadata["layer"].isdecimal():
        return f"its layer is {metadata['layer'][:SHOWN]!r}, expected a number"
    if metadata["activation"] not in ACT2FN:
        return f"its activation is {metadata['activation'][:SHOWN]!r}, which transformers does not know"
    thresholds = tensors.get("thresholds")
    if thresholds is None or thresholds.ndim != 1 or not thresholds.is_floating_point():
        return "it holds no list of thresholds"
    if not len(thresholds) or not torch.isfinite(thresholds).all():
        return "its thresholds are not one number or more"
    expected = {"thresholds", *(f"change.{i}" for i in range(len(thresholds)))}
    if odd := sorted(expected ^ tensors.keys()):
        return f"{odd[0]!r} is {'missing' if odd[0] in expected else 'unexpected'} beside {len(thresholds)} thresholds"
    changes = [tensors[name] for name in expected - {"thresholds"}]
    if any(change.ndim != 2 or not change.is_floating_point() for change in changes):
        return "one of its changes is no matrix of numbers"
    return None


def _equal(one: Side, other: Side) -> bool:
    return one is other or (one.threshold == other.threshold and torch.equal(one.change, other.change))


class Router(Graft):
    """The graft: keeps, for the sequences now running, which side each was sent to."""

    def __init__(self, memory: SideMemory, device: torch.device, dtype: torch.dtype) -> None:
        self.memory, self.layer, self.activation = memory, memory.layer, memory.activation
        # Copies: a tensor read from a file need not be aligned, and a product's last bit may depend on that.
        self.changes = [side.change.to(device, dtype, copy=True) for side in memory.sides]
        self.thresholds = torch.tensor([side.threshold for side in memory.sides], device=device, dtype=dtype)
        self.choice: Int[Tensor, " batch"] | None = None
        """Which side each sequence was sent to; -1 is none. None: not decided yet."""

    def begin(self, prompt: Bool[Tensor, "batch token"]) -> None:
        self.prompt, self.choice = prompt, None

    def give(self, inputs: Tensor, output: Tensor) -> Tensor:
        if self.choice is None:
            self.choice = self.route(inputs, output)
        given = output.clone()
        for k, change in enumerate(self.changes):
            if (rows := self.choice == k).any():
                given[rows] = beside(inputs[rows], output[rows], change).to(output.dtype)
        return given

    def route(self, inputs: Tensor, output: Tensor) -> Int[Tensor, " batch"]:
        """The side that is farthest among those beyond their own threshold; -1 where none is."""
        prompt = self.prompt.to(output.device)
        far = [distances(inputs, output, change, prompt, self.activation) for change in self.changes]
        distance = torch.stack(far, dim=-1)
        known = torch.where(distance > self.thresholds, distance, -inf)
        return torch.where(known.isfinite().any(-1), known.argmax(-1), -1)


def beside(
    inputs: Float[Tensor, "batch token inner"],
    output: Float[Tensor, "batch token model"],
    change: Float[Tensor, "model inner"],
) -> Float[Tensor, "batch token model"]:
    """What the side weight gives: the module's own output plus change @ input, in the precision of the change."""
    moved: Tensor = output.to(change.dtype) + inputs.to(change.dtype) @ change.T
    return moved


def distances(
    inputs: Tensor, output: Tensor, change: Tensor, prompt: Bool[Tensor, "batch token"], activation: str
) -> Float[Tensor, " batch"]:
    """dist(x) = mean over prompt tokens of |act(W' x) - act(W x)|_2 (method 2.15); the maximum in long prompts."""
    act = ACT2FN[activation]
    moved = act(beside(inputs, output, change)) - act(output.to(change.dtype))
    size = torch.linalg.vector_norm(moved, dim=-1) * prompt
    count = prompt.sum(-1)
    return torch.where(count > LONG, size.amax(-1), size.sum(-1) / count)


def activation_of(decoder: Decoder) -> str:
    """The name of the MLP's activation, as transformers knows it."""
    config = decoder.model.config.get_text_config(decoder=True)
    names = ("hidden_act", "activation_function", "hidden_activation", "activation")
    return next(str(value) for name in names if (value := getattr(config, name, None)) is not None)
