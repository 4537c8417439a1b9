"""Hypernetwork: what turns the keys and gradients of facts into changes of weights (method 2.16)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from errata.delta import read_tensors, write_tensors
from errata.errors import StoreError

KIND = "errata.Hypernetwork"


@dataclass(frozen=True)
class Hypernetwork:
    """A trained network as a value: its tensors, and the modules of the one model it was trained for."""

    fingerprint: str
    modules: tuple[str, ...]
    rank: int
    blocks: int
    tensors: Mapping[str, Tensor]

    def network(self, weights: Mapping[str, Tensor]) -> Network:
        """The network itself, as it computes, beside the matrices it was trained for."""
        made = Network(weights, self.rank, self.blocks)
        made.load_state_dict(dict(self.tensors))
        return made

    def save(self, path: str | Path) -> None:
        """Write safetensors."""
        about = {"modules": list(self.modules), "rank": self.rank, "blocks": self.blocks}
        metadata = {"kind": KIND, "fingerprint": self.fingerprint, "about": json.dumps(about)}
        write_tensors(Path(path), self.tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> Hypernetwork:
        """Read what `save` wrote. Raises StoreError."""
        tensors, metadata = read_tensors(Path(path))
        if metadata.get("kind") != KIND:
            raise StoreError(f"{path}: expected a hypernetwork written by errata, found {metadata or 'no metadata'}")
        about = json.loads(metadata["about"])
        return cls(metadata["fingerprint"], tuple(about["modules"]), about["rank"], about["blocks"], tensors)


class Shaper(nn.Module):
    """The network of all modules of one shape: from (key, gradient at the output) to what the output should gain.

    Four residual blocks y + scale_i relu(y A B + b) + shift_i over the normalised pair; `i` is the module.
    """

    count: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(self, inner: int, outer: int, rank: int, blocks: int, modules: int) -> None:
        super().__init__()
        width = inner + outer
        self.inner = inner
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.zeros(width))
        self.down = nn.Parameter(torch.zeros(blocks, width, rank))
        self.up = nn.Parameter(torch.zeros(blocks, rank, width))
        self.bias = nn.Parameter(torch.zeros(blocks, width))
        self.scale = nn.Parameter(torch.ones(blocks, modules, width))
        self.shift = nn.Parameter(torch.zeros(blocks, modules, width))
        self.rate = nn.Parameter(torch.zeros(modules))
        self.log_ridge = nn.Parameter(torch.zeros(modules))

    @torch.no_grad()
    def observe(self, pairs: Float[Tensor, "token width"]) -> None:
        """Take pairs into the running mean and spread (the sum of squared deviations)."""
        n = len(pairs)
        total = self.count + n
        mean = pairs.mean(0)
        step = mean - self.mean
        self.spread += (pairs - mean).square().sum(0) + step.square() * self.count * n / total
        self.mean += step * n / total
        self.count.copy_(total)

    def forward(self, keys: Tensor, gradients: Tensor, module: int) -> Float[Tensor, "token out"]:
        """v = - rate <k, k~> g~ with (k~, g~) the network's pair (method 2.16)."""
        deviation = (self.spread / (self.count - 1).clamp_min(1)).sqrt()
        # Gradients may be far below 1e-7, so the floor only keeps constant entries from dividing by zero.
        y = (torch.cat([keys, gradients], -1) - self.mean) / deviation.clamp_min(torch.finfo(keys.dtype).tiny)
        for k in range(len(self.down)):
            risen = torch.relu(y @ self.down[k] @ self.up[k] + self.bias[k])
            y = y + self.scale[k, module] * risen + self.shift[k, module]
        pseudo_keys, pseudo_gradients = y[:, : self.inner], y[:, self.inner :]
        return -self.rate[module] * (keys * pseudo_keys).sum(-1, keepdim=True) * pseudo_gradients


class Network(nn.Module):
    """One shaper per shape of matrix, for the matrices [out, in] of one model."""

    def __init__(self, weights: Mapping[str, Float[Tensor, "out in"]], rank: int, blocks: int) -> None:
        super().__init__()
        groups: dict[tuple[int, int], list[str]] = {}
        for name, weight in weights.items():
            groups.setdefault((weight.shape[0], weight.shape[1]), []).append(name)
        made = [Shaper(inner, outer, rank, blocks, len(names)) for (outer, inner), names in groups.items()]
        self.shapers = nn.ModuleDict({f"{o}x{i}": shaper for (o, i), shaper in zip(groups, made, strict=True)})
        places = zip(made, groups.values(), strict=True)
        self.place = {name: (shaper, i) for shaper, names in places for i, name in enumerate(names)}
        self.to(next(iter(weights.values())))

    @torch.no_grad()
    def draw(self, seed: int, rate: float) -> None:
        """Starting values: A standard normal, B zero, so that the network begins as the identity."""
        draw = torch.Generator().manual_seed(seed)
        for shaper, i in self.place.values():
            if i == 0:
                shaper.down.copy_(torch.randn(shaper.down.shape, generator=draw))
                shaper.rate.fill_(rate)

    def observe(self, name: str, keys: Float[Tensor, "token in"], gradients: Float[Tensor, "token out"]) -> None:
        """Take a module's pairs into the running mean and spread of its shape."""
        self.place[name][0].observe(torch.cat([keys, gradients], -1))

    def shift(
        self, name: str, keys: Float[Tensor, "token in"], gradients: Float[Tensor, "token out"]
    ) -> Float[Tensor, "out in"]:
        """S^T with S = (K^T K + exp(lamda) I)^-1 K^T V, by way of the token x token system (method 2.16)."""
        shaper, i = self.place[name]
        values = shaper(keys, gradients, i)
        ridge = shaper.log_ridge[i].exp() * torch.eye(len(keys), dtype=keys.dtype, device=keys.device)
        return torch.linalg.solve(keys @ keys.T + ridge, values).T @ keys
