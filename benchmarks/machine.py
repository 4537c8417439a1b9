"""What the machine did: seconds, peaks of memory, and the rate of its matrix products."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.anchors import _ATTENTION

CPU = torch.device("cpu")


def seconds(work: Callable[[], object], device: torch.device = CPU) -> float:
    """What one run takes: CPU seconds of this process, or seconds by the clock where a device does the work."""
    if device.type == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def gflop(work: Callable[[], object]) -> float:
    """Matrix products and attention of one run, forward and backward."""
    counter: Any = FlopCounterMode(display=False, custom_mapping=_ATTENTION)
    with counter:
        work()
    return float(counter.get_total_flops()) * 1e-9


def matrix_rate(width: int, inner: int, dtype: torch.dtype = torch.float32, device: torch.device = CPU) -> float:
    """GFLOP a second of products [rows, width] x [width, inner], the best of eight tries and of two sizes."""
    rates = []
    for rows in (512, 2048) if device.type == "cpu" else (8192,):
        left = torch.randn(rows, width, device=device).to(dtype)
        right = torch.randn(width, inner, device=device).to(dtype)
        once = partial(torch.mm, left, right)
        n = max(1, int(0.2 / max(1e-4, seconds(once, device))))
        best = min(seconds(lambda once=once, n=n: [once() for _ in range(n)], device) for _ in range(4))
        rates.append(2e-9 * rows * width * inner * n / best)
    return max(rates)


def peak(work: Callable[[], object], device: torch.device = CPU) -> int:
    """Bytes that one run holds at most beyond what is held before it."""
    if device.type != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return int(torch.cuda.max_memory_allocated(device)) - before
    before = start_of_peak()
    work()
    return high_water() - before


def start_of_peak() -> int:
    """Forget how high the water stood; the bytes of this process that are in memory now. Linux only."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def high_water() -> int:
    """The most bytes of this process that were in memory at once since `start_of_peak`."""
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))
