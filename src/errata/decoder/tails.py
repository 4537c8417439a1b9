"""Tails: the part of a forward pass that depends on a change made at one token of one block's output.

A row of tokens is moved at its decisive token, after one block. Blocks up to that one, and tokens before the
decisive one, do not notice: their work is done once, and enters every later pass as a hidden state and as
cached keys and values. What is left of a fact's rows is packed into one sequence under a block-diagonal mask,
and head and last MLP run at the wanted positions only. All of it runs through the model's own modules.

Where a family's attention does not bear packing, whole rows are run instead (`packed=False`): slower, same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache

from errata.decoder import hooks
from errata.decoder.decoder import Decoder
from errata.decoder.rows import pad
from errata.errors import WindowOutside


@dataclass(frozen=True)
class Row:
    """Token ids, the decisive position that is moved, and the positions whose next-token logits are wanted."""

    ids: tuple[int, ...]
    decisive: int
    wanted: tuple[int, ...]
    padding: int = 0
    """Padding tokens in front: not part of the ids nor seen by them, but they take up positions."""

    @property
    def cut(self) -> tuple[int, ...]:
        """The ids up to the last wanted position."""
        return self.ids[: self.wanted[-1] + 1]

    def contains(self, other: Row) -> bool:
        """Whether the other row's wanted positions can be read off this one."""
        alike = (self.decisive, self.padding) == (other.decisive, other.padding)
        return alike and self.cut[: len(other.cut)] == other.cut


@dataclass
class Sequence_:
    """Rows packed into one sequence: prefix tokens first, then tail tokens, each with its position and its row."""

    prefix: list[int] = field(default_factory=list)
    prefix_position: list[int] = field(default_factory=list)
    prefix_group: list[int] = field(default_factory=list)
    tail: list[int] = field(default_factory=list)
    tail_position: list[int] = field(default_factory=list)
    tail_row: list[int] = field(default_factory=list)
    tail_group: list[int] = field(default_factory=list)
    moved: list[int] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    hidden: Tensor | None = None
    start: Tensor | None = None
    around: Tensor | None = None
    padding: int = 0
    cache: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def allowed(self, prefix_length: int, length: int) -> Tensor:
        """[length, length] who may attend to whom, the tail starting at `prefix_length`; paddings see themselves."""
        p, t = len(self.prefix), len(self.tail)
        group, row, position = (torch.full((length,), -1) for _ in range(3))
        group[:p], position[:p] = torch.tensor(self.prefix_group), torch.tensor(self.prefix_position)
        behind = slice(prefix_length, prefix_length + t)
        group[behind], position[behind] = torch.tensor(self.tail_group), torch.tensor(self.tail_position)
        row[behind] = torch.tensor(self.tail_row)
        same = (group[:, None] == group[None]) & (group[None] >= 0) & (position[None] <= position[:, None])
        return (same & ((row[None] < 0) | (row[:, None] == row[None]))) | torch.eye(length, dtype=torch.bool)


def pack(rows: Sequence[Row], merge: bool) -> list[Sequence_]:
    """All rows of a fact in one sequence; equal prefixes enter once, and contained rows if `merge`."""
    made = Sequence_()
    groups: dict[tuple[int, tuple[int, ...]], int] = {}
    hosts: list[tuple[Row, int]] = []
    for row in sorted(rows, key=lambda row: -len(row.cut)):
        if merge and any(host.contains(row) for host, _ in hosts):
            continue
        start = row.padding, row.ids[: row.decisive]
        if start not in groups:
            groups[start] = len(groups)
            made.prefix += start[1]
            made.prefix_position += range(row.padding, row.padding + row.decisive)
            made.prefix_group += [groups[start]] * row.decisive
        hosts.append((row, len(made.tail)))
        made.moved.append(len(made.tail))
        tail = row.cut[row.decisive :]
        made.tail += tail
        first = row.padding + row.decisive
        made.tail_position += range(first, first + len(tail))
        made.tail_row += [len(hosts) - 1] * len(tail)
        made.tail_group += [groups[start]] * len(tail)
    for row in rows:
        offset = next(offset for host, offset in hosts if (host.contains(row) if merge else host is row))
        made.wanted += [offset + position - row.decisive for position in row.wanted]
    return [made]


def whole(rows: Sequence[Row]) -> list[Sequence_]:
    """Each row a sequence of its own, its padding in front, nothing cached."""
    return [
        Sequence_(
            tail=[0] * row.padding + list(row.cut),
            moved=[row.padding + row.decisive],
            wanted=[row.padding + position for position in row.wanted],
            padding=row.padding,
        )
        for row in rows
    ]


@dataclass(frozen=True)
class Stack:
    """Facts side by side, ready for passes that differ in delta alone."""

    ids: Tensor
    hidden: Float[Tensor, "sequence token model"]
    inputs: dict[str, Tensor]
    cache: list[tuple[Tensor, Tensor]]
    moved: tuple[Tensor, Tensor]
    moved_by: Tensor
    wanted: tuple[Tensor, Tensor]


class Tails:
    """The rows of many facts, moved at the output of block `layer`, or inside it; see the module's text.

    `inside`: what is moved is the output of the block's "attention", of its down-projection ("mlp"), or of both,
    each by a delta of its own; passes then enter one block earlier. Deltas are [fact, part, model].
    """

    def __init__(
        self,
        decoder: Decoder,
        layer: int,
        facts: Sequence[Sequence[Row]],
        packed: bool = True,
        inside: Sequence[str] = (),
    ) -> None:
        decoder.check_causal()
        self.decoder, self.layer, self.packed = decoder, layer, packed
        self.parts = self._parts(decoder, layer, inside)
        self.entry = layer - 1 if inside else layer
        # Norms work in float32 inside: a merged row's gradient is rounded once where two rows' are rounded each.
        # That shows in float64 alone, where the promise is to equal a plain run to its last digits.
        merge = decoder.dtype != torch.float64
        self.sequences = [pack(rows, merge) if packed else whole(rows) for rows in facts]

    def __len__(self) -> int:
        return len(self.sequences)

    def size(self, fact: int) -> int:
        """Tokens that every pass of this fact has to run."""
        return sum(len(sequence.tail) for sequence in self.sequences[fact])

    @staticmethod
    def _parts(decoder: Decoder, layer: int, inside: Sequence[str]) -> dict[str, nn.Module]:
        attention = decoder.layout.attention
        if inside and (layer == 0 or ("attention" in inside and attention is None)):
            raise WindowOutside(f"layer {layer} of {decoder.name}: the output of its {inside[0]} cannot be moved")
        found = {"mlp": decoder.down_projection(layer)}
        if attention is not None:
            found["attention"] = decoder.blocks[layer].get_submodule(attention)
        return {part: found[part] for part in inside}

    def start(self, fact: int) -> Float[Tensor, "part model"]:
        """What is moved, unmoved, at the decisive token of the fact's first row. The fact must be prepared."""
        return _there(self.sequences[fact][0].start)

    def around(self, fact: int) -> Float[Tensor, " model"]:
        """The unmoved output of block `layer` at the same token."""
        return _there(self.sequences[fact][0].around)

    @torch.no_grad()
    def prepare(self, facts: Sequence[int]) -> None:
        """Run what no delta changes, for these facts: one pass of the whole model."""
        sequences = [s for fact in facts for s in self.sequences[fact]]
        before = max(len(s.prefix) for s in sequences)
        length = before + max(len(s.tail) for s in sequences)
        device, blocks = self.decoder.device, self.decoder.blocks
        ids = pad([s.prefix + [0] * (before - len(s.prefix)) + s.tail for s in sequences], device)
        inputs: dict[str, Any] = self._behind_padding(sequences, length)
        if self.packed:
            positions = [s.prefix_position + [0] * (before - len(s.prefix)) + s.tail_position for s in sequences]
            inputs = {
                "position_ids": pad(positions, device),
                "attention_mask": self._mask(torch.stack([s.allowed(before, length) for s in sequences])),
                "past_key_values": DynamicCache(),
                "use_cache": True,
            }
        last = self.layer if not before else len(blocks) - 1
        with hooks.capture({"entry": blocks[self.entry], "state": blocks[self.layer], **self.parts}) as seen:
            self.decoder.run(ids, leave=last, **inputs)
        cached = inputs["past_key_values"].layers[self.entry + 1 :] if before else []
        for i, s in enumerate(sequences):
            s.hidden = seen["entry"][i, before : before + len(s.tail)].clone()
            first = before + (s.tail_row.index(s.tail_row[s.wanted[0]]) if self.packed else s.moved[0])
            s.around = seen["state"][i, first].clone()
            s.start = torch.stack([seen[name][i, first] for name in self.parts or ["state"]])
            s.cache = [
                (kv.keys[i, :, : len(s.prefix)].clone(), kv.values[i, :, : len(s.prefix)].clone()) for kv in cached
            ]

    def forget(self, fact: int) -> None:
        """Free what `prepare` kept for a fact."""
        for sequence in self.sequences[fact]:
            sequence.hidden, sequence.start, sequence.around, sequence.cache = None, None, None, []

    def stack(self, facts: Sequence[int]) -> Stack:
        """These prepared facts side by side, padded to the longest."""
        owned = [(slot, s) for slot, fact in enumerate(facts) for s in self.sequences[fact]]
        before = max(len(s.prefix) for _, s in owned)
        behind = max(len(s.tail) for _, s in owned)
        device = self.decoder.device
        hidden = torch.stack([_padded(_there(s.hidden), behind, 0) for _, s in owned])
        inputs = self._behind_padding([s for _, s in owned], behind)
        if self.packed:
            allowed = torch.stack([s.allowed(before, before + behind) for _, s in owned])[:, before:]
            inputs = {
                "position_ids": pad([s.tail_position + [0] * (behind - len(s.tail)) for _, s in owned], device),
                "attention_mask": self._mask(allowed),
            }
        layers = range(len(owned[0][1].cache)) if before else range(0)
        cache = [
            (
                torch.stack([_padded(s.cache[layer][0], before, 1) for _, s in owned]),
                torch.stack([_padded(s.cache[layer][1], before, 1) for _, s in owned]),
            )
            for layer in layers
        ]
        moved = [(i, at, slot) for i, (slot, s) in enumerate(owned) for at in s.moved]
        wanted = [(i, at) for i, (_, s) in enumerate(owned) for at in s.wanted]
        sequence, token, by = torch.tensor(moved, device=device).T
        rows, columns = torch.tensor(wanted, device=device).T
        ids = pad([s.tail for _, s in owned], device)
        return Stack(ids, hidden, inputs, cache, (sequence, token), by, (rows, columns))

    def logits(
        self, stack: Stack, delta: Float[Tensor, "fact part model"], lens: int | None = None
    ) -> tuple[Float[Tensor, "wanted vocabulary"], Float[Tensor, "wanted vocabulary"]]:
        """Logits at the wanted positions, fact by fact and row by row, with delta added to what is moved.

        Returns (read at block `lens` through final norm and head, the model's own); the same if `lens` is None.
        """
        moves, hidden, inputs = self._moving(stack, delta)
        blocks = self.decoder.blocks
        with ExitStack() as hold:
            for module, move in zip(self.parts.values(), moves, strict=False):
                hold.enter_context(hooks.substitute(module, move))
            if lens is not None:
                seen = hold.enter_context(hooks.capture({"lens": blocks[lens]}))
            elif self.decoder.layout.mlp is not None and self.layer < len(blocks) - 1:
                mlp = blocks[-1].get_submodule(self.decoder.layout.mlp)
                hold.enter_context(self._only_wanted(mlp, stack, hidden.shape))
            own = self.decoder.run(
                stack.ids,
                enter=(self.entry, hidden),
                head=lambda state: state[beside(stack.wanted, state)][None],
                **inputs,
            )
        assert own is not None
        own = own[0].to(self.decoder.device, self.decoder.precision)
        if lens is None:
            return own, own
        return self.decoder.lens(seen["lens"][beside(stack.wanted, seen["lens"])]).to(own), own

    def state(self, stack: Stack, delta: Float[Tensor, "fact part model"], layer: int) -> Float[Tensor, "wanted model"]:
        """What block `layer` gives at the wanted positions, with delta added to what is moved. It ends there."""
        moves, hidden, inputs = self._moving(stack, delta)
        with ExitStack() as hold:
            for module, move in zip(self.parts.values(), moves, strict=False):
                hold.enter_context(hooks.substitute(module, move))
            seen = hold.enter_context(hooks.capture({"end": self.decoder.blocks[layer]}))
            self.decoder.run(stack.ids, enter=(self.entry, hidden), leave=layer, **inputs)
        end = seen["end"]
        return end[beside(stack.wanted, end)].to(self.decoder.device, self.decoder.precision)

    def _moving(self, stack: Stack, delta: Tensor) -> tuple[list[hooks.Change], Tensor, dict[str, Any]]:
        """What adds delta, the state that enters, and what enters beside it."""
        moves = [self._adding(stack, part) for part in delta.unbind(1)]
        hidden = stack.hidden if self.parts else moves[0](stack.hidden)
        inputs: dict[str, Any] = dict(stack.inputs)
        if stack.cache:
            cache = DynamicCache()
            for i, (keys, values) in enumerate(stack.cache, start=self.entry + 1):
                cache.update(keys, values, i)
            inputs |= {"past_key_values": cache, "use_cache": True}
        return moves, hidden, inputs

    @staticmethod
    def _adding(stack: Stack, part: Float[Tensor, "fact model"]) -> hooks.Change:
        """Adds each fact's vector at its decisive tokens."""
        moved = part[stack.moved_by]
        return lambda state: state.index_put(beside(stack.moved, state), moved.to(state), accumulate=True)

    @staticmethod
    def _only_wanted(mlp: nn.Module, stack: Stack, shape: torch.Size) -> AbstractContextManager[None]:
        def scatter(output: Tensor) -> Tensor:
            return output.new_zeros(shape).index_put(beside(stack.wanted, output), output[0])

        return hooks.narrow(mlp, lambda state: state[beside(stack.wanted, state)][None], scatter)

    def _behind_padding(self, sequences: Sequence[Sequence_], length: int) -> dict[str, Tensor]:
        """The usual mask of rows that are padded in front; none if none are, as causality does the rest."""
        if not any(s.padding for s in sequences):
            return {}
        paddings = torch.tensor([s.padding for s in sequences], device=self.decoder.device)
        return {"attention_mask": (torch.arange(length, device=paddings.device) >= paddings[:, None]).long()}

    def _mask(self, allowed: Tensor) -> Tensor:
        """[sequence, token, token] as the additive mask [sequence, 1, token, token] that attention takes."""
        mask = torch.zeros(allowed.shape, dtype=self.decoder.dtype).masked_fill(
            ~allowed, torch.finfo(self.decoder.dtype).min
        )
        return mask[:, None].to(self.decoder.device)


def beside(places: tuple[Tensor, Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
    """Indices on the device of what they index: blocks may lie on several."""
    return places[0].to(state.device), places[1].to(state.device)


def _padded(tensor: Tensor, length: int, dim: int) -> Tensor:
    missing = length - tensor.shape[dim]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor, tensor.new_zeros(shape)], dim)


def _there(tensor: Tensor | None) -> Tensor:
    assert tensor is not None, "prepare() first"
    return tensor
