"""The command line under fire: verbs are ended at random moments by SIGINT, SIGTERM and SIGKILL, and started again.

    python -m benchmarks.soak [--kills 300] [--verbs save checkpoint ...] [--seed 0] [--json result.json]

After each kill everything that the verb writes must be whole: as it was before, or as a run that nobody interrupted
leaves it. SIGINT and SIGTERM must leave nothing half written, and end it with exit code 130 or 143. Started again, the
verb must come to the same result, and edits must have taken up batches from the store. Only kills that end a verb at
work count: none before it has opened its model, none after its end. Exit status 1 if anything was not so.

A batch that was begun goes on with the anchors that are stored; the others are then optimised in smaller company, which
rounds otherwise. Results are compared bit for bit, and those that differ by their relative difference, which must stay
below 1e-2 and is told.

POSIX only: verbs are forked from this process, which has run each of them once, so that starting one costs nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from benchmarks.soak_verbs import VERBS, State, Verb, away, new_place, state_of
from errata import Decoder
from errata.cli import app as cli
from errata.files import OLD, PART

ENDED = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -signal.SIGKILL}
"""The exit status of a verb that a signal ended."""
TRIES = 20
"""Times that a kill may miss, for each that hits."""
TOLERANCE = 1e-2
"""Relative difference up to which changes count as the same, rounded otherwise."""


fork = multiprocessing.get_context("fork")


# -- processes -------------------------------------------------------------------------------------------------


def run_here(root: Path, words: Sequence[str]) -> None:
    """A command in this process. Raises RuntimeError if it does not end well."""
    there, argv = Path.cwd(), sys.argv
    os.chdir(root)
    os.environ["ERRATA_STORE"] = str(root / "store")
    sys.argv = ["errata", *words]
    try:
        cli.main()
    except SystemExit as left:
        if left.code:
            raise RuntimeError(f"{' '.join(words)}: exit code {left.code}") from None
    finally:
        os.chdir(there)
        sys.argv = argv


def worker(root: Path, words: Sequence[str], output: Path, tell: Connection) -> None:
    """A command in a process of its own, which tells when it has opened its model, and when it has come to its end."""
    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
    opened = Decoder.from_pretrained

    def opens(*given: Any, **options: Any) -> Decoder:
        decoder = opened(*given, **options)
        tell.send("working")
        return decoder

    Decoder.from_pretrained = opens  # type: ignore[method-assign]
    if "model" not in words:
        tell.send("working")
    code: Any = 0
    try:
        run_here(root, words)
    except SystemExit as left:
        code = left.code
    except RuntimeError as error:
        code = int(re.findall(r"\d+", str(error))[-1])
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        tell.send("ended")
    os._exit(code or 0)


class Started:
    """A command at work in a process of its own."""

    def __init__(self, root: Path, words: Sequence[str], output: Path) -> None:
        here, there = fork.Pipe(duplex=False)
        self.process = fork.Process(target=worker, args=(root, words, output, there))
        self.process.start()
        there.close()
        self.told = here

    def working(self) -> bool:
        """Wait until it is at work; False if it has ended before."""
        try:
            return bool(self.told.recv() == "working")
        except EOFError:
            return False

    def kill(self, number: signal.Signals) -> bool:
        """Whether the signal ended it, and not it itself."""
        os.kill(self.process.pid or 0, number)
        self.process.join()
        return self.process.exitcode == ENDED[number]

    def end(self) -> int | None:
        self.process.join()
        return self.process.exitcode


# -- the soak --------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What was counted for one verb."""

    verb: str
    kills: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    """Signals that came too late."""
    runs: int = 0
    resumed: int = 0
    """Batches that runs took from the store."""
    rounded: int = 0
    furthest: float = 0.0
    """Runs whose end is not equal bit for bit; and the largest relative difference."""
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        return not self.wrong


def soak(name: str, kills: int, draw: random.Random, folder: Path) -> Result:
    """Kill one verb so many times; each run is taken up until it is done, and then compared."""
    verb, result = VERBS[name], Result(name)
    prepared, peaceful = folder / "prepared", folder / "peaceful"
    prepared.mkdir()
    new_place(prepared)
    for words in verb.before:
        run_here(prepared, words)
    before = state_of(verb, prepared)
    shutil.copytree(prepared, peaceful)
    pace = _seconds_of(peaceful, verb, folder / "peaceful.txt")
    expected = state_of(verb, peaceful)
    began = time.perf_counter()
    while (done := sum(result.kills.values())) < kills or (
        verb.resumes and not result.resumed and result.runs < TRIES  # all kills came before a first batch was kept
    ):
        root, output = folder / f"run{result.runs}", folder / f"run{result.runs}.txt"
        shutil.copytree(prepared, root)
        _run_to_the_end(root, verb, result, (before, expected), max(kills, done + 2), pace, draw, output)
        result.runs += 1
        result.resumed += sum(map(int, re.findall(r"the first (\d+) batch", output.read_text())))
        shutil.rmtree(root)
    if verb.resumes and not result.resumed:
        result.wrong.append("no run took up a batch of an earlier one")
    result.seconds = time.perf_counter() - began
    return result


def _seconds_of(root: Path, verb: Verb, output: Path) -> float:
    """How long the verb is at work when nobody interrupts it."""
    started = Started(root, verb.words, output)
    started.working()
    at = time.perf_counter()
    if code := started.end():
        raise SystemExit(f"{' '.join(verb.words)}: exit code {code} when nobody interrupted it\n{output.read_text()}")
    seconds = time.perf_counter() - at
    if verb.then:
        run_here(root, verb.then)
    return seconds


def _run_to_the_end(
    root: Path,
    verb: Verb,
    result: Result,
    states: tuple[State, State],
    kills: int,
    pace: float,
    draw: random.Random,
    output: Path,
) -> None:
    before, expected = states
    for _ in range(TRIES):
        started = Started(root, verb.words, output)
        ending = draw.choice(list(ENDED))
        if sum(result.kills.values()) < kills and started.working():
            time.sleep(draw.uniform(0, pace))
            hit = started.kill(ending)
            result.kills[ending.name] += hit
            result.missed += not hit
            if hit and ending != signal.SIGKILL:
                left = [path for path in root.rglob(".*") if path.name.startswith((PART, OLD)) or PART in path.name]
                result.wrong += [f"{ending.name} left {path.relative_to(root)}" for path in left]
        code = started.end()
        state = state_of(verb, root)
        for name, value in state.items():
            if min(away(value, before[name]), away(value, expected[name])) > TOLERANCE:
                shown = value if isinstance(value, str) else "neither the old one nor the new one"
                result.wrong.append(f"{name} after {ending.name}: {shown}")
        if code not in (0, *ENDED.values()):
            result.wrong.append(f"exit code {code} after {ending.name}: {output.read_text()[-300:]}")
            return
        if code == 0 or (_difference(state, expected) < TOLERANCE < _difference(expected, before)):
            break
    if verb.then:
        run_here(root, verb.then)
    difference = _difference(state_of(verb, root), expected)
    result.rounded += 0 < difference <= TOLERANCE
    if difference > TOLERANCE:
        result.wrong.append(f"the run came to another end than the one that nobody interrupted: {difference:.0e} away")
    else:
        result.furthest = max(result.furthest, difference)


def _difference(state: State, expected: State) -> float:
    return max(away(value, expected[name]) for name, value in state.items())


def table_of(results: Sequence[Result]) -> Table:
    """A row for each verb."""
    table = Table(title="soak")
    table.add_column("verb")
    names = [number.name for number in ENDED]
    for column in ("kills", *names, "missed", "runs", "resumed", "rounded", "by at most", "wrong", "s", "s/kill"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        kills = sum(result.kills.values())
        counts: list[object] = [kills, *(result.kills[name] for name in names), result.missed, result.runs]
        counts += [result.resumed if VERBS[result.verb].resumes else "-", result.rounded]
        counts += [f"{result.furthest:.0e}" if result.furthest else "-", len(result.wrong)]
        per_kill = f"{result.seconds / kills:.2f}" if kills else "-"
        table.add_row(result.verb, *map(str, counts), f"{result.seconds:.0f}", per_kill)
    return table


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--kills", type=int, default=70, help="of all verbs together")
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=list(VERBS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args, console, results = parse(argv), Console(width=120), []
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    draw = random.Random(args.seed)
    for name in args.verbs:
        with tempfile.TemporaryDirectory(prefix="errata-soak-") as folder:
            results.append(soak(name, -(-args.kills // len(args.verbs)), draw, Path(folder).resolve()))
    console.print(table_of(results))
    for result in results:
        for text, count in Counter(result.wrong).items():
            console.print(f"{result.verb}: {count} x {text}", markup=False, highlight=False, soft_wrap=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    sys.exit(not all(result.good for result in results))


if __name__ == "__main__":
    main()
