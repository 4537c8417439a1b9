"""The store under fire: processes that share a store are killed (SIGKILL) at random moments, over and over.

    python -m benchmarks.soak [--kills 50] [--modes workers pruned edits anchors] [--json result.json]

workers: processes make and read the values of one store, and a random one of them is killed; pruned: the same while
room is made in the store; edits: a run that edits facts in batches is killed and started again until it is done.
Afterwards every value is compared bit for bit with that of a run nobody interrupted. Exit status 1 if one differs,
if a process met a wrong value or a damaged file, or if values that were written are gone.

anchors: as edits, but every anchor is stored as soon as it is found, so that kills fall between anchors of one batch.
Those left are then optimised in smaller company, which rounds otherwise: the changes are compared by their relative
difference, which must stay below 1e-2, and the number of runs that are not equal bit for bit is told.

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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.anchors import CONTEXTS, Shape, decoder_for, made_up_facts
from errata import Contexts, Corpus, Decoder, Editor, Recipe, Store
from errata.delta import WeightDelta
from errata.editors import sweep
from errata.fact import Fact
from errata.store import SHARDS
from errata.targets import AnchorSettings
from errata.upkeep import LEFT_ALONE, entries, leftovers, remove, superfluous

TINY = Shape(
    "llama",
    "num_hidden_layers",
    True,
    {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 4000,
        "max_position_embeddings": 128,
    },
)
RECIPE = Recipe(
    "tiny",
    (1, 2, 3),
    anchor=AnchorSettings(learning_rate=0.3, steps=5),
    solvers={"least_squares": {"weight": 1.0, "ridge": 0.01}},
)
METHODS = ("memit+fe", "rect", "blue", "prune", "every-layer", "memit")
MODES = ("workers", "pruned", "edits", "anchors")
SHELVES, GROUP = 6, 4
TOLERANCE = 1e-2
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
    rounded: int = 0
    furthest: float = 0.0
    """Runs (of `anchors`) that are not equal bit for bit; and the largest relative difference."""
    lost: int = 0
    """Kills after which there were fewer finished files than before."""
    made: int = 0
    needed: int = 0
    """Values made, by all processes; and how many there are to make."""
    half_written: int = 0
    """Left by killed processes, none of which was read; all removed by the upkeep."""
    not_removed: int = 0
    prunes: int = 0
    notes: list[str] = field(default_factory=list)

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


def soak_edits(kills: int, seed: int, n_facts: int, batch: int, flush: float | None = None) -> Result:
    """A sequential edit run, killed and started again until it is done; one method after another."""
    result, draw, began = Result("edits" if flush is None else "anchors"), random.Random(seed), time.perf_counter()
    facts = made_up_facts(n_facts)
    decoder = decoder_for(TINY, 5, made_up_facts(100), torch.float32)
    assert decoder.fingerprint
    while result.kills < kills or not result.runs:
        method = METHODS[result.runs % len(METHODS)]
        with tempfile.TemporaryDirectory() as folder:
            whole, killed = Path(folder, "whole"), Path(folder, "killed")
            at = time.perf_counter()
            process = started(edit, decoder, facts, batch, method, whole, flush)
            process.join()
            if process.exitcode:
                raise SystemExit(f"{method}: the run that nobody interrupted failed; see above")
            pace = (time.perf_counter() - at) / (n_facts / batch)
            while True:
                process = started(edit, decoder, facts, batch, method, killed, flush)
                if result.kills < kills:
                    process.join(draw.uniform(0, 4 * pace))
                    if process.exitcode is None:
                        before = shards(killed)
                        os.kill(process.pid or 0, signal.SIGKILL)
                        process.join()
                        result.kills += process.exitcode == -signal.SIGKILL
                        result.lost += not before <= shards(killed)
                process.join()
                result.met_wrong += process.exitcode == WRONG
                if process.exitcode in (0, WRONG):
                    break
            expected, found = (json.loads((root / "done.json").read_text()) for root in (whole, killed))
            result.values += 1
            difference = expected["digest"] != found["digest"]
            result.rounded += difference
            if difference and flush is not None:
                away = _away(*(WeightDelta.load(root / "done.safetensors") for root in (whole, killed)))
                result.furthest, difference = max(result.furthest, away), away > TOLERANCE
            result.differing += difference
            if flush is None:
                resumed = f"{found['resumed']} of {n_facts // batch}"
                result.notes.append(f"{method}: {resumed} batches taken from the store at last")
            store = Store(killed)
            later = time.time() + 2 * LEFT_ALONE
            left = leftovers(store, later)
            result.half_written += len(left)
            remove(left)
            result.not_removed += len(leftovers(store, later))
        result.runs += 1
    result.seconds = time.perf_counter() - began
    return result


def _away(expected: WeightDelta, found: WeightDelta) -> float:
    """|found - expected| / |expected|, the largest of all edited matrices."""
    pairs = [(found.changes[name], change) for name, change in expected.changes.items()]
    return max(float((ours - change).norm() / change.norm()) for ours, change in pairs)


def edit(
    decoder: Decoder, facts: Sequence[Fact], batch: int, method: str, root: Path, flush: float | None = None
) -> None:
    """One run, from what the store has; leaves the change and its hash. `flush`: seconds between stored anchors."""
    if flush is not None:
        sweep.FLUSH_SECONDS = flush
    texts = [f"{fact.text} {fact.target_new}." for fact in made_up_facts(100)]
    given = {"recipe": RECIPE, "contexts": Contexts(CONTEXTS), "corpus": Corpus.of(texts), "store": Store(root)}
    outcome = Editor(decoder, method, **given).edit(facts, batch=batch)  # type: ignore[arg-type]
    resumed = next(iter(_numbers(outcome.ledger.notes)), 0)
    document = {"digest": outcome.edit.delta.digest, "resumed": resumed}  # type: ignore[attr-defined]
    outcome.edit.delta.save(root / "done.safetensors")  # type: ignore[attr-defined]
    temporary = root / ".done.json"
    temporary.write_text(json.dumps(document))
    os.replace(temporary, root / "done.json")


def _numbers(notes: Sequence[str]) -> Iterator[int]:
    for note in notes:
        if "from the store" in note:
            yield from (int(word) for word in note.split() if word.isdigit())


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
        "rounded otherwise": lambda r: f"{r.rounded} (by {r.furthest:.0e})" if r.furthest else "-",
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kills", type=int, default=50, help="in each mode")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES[:3])
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--items", type=int, default=40, help="values on each of six shelves")
    parser.add_argument("--facts", type=int, default=20)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(1)
    results = []
    for mode in args.modes:
        if mode == "edits":
            results.append(soak_edits(args.kills, args.seed, args.facts, args.batch))
        elif mode == "anchors":
            results.append(soak_edits(args.kills, args.seed, args.facts, args.facts // 2, flush=0.0))
        else:
            results.append(soak_workers(args.kills, args.processes, args.items, args.seed, mode == "pruned"))
    console = Console()
    console.print(table_of(results))
    for result in results:
        for note in result.notes:
            console.print(note)
    if args.json:
        args.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    sys.exit(not all(result.good for result in results))


if __name__ == "__main__":
    main()
