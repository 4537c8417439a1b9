"""Passes: forward passes of a model's own modules, shortened at either end, and what they give: logits, keys, text."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import functional_call
from transformers import PreTrainedModel

from errata.decoder import hooks
from errata.decoder.anatomy import Anatomy
from errata.decoder.generation import Choice, continued, likeliest, of_one_length
from errata.decoder.layout import DecoderLayout
from errata.decoder.memory import CPU_PASS, tokens_at_once
from errata.decoder.rows import at_places, grouped, in_batches, pad
from errata.decoder.shortcuts import Shortcuts
from errata.decoder.weights import Weights
from errata.errors import ModelError, RowTooLong

SHOWN = 60
"""Characters of a text that is too long which are shown: its end, where the subject is."""


class Passes(Anatomy):
    """A model that can be run, with what it carries now."""

    def __init__(self, model: PreTrainedModel, layout: DecoderLayout | None = None, name: str = "") -> None:
        super().__init__(model, layout, name)
        self.weights = Weights.of(model)
        for module in model.modules():
            if type(module).__name__ == "Linear4bit":  # bitsandbytes' fast path on CPUs passes no gradient back
                module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]

    @cached_property
    def room(self) -> int:
        """Tokens that fit in memory in a pass without gradients."""
        return tokens_at_once(self)

    @cached_property
    def budget(self) -> int:
        """Tokens of a pass without gradients; fixed once, so that passes to be compared are batched alike."""
        return min(self.room, CPU_PASS) if self.device.type == "cpu" else self.room

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices in batches of like length whose padded size fits in memory."""
        yield from in_batches(lengths, self.budget)

    @cached_property
    def shortcuts(self) -> Shortcuts:
        """What a pass of this model may leave out; learnt by two small passes. Raises UnsupportedModel.

        To be asked for before any hook is set, as those passes would run into it.
        """
        return Shortcuts.of(self, self.run)

    def check_causal(self) -> None:
        """Raises UnsupportedModel if a token's state depends on those behind it, or the model cannot be run so."""
        _ = self.shortcuts

    def check_length(self, tokens: int, text: str = "") -> None:
        """Raises RowTooLong if a row of so many tokens has more than the model has positions for."""
        if self.positions is not None and tokens > self.positions:
            end = f" (... {text[-SHOWN:]!r})" if text else ""
            raise RowTooLong(
                f"a text of {tokens} tokens{end} was to be read; {self.name} has positions for at most "
                f"{self.positions}. Nothing was changed. Shorten the text, or leave it out."
            )

    def check_ids(self, ids: Int[Tensor, "batch token"]) -> None:
        """Raises ModelError for a token that the model has no embedding of: its tokenizer is another model's."""
        known = self.model.get_input_embeddings().weight.shape[0]
        if ids.numel() and (largest := int(ids.max())) >= known:
            raise ModelError(
                f"{self.name}: its tokenizer gives the token {largest}, and the model has embeddings of tokens 0 to "
                f"{known - 1}. Nothing was changed. Give the tokenizer that the model was trained with."
            )

    def run(
        self,
        ids: Int[Tensor, "batch token"],
        *,
        enter: tuple[int, Tensor] | None = None,
        leave: int | None = None,
        head: hooks.Change | None = None,
        extra: Iterable[Any] = (),
        weights: Mapping[str, Tensor] | None = None,
        prompts: Sequence[int] | None = None,
        **inputs: Any,
    ) -> Tensor | None:
        """One forward pass of the model's own modules, shortened at either end.

        `enter` = (layer, hidden): skip the blocks up to `layer`, which gives `hidden`. `leave`: stop after that
        block (returns None). `head`: selects what the output embedding is applied to. `extra`: hooks to hold.
        `weights`: parameter name -> [out, in], used in place of the model's own; they may carry gradients.
        `prompts`: how many tokens of each row a graft may read to decide; None: all.
        """
        if enter is not None:
            self.check_causal()
        self.check_ids(ids)
        with ExitStack() as stack:
            stack.enter_context(self.weights.computing())
            if leave is not None:
                stack.enter_context(hooks.leave_after(self.blocks[leave]))
            for hook in extra:
                stack.enter_context(hook)
            if enter is not None and enter[0] >= 0:
                stack.enter_context(self._entering(*enter))
            if head is not None:
                stack.enter_context(hooks.narrow(self.model.get_output_embeddings(), head))
            stack.enter_context(self.weights.reading(prompts))
            inputs = {"input_ids": ids, "use_cache": False} | inputs
            if not weights:
                output: Tensor = self.model(**inputs).logits
                return output
            swapped = {name: self._as_stored(name, weight) for name, weight in weights.items()}
            output = functional_call(self.model, swapped, (), inputs).logits
            return output
        return None

    def _entering(self, layer: int, hidden: Tensor) -> AbstractContextManager[None]:
        """`hidden` is what `layer` gives; the blocks up to it are skipped where nothing else of them is needed."""
        if self.shortcuts.skip:
            return hooks.enter_after(self.blocks, layer, hidden, as_tuple=self.shortcuts.as_tuple)
        return hooks.substitute(self.blocks[layer], lambda _state: hidden)

    def _as_stored(self, name: str, weight: Tensor) -> Tensor:
        return (weight.T if self.weights.is_transposed(name) else weight).to(self.weights.parameter(name).dtype)

    @torch.no_grad()
    def logits(
        self, rows: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]
    ) -> Iterator[tuple[Int[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, "n vocabulary"]]]:
        """Next-token logits of token rows at chosen positions, batch by batch.

        Yields (row, index into positions[row], logits), packed, in float32 (float64 for a float64 model). Rows
        are batched by length; nothing behind the last wanted position is run; the head runs where it is wanted.
        Raises RowTooLong.
        """
        cut = [list(row[: max(at, default=-1) + 1]) for row, at in zip(rows, positions, strict=True)]
        self.check_length(max(map(len, cut), default=0))
        wanted = [i for i, at in enumerate(positions) if len(at)]
        for batch in self.batches([len(cut[i]) for i in wanted]):
            members = [wanted[i] for i in batch]
            at = [(k, p) for k, i in enumerate(members) for p in positions[i]]
            places = torch.tensor(at, device=self.device).T
            ids = pad([cut[i] for i in members], self.device)
            logits = self.run(ids, head=at_places(places), prompts=[min(positions[i]) + 1 for i in members])
            owner = torch.tensor([i for i in members for _ in positions[i]])
            slot = torch.tensor([j for i in members for j in range(len(positions[i]))])
            assert logits is not None
            yield owner, slot, logits[0].to(self.precision)

    def lens(self, hidden: Float[Tensor, "... model"]) -> Float[Tensor, "... vocabulary"]:
        """Logits if a hidden state of any block were the last block's (method 5.30): final norm, head, and whatever
        scale or cap the model puts on its logits, all run by the model itself.
        """
        rows = hidden.reshape(-1, 1, hidden.shape[-1])
        ids = torch.zeros(rows.shape[:2], dtype=torch.long, device=self.device)
        logits = self.run(ids, enter=(self.depth - 1, rows))
        assert logits is not None
        return logits.reshape(*hidden.shape[:-1], -1)

    def key_batches(
        self, rows: Iterable[Sequence[int]], layers: Sequence[int]
    ) -> Iterator[dict[int, Float[Tensor, "token inner"]]]:
        """Down-projection inputs at every token of the rows, all layers in one pass that stops after the last."""
        for batch in grouped(rows, self.budget):
            ids = pad(batch, self.device)
            real = torch.arange(ids.shape[1])[None] < torch.tensor([len(row) for row in batch])[:, None]
            projections = {str(layer): self.down_projection(layer) for layer in layers}
            with torch.no_grad(), hooks.capture(projections, inputs=True) as seen:
                self.run(ids, leave=max(layers), prompts=[len(row) for row in batch])
            yield {layer: seen.pop(str(layer)).reshape(*ids.shape, -1)[real] for layer in layers}

    def generate(
        self, rows: Sequence[Sequence[int]], n_tokens: int, stop: Collection[int] | None = None
    ) -> list[list[int]]:
        """Greedy continuation of each row: the new ids only, ended before the first of `stop` (not included)."""
        made: list[list[int]] = [[] for _ in rows]
        for group in of_one_length(rows, n_tokens, self.room // 8):
            said = self.continued([rows[i] for i in group], n_tokens, likeliest, set(stop or ()))
            for i, new in zip(group, said, strict=True):
                made[i] = new
        return made

    def continued(
        self,
        rows: Sequence[Sequence[int]],
        n_tokens: int,
        choose: Choice,
        ends: Iterable[int] = (),
        cached: bool = True,
    ) -> list[list[int]]:
        """The new ids of rows of one length, chosen one after another; see `generation`. Raises RowTooLong."""
        self.check_length(len(rows[0]) + max(0, n_tokens - 1))
        ids = torch.tensor([list(row) for row in rows], device=self.device)
        self.check_ids(ids)
        with self.weights.computing():
            return continued(self.model, ids, n_tokens, choose, set(ends), cached)
