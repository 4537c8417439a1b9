"""The plain way to edit facts: the equations of the papers, one after another, as slowly as they are written.

One fact at a time, the whole model, all logits, seven right-padded rows, autograd through everything. It is
the oracle of the tests and the baseline of the benchmark, so it shares no line with errata and imports none
of it. Facts are rows and features come last. Sections are those of docs/method.md ("method 1.5").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Contexts = Sequence[Sequence[str]]  # groups of templates: (("{}",), ("The quick story. {}", ...)), method 1.3


class Request(Protocol):
    """One fact: `prompt` with one "{}" for `subject`, continued by `target_new`."""

    @property
    def prompt(self) -> str: ...
    @property
    def subject(self) -> str: ...
    @property
    def target_new(self) -> str: ...


@dataclass(frozen=True)
class PlainModel:
    """A causal LM and its tokenizer; where its blocks are, and where the edited matrix is inside a block."""

    model: Any
    tokenizer: Any
    blocks: str = "model.layers"
    down: str = "mlp.down_proj"

    def block(self, layer: int) -> nn.Module:
        return self.model.get_submodule(f"{self.blocks}.{layer}")

    def projection(self, layer: int) -> nn.Module:
        return self.block(layer).get_submodule(self.down)

    def add(self, layer: int, change: Tensor) -> None:
        """W <- W + dW, dW [model, inner]; a Conv1D stores W transposed."""
        module = self.projection(layer)
        weight: Any = module.weight
        weight.data += (change.T if isinstance(module, Conv1D) else change).to(weight.dtype)

    def row(self, text: str, subject: str) -> tuple[list[int], int]:
        """Ids of `text` with the subject in its "{}", and the index of its last token (method 1.2)."""
        before, after = text.split("{}")
        ids = self.tokenizer(before + subject + after)["input_ids"]
        return ids, len(self.tokenizer(before + subject)["input_ids"]) - 1

    def run(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """All logits [row, token, vocabulary] of right-padded rows.

        No padding mask: attention is causal, so real tokens never see what is behind them, while masked padding
        under a short sliding window attends to nothing at all, which is NaN in eager attention.
        """
        length = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
        return self.model(input_ids=ids, use_cache=False).logits

    @contextmanager
    def output(self, layer: int, change: Any) -> Iterator[None]:
        """While open, block `layer` puts out `change(state)` where it put out state [row, token, model]."""

        def hook(_: nn.Module, __: Any, out: Any) -> Any:
            return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

        handle = self.block(layer).register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def states(self, requests: Sequence[Request], layer: int) -> Tensor:
        """Block output of the bare prompt at the decisive token [fact, model], method 1.4."""
        found = []
        for request in requests:
            ids, decisive = self.row(request.prompt, request.subject)
            found.append(self.state(ids, layer)[decisive])
        return torch.stack(found)

    def state(self, ids: Sequence[int], layer: int) -> Tensor:
        """Output of block `layer` for one row [token, model]."""
        seen: list[Tensor] = []

        def look(state: Tensor) -> Tensor:
            seen.append(state[0].clone())
            return state

        with self.output(layer, look):
            self.run([ids])
        return seen[0]

    @torch.no_grad()
    def keys(self, requests: Sequence[Request], contexts: Contexts, layer: int) -> Tensor:
        """Input of the edited matrix at the decisive token [fact, inner]: mean of group means, method 1.4."""
        seen: list[Tensor] = []
        handle = self.projection(layer).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        keys = []
        for request in requests:
            groups = []
            for group in contexts:
                members = []
                for template in group:
                    ids, decisive = self.row(template.replace("{}", request.prompt), request.subject)
                    self.run([ids])
                    inner = seen.pop()
                    members.append(inner.reshape(len(ids), inner.shape[-1])[decisive])  # OPT flattens rows
                groups.append(torch.stack(members).mean(0))
            keys.append(torch.stack(groups).mean(0))
        handle.remove()
        return torch.stack(keys)


@dataclass(frozen=True)
class AnchorSettings:
    """The numbers of method 1.5, with the defaults of MEMIT's Llama configuration."""

    lr: float = 0.1
    evaluations: int = 20
    weight_decay: float = 0.5
    clamp: float = 0.75
    kl_factor: float = 0.0625
    stop_below: float = 0.05


@dataclass(frozen=True)
class Anchors:
    """`z` [fact, model]; per fact the loss of every evaluation, and its parts (nll, kl, weight decay)."""

    z: Tensor
    losses: list[list[float]]
    parts: list[list[tuple[float, float, float]]]

    @property
    def evaluations(self) -> list[int]:
        return [len(losses) for losses in self.losses]


def plain_anchors(
    lm: PlainModel,
    requests: Sequence[Request],
    contexts: Contexts,
    layer: int,
    settings: AnchorSettings = AnchorSettings(),
) -> Anchors:
    """z = h0 + delta, delta by gradient descent at the output of block `layer`; method 1.5."""
    found = [_anchor(lm, request, contexts, layer, settings) for request in requests]
    return Anchors(torch.stack([f[0] for f in found]), [f[1] for f in found], [f[2] for f in found])


def _anchor(
    lm: PlainModel, request: Request, contexts: Contexts, layer: int, settings: AnchorSettings
) -> tuple[Tensor, list[float], list[tuple[float, float, float]]]:
    target = lm.tokenizer(" " + request.target_new.strip(), add_special_tokens=False)["input_ids"]
    prompts = [template.replace("{}", request.prompt) for group in contexts for template in group]
    rows, decisive = map(list, zip(*[lm.row(p, request.subject) for p in [*prompts, "{} is a"]], strict=True))
    n = len(prompts)
    rows = [row + target[:-1] if i < n else row for i, row in enumerate(rows)]
    at = torch.tensor(decisive)

    weight: Any = lm.projection(layer).weight
    delta = torch.zeros(lm.model.config.get_text_config().hidden_size, dtype=_precise(weight.dtype))
    delta.requires_grad_(True)
    adam = torch.optim.Adam([delta], lr=settings.lr)
    h0, before = torch.empty(0), torch.empty(0)
    losses: list[float] = []
    parts: list[tuple[float, float, float]] = []

    def add_delta(state: Tensor) -> Tensor:
        nonlocal h0
        if not losses:
            h0 = state[0, decisive[0]].detach().to(delta.dtype)
        here = F.one_hot(at, state.shape[1])[..., None]  # [row, token, 1]
        return state + (here * delta).to(state.dtype)

    for evaluation in range(settings.evaluations):
        with lm.output(layer, add_delta):
            log_p = lm.run(rows).to(delta.dtype).log_softmax(-1)
        answers = torch.stack(
            [log_p[i, range(len(rows[i]) - len(target), len(rows[i])), target].mean() for i in range(n)]
        )
        nll = -answers.mean()
        now = log_p[n, decisive[n]]
        if evaluation == 0:
            before = now.detach()
        kl = settings.kl_factor * (now.exp() * (now - before)).sum()  # KL(current || before), method 5.6
        decay = settings.weight_decay * delta.norm() / h0.norm() ** 2  # norm, not squared, method 5.4
        loss = nll + kl + decay
        losses.append(loss.item())
        parts.append((nll.item(), kl.item(), decay.item()))
        if loss < settings.stop_below or evaluation == settings.evaluations - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            radius = settings.clamp * h0.norm()
            if delta.norm() > radius:
                delta *= radius / delta.norm()
    return (h0 + delta).detach(), losses, parts


@torch.no_grad()
def plain_replay(
    lm: PlainModel, requests: Sequence[Request], anchors: Tensor, first: int, layers: Sequence[int]
) -> dict[int, Tensor]:
    """Layer -> states [fact, model] of the bare prompt with block `first` held at the anchors; method 2.5."""
    targets: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for request, z in zip(requests, anchors, strict=True):
        ids, decisive = lm.row(request.prompt, request.subject)

        def hold(state: Tensor, at: int = decisive, z: Tensor = z) -> Tensor:
            here = F.one_hot(torch.tensor(at), state.shape[1]).bool()[None, :, None]
            return torch.where(here, z.to(state.dtype), state)

        with lm.output(first, hold):
            for layer in layers:
                targets[layer].append(lm.state(ids, layer)[decisive])
    return {layer: torch.stack(states) for layer, states in targets.items()}


@torch.no_grad()
def plain_moment(lm: PlainModel, texts: Sequence[str], layer: int) -> Tensor:
    """C = (1/N) sum k^T k [inner, inner] over all N tokens of the texts, specials counted; method 1.6."""
    keys: list[Tensor] = []
    handle = lm.projection(layer).register_forward_pre_hook(lambda _, args: keys.append(args[0].flatten(0, -2)))
    for text in texts:
        lm.run([lm.tokenizer(text)["input_ids"]])
    handle.remove()
    k = torch.cat(keys).double()
    return k.T @ k / len(k)


def plain_update(keys: Tensor, residuals: Tensor, moment: Tensor, weight: float) -> Tensor:
    """dW = R^T K (K^T K + weight C)^-1 [model, inner], K [fact, inner], R [fact, model]; method 1.7."""
    k, r, c = keys.double(), residuals.double(), moment.double()
    return torch.linalg.solve(k.T @ k + weight * c, k.T @ r).T


Step = tuple[int, int, float]  # edit this layer; compare state and target at that one; residual's divisor


def plain_sweep(
    lm: PlainModel,
    requests: Sequence[Request],
    contexts: Contexts,
    steps: Sequence[Step],
    targets: Mapping[int, Tensor],
    moments: Mapping[int, Tensor],
    weight: float,
) -> dict[int, Tensor]:
    """Layer -> dW, each solved with the layers before already edited; the model is left as it was."""
    saved = {layer: lm.projection(layer).weight.detach().clone() for layer, _, _ in steps}  # type: ignore[operator]
    changes = {}
    try:
        for layer, read, divisor in steps:
            residuals = (targets[read] - lm.states(requests, read)) / divisor
            keys = lm.keys(requests, contexts, layer)
            changes[layer] = plain_update(keys, residuals, moments[layer], weight)
            lm.add(layer, changes[layer])
    finally:
        for layer, original in saved.items():
            lm.projection(layer).weight.data.copy_(original)  # type: ignore[operator]
    return changes


def spread(window: Sequence[int]) -> list[Step]:
    """MEMIT (method 2.2): each layer takes its share of what is missing at the last; one layer: method 2.3."""
    return [(layer, window[-1], len(window) - i) for i, layer in enumerate(window)]


def each_its_own(window: Sequence[int]) -> list[Step]:
    """FE (method 2.5) and BLUE with both targets from the unedited model (method 2.4): own target, undivided."""
    return [(layer, layer, 1.0) for layer in window]


def plain_blue_after_first_edit(
    lm: PlainModel,
    requests: Sequence[Request],
    contexts: Contexts,
    window: Sequence[int],
    moments: Mapping[int, Tensor],
    weight: float,
    settings: AnchorSettings = AnchorSettings(),
) -> dict[int, Tensor]:
    """BLUE's official reading (method 2.4): the last layer's target is optimised once the first is edited."""
    first, last = window[0], window[-1]
    original = lm.projection(first).weight.detach().clone()  # type: ignore[operator]
    z = plain_anchors(lm, requests, contexts, first, settings).z
    changes = plain_sweep(lm, requests, contexts, [(first, first, 1.0)], {first: z}, moments, weight)
    lm.add(first, changes[first])
    try:
        z = plain_anchors(lm, requests, contexts, last, settings).z
        changes |= plain_sweep(lm, requests, contexts, [(last, last, 1.0)], {last: z}, moments, weight)
    finally:
        lm.projection(first).weight.data.copy_(original)  # type: ignore[operator]
    return changes


def _precise(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
