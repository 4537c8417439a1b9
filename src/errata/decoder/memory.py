"""How much fits at once, where it goes, and what to do when it did not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from errata.decoder.anatomy import Anatomy
from errata.statistics import triangle

AT_MOST = 8192
"""More tokens than this in one pass bring no speed on any device we measured."""

CPU_PASS = 512
"""Tokens of a pass without gradients on a CPU: a pass of thousands leaves the caches at every step."""

CPU_TAIL = 256
"""Tail tokens of a pass with gradients on a CPU: more only add padding, fewer leave matrix products thin."""

ROOM = 0.8
"""Share of a device's free memory that what is put there may take; the rest is for what computing with it needs."""


@dataclass(frozen=True)
class Peak:
    """The most bytes a stage holds at once beside the model: on the model's device, and in main memory.

    For a model in main memory the two are one memory, and add up.
    """

    device: int
    host: int = 0

    def fits(self, device: torch.device, free: int | None = None) -> bool:
        """Whether the device (of which `free` bytes are left) and main memory have room for it."""
        free = free_memory(device) if free is None else free
        if device.type == "cpu":
            return self.device + self.host <= free
        return self.device <= free and self.host <= free_memory(torch.device("cpu"))


@dataclass(frozen=True)
class Load:
    """What one fact brings into a pass, in tokens. The defaults are those of CounterFact under six contexts."""

    prompts: int = 6
    stem: int = 14
    """Of a prompt up to its decisive token."""
    tail: int = 24
    """That every evaluation of an anchor's loss runs, over all prompts."""
    prefix: int = 90
    """That it attends to as cached keys and values."""
    wanted: int = 8
    """At which logits are read."""


USUAL = Load()
HEAP = 100 * 2**20
"""What the C library keeps of freed small blocks in main memory, as measured."""
GROUPS, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_HEADS = ("num_attention_heads", "num_key_value_heads", "head_dim")


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated on a device now."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    return min([int(psutil.virtual_memory().available), *_left_to_groups()])


def _left_to_groups() -> Iterator[int]:
    """Bytes left to each control group (Linux, version 2) around this process that has a limit: containers and batch
    systems set one, and kill who exceeds it, however much the machine has free."""
    with suppress(OSError):
        for path in (line[4:] for line in OWN_GROUP.read_text().splitlines() if line.startswith("0::/")):
            for group in (GROUPS / path, *(GROUPS / path).parents):
                if group.is_relative_to(GROUPS):
                    with suppress(OSError, ValueError):  # the root has no limit; one without is "max"
                        limit, held = (int((group / f"memory.{what}").read_text()) for what in ("max", "current"))
                        lines = (group / "memory.stat").read_text().split("\n")
                        cached = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
                        yield max(0, limit - held + cached)


def place_for(size: int, device: torch.device) -> torch.device:
    """`device` if it can hold so many bytes of float64 matrices now, else main memory."""
    able = device.type == "cuda"  # mps has no float64, and an offloaded weight has no memory at all
    return device if able and size <= ROOM * free_memory(device) else torch.device("cpu")


def tokens_at_once(decoder: Anatomy, share: float = 0.25, free: int | None = None) -> int:
    """Tokens of a pass without gradients that fit in `share` of the free memory."""
    free = free_memory(decoder.device) if free is None else free
    return max(64, min(AT_MOST, int(share * free / token_bytes(decoder))))


def token_bytes(decoder: Anatomy) -> int:
    """Bytes one token holds at most during a block and at the head."""
    return block_bytes(decoder) + 12 * decoder.vocabulary


def block_bytes(decoder: Anatomy) -> int:
    """Bytes one token holds at most during a block."""
    return decoder.dtype.itemsize * (12 * decoder.width + 4 * decoder.inner(0))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception is an allocation that failed, on any device."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def tails_at_once(decoder: Anatomy, layer: int, tokens: int, share: float = 0.4, free: int | None = None) -> int:
    """Facts of `tokens` tail tokens whose passes with gradients, from `layer` on, fit in `share` of free memory."""
    free = free_memory(decoder.device) if free is None else free
    per_fact = tokens * (token_bytes(decoder) + (decoder.depth - layer) * _kept(decoder))
    fits = max(1, int(share * free / per_fact))
    return min(fits, max(1, CPU_TAIL // tokens) if decoder.device.type == "cpu" else 256)


def _kept(decoder: Anatomy) -> int:
    """Bytes that one token of one block keeps for the way back."""
    return (16 * decoder.width + 6 * decoder.inner(0)) * decoder.dtype.itemsize


def anchor_peak(decoder: Anatomy, layer: int, facts: int, free: int | None = None, load: Load = USUAL) -> int:
    """Bytes that seeking anchors at a layer holds at most: tails and their gradients, prefixes, logits."""
    at_once = min(facts, tails_at_once(decoder, layer, load.tail, free=free))
    above, size = decoder.depth - layer, decoder.dtype.itemsize
    prefix = 2 * load.prefix * above * 2 * _cache_width(decoder) * size  # kept fact by fact, and stacked
    prefix += load.prefix * above * 2 * decoder.width * size  # what attention makes of them, kept for the way back
    logits = load.wanted * decoder.vocabulary * (size + 5 * decoder.precision.itemsize)
    tails = load.tail * (above * _kept(decoder) + block_bytes(decoder))
    reference = decoder.vocabulary * decoder.precision.itemsize
    cached = decoder.depth * 2 * _cache_width(decoder) * size
    before = (load.prefix + load.tail) * (block_bytes(decoder) + cached)  # the pass that no delta changes, made once
    deltas = 8 * facts * decoder.width * decoder.precision.itemsize
    return at_once * (max(before, tails + logits) + prefix + reference) + deltas


def _cache_width(decoder: Anatomy) -> int:
    """Entries of one token's keys in one block: fewer than the width where heads share them."""
    config = decoder.model.config.get_text_config(decoder=True)
    heads, groups, size = (getattr(config, name, None) for name in _HEADS)
    if not isinstance(heads, int) or not isinstance(groups, int):
        return decoder.width
    return groups * (size if isinstance(size, int) else decoder.width // heads)


def pass_peak(decoder: Anatomy, tokens: int, free: int | None = None, beside: int = 0) -> int:
    """Bytes of a pass without gradients and head over so many tokens, `beside` more bytes a token kept meanwhile."""
    return min(tokens, tokens_at_once(decoder, free=free)) * (block_bytes(decoder) + beside)


def gathering_peak(decoder: Anatomy, layers: Sequence[int], tokens: int = 0, free: int | None = None) -> int:
    """Bytes of one pass over a corpus of so many tokens (0: any number), with the sums of all layers."""
    inner = [decoder.inner(layer) for layer in layers]
    keys = decoder.dtype.itemsize * (sum(inner) + max(inner)) + 8 * max(inner)
    return 8 * sum(map(triangle, inner)) + pass_peak(decoder, tokens or AT_MOST, free, keys)


def descent_peak(decoder: Anatomy, layer: int, rows: int, tokens: int = 24, free: int | None = None) -> int:
    """Bytes of passes with gradients from `layer` on, over at most so many rows of so many tokens at a time."""
    at_once = min(rows, tails_at_once(decoder, layer, tokens, free=free))
    return at_once * tokens * (token_bytes(decoder) + (decoder.depth - layer) * _kept(decoder))
