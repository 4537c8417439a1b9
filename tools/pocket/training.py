"""Training of the pocket model: a curriculum, a bottleneck at the subject's last token, Muon and AdamW."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from errata.pocket.facts import PocketFact, digest
from tools.pocket.documents import Batch, Documents


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum: this many facts (the earlier stages' among them) for this many tokens.

    In a share `narrow` of the documents a subject is hidden from the tokens behind it in the early blocks; in
    the late ones its last token can be seen. So facts must be gathered at that token, which is where they are
    edited.
    """

    facts: int
    tokens: int
    narrow: float


@dataclass(frozen=True)
class Plan:
    """Everything that decides what comes out of a build, besides the seed."""

    blocks: int = 12
    hidden: int = 192
    inner: int = 768
    heads: int = 6
    vocabulary: int = 4096
    early: int = 8
    """Blocks in which a hidden subject is not seen at all."""
    shrink: tuple[tuple[float, float], ...] = ()
    """Factor on the states in front of every block (see `as_stock`) at shares of the run, 1 if left empty."""
    step: int = 4096
    """Tokens per optimiser step."""
    stages: tuple[Stage, ...] = (Stage(800, 500_000, 0.85), Stage(1_000_000, 1_700_000, 0.7))
    matrix_rate: float = 0.02
    matrix_decay: float = 0.1
    vector_rate: float = 3e-3
    cooldown: float = 0.35
    """Share of the steps over which both rates fall to zero."""

    def shrink_at(self, share: float) -> float:
        """The factor when this share of the run is over, between the given points geometrically."""
        if not self.shrink:
            return 1.0
        points = [(0.0, 1.0), *self.shrink]
        for (left, before), (right, after) in pairwise(points):
            if share <= right:
                return float(before * (after / before) ** ((share - left) / (right - left)))
        return points[-1][1]

    def steps(self) -> list[int]:
        """Optimiser steps of each stage."""
        return [max(1, stage.tokens // self.step) for stage in self.stages]


GROWING = Plan(
    stages=(Stage(1_000_000, 1_250_000, 0.7),),
    matrix_rate=0.01,
    vector_rate=1.5e-3,
    cooldown=0.45,
    shrink=((0.5, 0.75), (0.7, 0.6)),
)
"""Takes a trained model further, until the norm of its states grows steeply with depth (see `as_stock`)."""


def new_model(plan: Plan, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A freshly initialised model of the plan's shape."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=plan.vocabulary,
            hidden_size=plan.hidden,
            intermediate_size=plan.inner,
            num_hidden_layers=plan.blocks,
            num_attention_heads=plan.heads,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.set_attn_implementation("eager")  # for texts this short, faster backwards than fused attention
    return model


def loss_of(model: LlamaForCausalLM, batch: Batch, early: int, shrink: float = 1.0) -> Float[Tensor, ""]:
    """Weighted sum of the next token's surprisal, blocks below `early` under the narrow mask."""
    body = model.model
    states = body.embed_tokens(batch.ids)
    rotary = body.rotary_emb(states, position_ids=torch.arange(batch.ids.shape[1])[None])
    masks = [
        torch.zeros(mask.shape).masked_fill_(~mask, torch.finfo(torch.float32).min)
        for mask in (batch.early, batch.late)
    ]
    for number, block in enumerate(body.layers):
        mask = masks[number >= early]
        states = block(shrink * states, attention_mask=mask, position_embeddings=rotary)
    weight = batch.weight[:, 1:].flatten()
    used = weight.nonzero()[:, 0]
    asked = body.norm(states[:, :-1]).flatten(0, 1)[used]
    surprisal = cross_entropy(model.lm_head(asked), batch.ids[:, 1:].flatten()[used], reduction="none")
    return (surprisal * weight[used]).sum()


@torch.no_grad()
def as_stock(model: LlamaForCausalLM, shrink: float) -> None:
    """Write the shrinking into the weights, so that stock classes compute what was trained.

    Trained is h_{l+1} = c h_l + f_l(norm(c h_l)), c = `shrink`. Norms ignore scale, so g_l = s h_l / c^l obeys
    g_{l+1} = g_l + s c^-(l+1) f_l(norm(g_l)): an ordinary residual stream whose norm grows with depth, as large
    models' do. s = c^(blocks / 2) leaves the middle of the model at the norm it was trained with.
    """
    scale = shrink ** (len(model.model.layers) / 2)
    model.model.embed_tokens.weight.mul_(scale)
    model.model.norm.weight.div_(scale)  # the head is the embedding
    for number, block in enumerate(model.model.layers):
        for matrix in (block.self_attn.o_proj, block.mlp.down_proj):
            matrix.weight.mul_(scale * shrink ** -(number + 1))


def optimisers(model: nn.Module, plan: Plan) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for the embedding and the norms."""
    named = list(model.named_parameters())
    matrices = [weight for name, weight in named if weight.ndim == 2 and "embed" not in name]
    others = [weight for name, weight in named if weight.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(matrices, lr=plan.matrix_rate, weight_decay=plan.matrix_decay),
        torch.optim.AdamW(others, lr=plan.vector_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


@dataclass
class Trainer:
    """A run that can be stopped and taken up again from its file of progress."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast
    plan: Plan
    seed: int
    progress: Path
    say: Callable[[str], None]

    def run(self, facts: Sequence[PocketFact], save_every: int = 100) -> None:
        """Train to the end of the plan."""
        optimisers_ = optimisers(self.model, self.plan)
        total = sum(self.plan.steps())
        done = self._resume(optimisers_)
        began = time.monotonic()
        for step, batches in enumerate(self._batches(facts)):
            if step < done:
                continue
            rate = min(1.0, (total - step) / (total * self.plan.cooldown))
            for optimiser, full in zip(optimisers_, (self.plan.matrix_rate, self.plan.vector_rate), strict=True):
                for group in optimiser.param_groups:
                    group["lr"] = full * rate
            loss = self._gradient(batches, self.plan.shrink_at((step + 1) / total))
            for optimiser in optimisers_:
                optimiser.step()
                optimiser.zero_grad()
            if step % 10 == 0 or step == total - 1:
                minutes = (time.monotonic() - began) / 60
                self.say(f"step {step + 1}/{total}  loss {loss:.3f}  minutes {minutes:.1f}")
            if (step + 1) % save_every == 0:
                self._save(optimisers_, step + 1)

    def _gradient(self, batches: Sequence[Batch], shrink: float) -> float:
        total = sum(float(batch.weight.sum()) for batch in batches)
        mean = 0.0
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(self.model, batch, self.plan.early, shrink) / total
            loss.backward()
            mean += loss.item()
        return mean

    def _batches(self, facts: Sequence[PocketFact]) -> Iterator[list[Batch]]:
        order = sorted(facts, key=lambda fact: digest("curriculum", str(self.seed), fact.id))
        for number, (stage, steps) in enumerate(zip(self.plan.stages, self.plan.steps(), strict=True)):
            documents = Documents(self.tokenizer, order[: stage.facts])
            supply = documents.batches(self.plan.step, stage.narrow, random.Random(f"{self.seed} {number}"))
            for _ in range(steps):
                yield next(supply)

    def _save(self, optimisers_: Sequence[torch.optim.Optimizer], step: int) -> None:
        state = {
            "step": step,
            "plan": repr(self.plan),
            "model": self.model.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in optimisers_],
        }
        partial = self.progress.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.progress)

    def _resume(self, optimisers_: Sequence[torch.optim.Optimizer]) -> int:
        if not self.progress.exists():
            return 0
        state = torch.load(self.progress, weights_only=True)
        if state["plan"] != repr(self.plan):
            raise ValueError(
                f"{self.progress} was written by another plan: {state['plan']}. Remove it, or build elsewhere."
            )
        self.model.load_state_dict(state["model"])
        for optimiser, saved in zip(optimisers_, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        step: int = state["step"]
        self.say(f"taken up again after step {step}")
        return step
