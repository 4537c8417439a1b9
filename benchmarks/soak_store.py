"""The store under fire: processes that share a store are killed (SIGKILL) at random moments, over and over.

    python -m benchmarks.soak_store [--kills 50] [--modes workers pruned] [--json result.json]

workers: processes make and read the values of one store, and a random one of them is killed; pruned: the same while
room is made in the store. Afterwards every value is compared bit for bit with what it has to be. Exit status 1 if one
differs, if a process met a wrong value or a damaged file, or if values that were written are gone.

POSIX only: processes are forked, so that starting one costs milliseconds.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from errata import Store
from errata.store import SHARDS
from errata.upkeep import LEFT_ALONE, entries, leftovers, remove, superfluous

MODES = ("workers", "pruned")
SHELVES, GROUP = 6, 4
WRONG = 3  # exit status of a worker that met what must not be

fork = multiprocessing.get_context("fork")


@dataclass
class Result:
    """What one mode counted."""

    mode: str
    kills: int = 0
    runs: int = 0
    seconds: float = 0.0
    values: int = 0
    """Compared bit for bit in the end."""
    differing: int = 0
    missing: int = 0
    met_wrong: int = 0
    """Processes that read a wrong value, or were warned of a damaged file."""
    lost: int = 0
    """Kills after which there were fewer finished files than before."""
    made: int = 0
    needed: int = 0
    """Values made, by all processes; and how many there are to make."""
    half_written: int = 0
    """Left by killed processes, none of which was read; all removed by the upkeep."""
    not_removed: int = 0
    prunes: int = 0

    @property
    def good(self) -> bool:
        return not (self.differing or self.missing or self.met_wrong or self.lost or self.not_removed)


def made_of(shelf: int) -> dict[str, object]:
    return {"soak": True, "shelf": shelf}


def value(shelf: int, item: int) -> dict[str, Tensor]:
    """From nothing but its names. Sizes from a few bytes to 4 MB, so that kills fall into writing too."""
    draw = torch.Generator().manual_seed(1000 * shelf + item)
    size = 4 << (item % 10 * 2)
    return {
        "state": torch.randn(size // 2 + 1, generator=draw, dtype=torch.float64),
        "parts": torch.randn(3, generator=draw),
    }


def version(shelf: int, number: int) -> dict[str, Tensor]:
    """One of the values that replace each other under one name; half old, half new would not be the same."""
    draw = torch.Generator().manual_seed(1_000_000 + 1000 * shelf + number)
    return {"state": torch.randn(200_000, generator=draw), "version": torch.tensor(number)}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def worker(root: Path, seed: float, items: int, counter: ctypes.Array[ctypes.c_longlong], slot: int) -> None:
    """Go through all values in an order of its own: read what is there, make and put what is not."""
    store, draw = Store(root), random.Random(seed)
    groups = [
        (shelf, list(range(s, min(s + GROUP, items)))) for shelf in range(SHELVES) for s in range(0, items, GROUP)
    ]
    for shelf, group in draw.sample(groups, len(groups)):
        place = store.shelf("soak", made_of(shelf))
        found = place.get([str(item) for item in group])
        assert all(same(tensors, value(shelf, int(name))) for name, tensors in found.items())
        fresh = {str(item): value(shelf, item) for item in group if str(item) not in found}
        if fresh:
            place.put(fresh)
            counter[slot] += len(fresh)
        single = store.get("single", made_of(shelf))
        assert single is None or same(single, version(shelf, int(single["version"])))
        if single is None or draw.random() < 0.3:
            store.put("single", made_of(shelf), version(shelf, draw.randrange(1000)))  # replaced while others read it


def guarded(work: Callable[..., None], *given: object) -> None:
    """Run in a forked process; a warning of a damaged file counts as a failure."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    try:
        work(*given)
    except BaseException:
        traceback.print_exc()
        os._exit(WRONG)
    os._exit(0)


def started(work: Callable[..., None], *given: object) -> multiprocessing.process.BaseProcess:
    process = fork.Process(target=guarded, args=(work, *given))
    process.start()
    return process


def shards(root: Path) -> set[Path]:
    return {path for path in root.rglob(SHARDS) if not path.name.startswith(".")}


def soak_workers(kills: int, processes: int, items: int, seed: int, prune: bool) -> Result:
    result, draw, began = Result("pruned" if prune else "workers"), random.Random(seed), time.perf_counter()
    counter = fork.Array(ctypes.c_longlong, processes, lock=False)
    while result.kills < kills or not result.runs:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            live = {slot: started(worker, root, draw.random(), items, counter, slot) for slot in range(processes)}
            while live:
                time.sleep(draw.uniform(0.002, 0.06))
                if result.kills < kills and draw.random() < 0.9:
                    slot = draw.choice(list(live))
                    before = shards(root)
                    os.kill(live[slot].pid or 0, signal.SIGKILL)
                    live[slot].join()
                    if live[slot].exitcode == -signal.SIGKILL:
                        result.kills += 1
                    result.lost += not prune and not before <= shards(root)
                if prune and draw.random() < 0.3:
                    store = Store(root)
                    found = entries(store)
                    half = sum(entry.size for entry in found) // 2
                    remove(superfluous(found, time.time(), max_size=half))
                    result.prunes += 1
                for slot, process in list(live.items()):
                    if process.exitcode is not None:
                        result.met_wrong += process.exitcode == WRONG
                        if process.exitcode in (0, WRONG):
                            del live[slot]
                        else:
                            live[slot] = started(worker, root, draw.random(), items, counter, slot)
            if prune:
                started(worker, root, 0, items, counter, 0).join()  # what was removed while the last one was at work
            _examine(result, root, items)
        result.runs += 1
    result.made, result.needed = sum(counter), result.runs * SHELVES * items
    result.seconds = time.perf_counter() - began
    return result


def _examine(result: Result, root: Path, items: int) -> None:
    """Every value of the store, with a Store that has seen nothing; and what the killed have left behind."""
    store = Store(root)
    for shelf in range(SHELVES):
        found = store.shelf("soak", made_of(shelf)).get(map(str, range(items)))
        single = store.get("single", made_of(shelf))
        pairs = [(found.get(str(item)), value(shelf, item)) for item in range(items)]
        for tensors, expected in [*pairs, (single, version(shelf, int(single["version"]) if single else 0))]:
            result.values += 1
            result.missing += tensors is None
            result.differing += tensors is not None and not same(tensors, expected)
    later = time.time() + 2 * LEFT_ALONE
    left = leftovers(store, later)
    result.half_written += len(left)
    remove(left)
    result.not_removed += len(leftovers(store, later))


def table_of(results: Sequence[Result]) -> Table:
    """A column for each mode."""
    table = Table(title="soak")
    table.add_column("")
    for result in results:
        table.add_column(result.mode, justify="right")
    lines: dict[str, Callable[[Result], object]] = {
        "kill -9": lambda r: r.kills,
        "runs to the end": lambda r: r.runs,
        "seconds": lambda r: f"{r.seconds:.0f}",
        "values compared": lambda r: r.values,
        "different": lambda r: r.differing,
        "missing": lambda r: r.missing,
        "wrong or damaged met": lambda r: r.met_wrong,
        "kills that lost files": lambda r: "-" if r.mode == "pruned" else r.lost,
        "values made / needed": lambda r: f"{r.made} / {r.needed}" if r.needed else "-",
        "left half written": lambda r: r.half_written,
        "of these not removed": lambda r: r.not_removed,
        "times room was made": lambda r: r.prunes or "-",
    }
    for label, show in lines.items():
        table.add_row(label, *(str(show(result)) for result in results))
    return table


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak_store", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kills", type=int, default=50, help="in each mode")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--items", type=int, default=40, help="values on each of six shelves")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(1)
    results = [soak_workers(args.kills, args.processes, args.items, args.seed, mode == "pruned") for mode in args.modes]
    Console().print(table_of(results))
    if args.json:
        args.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    sys.exit(not all(result.good for result in results))


if __name__ == "__main__":
    main()
