"""What more processes bring: the same edit of the pocket model by one process and by several, stage by stage.

    python -m benchmarks.fleet [--processes 2] [--facts 40] [--repeats 3] [--json result.json]

Every process has one thread. Speed-up is one process's seconds over those of the slowest of several; efficiency is
that divided by their number. Seconds of the clock tell what a user waits, and mean something on an idle machine only;
seconds of the busiest process tell how evenly the work is dealt and what it costs to deal it, on any. The runs take
turns, and of the repeats the fastest counts.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from errata import pocket
from errata.decoder.corpus import Corpus
from errata.decoder.decoder import Decoder
from errata.editor import Editor
from errata.evaluate import evaluate, probes
from errata.fleet import Fleet
from errata.pocket.cases import cases as pocket_cases
from errata.store import Store

Seconds = dict[str, dict[str, float]]
"""Stage -> "clock" and "busiest" seconds."""


def work(facts: int) -> None:
    """One rank's part; the leading rank prints the seconds of all as JSON."""
    torch.set_num_threads(1)
    cases = pocket_cases(facts)
    found: Seconds = {}
    with Fleet.here() as fleet:
        decoder = Decoder.from_pretrained(pocket.path(), dtype="float32")
        given: dict[str, Any] = {"store": Store.nowhere(), "corpus": Corpus.of(pocket.corpus()), "fleet": fleet}
        editor = Editor(decoder, "memit+fe", **given)
        _ = editor.supplies.contexts

        def timed(stage: str, do: Callable[[], Any]) -> Any:
            fleet.tell(lambda: None)
            clock, own = perf_counter(), process_time()
            done = do()
            busiest = max(fleet.gather({fleet.rank: process_time() - own}))
            found[stage] = {"clock": perf_counter() - clock, "busiest": busiest}
            return done

        timed("statistics", editor.statistics)
        outcome = timed("edit", lambda: editor.edit([case.fact for case in cases]))
        timed("scores", lambda: evaluate(decoder, cases, probes("belief", "specificity"), None, fleet))
        if fleet.leads:
            anchors = {"clock": outcome.ledger.seconds["anchors"]}
            print(json.dumps({"seconds": found | {"of which anchors": anchors}, "digest": decoder.change.digest}))  # type: ignore[union-attr]


def crew(processes: int, facts: int) -> Any:
    """What so many processes, started at once, report."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": str(processes)}
    command = [sys.executable, "-m", "benchmarks.fleet", "--work", "--facts", str(facts)]
    ranks = [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE if rank == 0 else subprocess.DEVNULL,
            text=True,
        )
        for rank in range(processes)
    ]
    said, _ = ranks[0].communicate()
    if any(rank.wait() for rank in ranks):
        raise SystemExit(f"a process of {processes} failed")
    return json.loads(said.splitlines()[-1])


def fastest(runs: list[Any]) -> Seconds:
    """Of several runs the fewest seconds of each stage."""
    first: Seconds = runs[0]["seconds"]
    return {
        stage: {kind: min(run["seconds"][stage][kind] for run in runs) for kind in kinds}
        for stage, kinds in first.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--facts", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        work(chosen.facts)
        return
    many = chosen.processes
    load = os.getloadavg()[0]
    pairs = [(crew(1, chosen.facts), crew(many, chosen.facts)) for _ in range(chosen.repeats)]
    alone, together = (fastest(list(runs)) for runs in zip(*pairs, strict=True))
    title = f"{chosen.facts} pocket facts by memit+fe, {os.cpu_count()} cores, load {load:.1f} at the start"
    table = Table(title=title, title_justify="left")
    for head in ("stage", "seconds of", "1 process", f"{many} processes", "speed-up", "efficiency"):
        table.add_column(head, justify="left" if head in ("stage", "seconds of") else "right")
    for stage, kinds in alone.items():
        for kind, one in kinds.items():
            other = together[stage][kind]
            ratio = one / other
            table.add_row(stage, kind, f"{one:.2f}", f"{other:.2f}", f"{ratio:.2f}", f"{ratio / many:.0%}")
    Console(width=110).print(table)
    if chosen.json:
        chosen.json.write_text(json.dumps({"title": title, "alone": alone, "together": together}, indent=1))


if __name__ == "__main__":
    main()
