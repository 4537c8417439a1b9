"""Break inputs by the thousand, and count what errata makes of them.

    python -m tests.fuzz --inputs 10000 [--family records ...] [--seed 0] [--keep FOLDER]
    python -m tests.fuzz --family records --seed 0 --only 1234

An input is accepted, or refused in one clear message. Everything else is a failure: another error than errata's own,
a message of more than 500 characters about one problem, changed weights, a file touched outside the folder given for
output, an exit code that does not fit what was written. Failing inputs are kept with their verdict, and each is made
again by its family, seed and number. Exit status 1 if anything failed.

Each family runs in a process of its own, with its memory limited: one that dies is counted and the rest goes on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import perf_counter

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from tests.fuzz.families import FAMILIES
from tests.fuzz.judge import PATIENCE, Verdict
from tests.fuzz.session import Input, Session

MEMORY = 6 << 30
"""Bytes of addresses that an input may ask for beyond those in use."""

Line = tuple[Input, Verdict]


def worker(family: str, seed: int, numbers: Sequence[int], patience: int, lines: Path, keep: Path) -> None:
    """Run the inputs; one line of JSON for each, written before it starts and again when it is judged."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    logging.set_verbosity(logging.CRITICAL)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    with tempfile.TemporaryDirectory(prefix="errata-fuzz-") as folder, lines.open("a") as out:
        session = Session(Path(folder), family, seed)
        for number in numbers:
            print(json.dumps({"number": number}), file=out, flush=True)
            made, verdict = session.run(number, patience)
            print(
                json.dumps({"number": number, "input": vars(made), "verdict": verdict.to_json()}), file=out, flush=True
            )
            if verdict.failed:
                kept = keep / f"{family}-{seed}-{number}"
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(session.place, kept, symlinks=True, ignore_dangling_symlinks=True)
                (kept / "verdict.json").write_text(
                    json.dumps({"input": vars(made), "verdict": verdict.to_json()}, indent=1)
                )


def run_family(family: str, seed: int, numbers: Iterable[int], patience: int, keep: Path) -> list[Line]:
    """All inputs of a family, in a process that is started again if it dies."""
    left, results = list(numbers), []
    fork = multiprocessing.get_context("fork")
    keep.mkdir(parents=True, exist_ok=True)
    while left:
        lines = keep / f".{family}.jsonl"
        lines.unlink(missing_ok=True)
        process = fork.Process(target=worker, args=(family, seed, left, patience, lines, keep))
        process.start()
        process.join()
        rows = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
        done = [row for row in rows if "verdict" in row]
        results += [(Input(**row["input"]), Verdict(**row["verdict"])) for row in done]
        if len(done) == len(left):
            break
        if not rows:
            raise SystemExit(f"{family}: the process ended before its first input")
        number = rows[-1]["number"]
        results.append((Input(family, number, seed, "?", "?"), Verdict("died", f"exit code {process.exitcode}")))
        left = left[left.index(number) + 1 :]
    lines.unlink(missing_ok=True)
    return results


def table_of(results: dict[str, list[Line]], seconds: dict[str, float]) -> Table:
    """A row for each family."""
    table = Table(title="broken inputs")
    columns = (
        "inputs",
        "accepted",
        "refused",
        "tracebacks",
        "died",
        "slow",
        "too long",
        "weights",
        "outside",
        "exit code",
    )
    table.add_column("family")
    for column in (*columns, "s"):
        table.add_column(column, justify="right")

    def row(lines: Sequence[Line]) -> list[str]:
        verdicts = [verdict for _, verdict in lines]
        kinds = Counter(verdict.kind for verdict in verdicts)
        counts = [len(verdicts), *(kinds[kind] for kind in ("accepted", "refused", "traceback", "died", "slow"))]
        counts += [sum(bool(v.too_long) for v in verdicts), sum(v.weights_changed for v in verdicts)]
        counts += [sum(bool(v.outside) for v in verdicts), sum(bool(v.exit_code) for v in verdicts)]
        return [str(count) for count in counts]

    for family, lines in results.items():
        table.add_row(family, *row(lines), f"{seconds[family]:.0f}")
    table.add_row("all", *row([line for lines in results.values() for line in lines]), f"{sum(seconds.values()):.0f}")
    return table


def kinds_of(lines: Sequence[Line]) -> list[str]:
    """What failed, by kind: how often, where, and the number of the first input."""
    groups: dict[tuple[str, str], list[Input]] = {}
    for made, verdict in lines:
        if verdict.kind in ("traceback", "died"):
            groups.setdefault((made.family, verdict.where or verdict.kind), []).append(made)
        if verdict.too_long:
            groups.setdefault((made.family, f"message too long: {verdict.message[:80]!r}"), []).append(made)
        if verdict.weights_changed:
            groups.setdefault((made.family, f"weights changed ({made.door}, {verdict.kind})"), []).append(made)
        if verdict.outside:
            groups.setdefault((made.family, f"outside: {', '.join(verdict.outside)[:80]}"), []).append(made)
        if verdict.exit_code:
            groups.setdefault((made.family, f"exit code: {verdict.exit_code[:80]}"), []).append(made)
    ordered = sorted(groups.items(), key=lambda item: (item[0][0], -len(item[1])))
    return [
        f"{family:10} {len(inputs):4} x  {what}   [--only {inputs[0].number}: {inputs[0].door}, {inputs[0].damage}]"
        for (family, what), inputs in ordered
    ]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--inputs", type=int, default=1000, help="of all families together")
    parser.add_argument("--family", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", type=int, nargs="+", metavar="NUMBER", help="run these inputs and show their verdicts"
    )
    parser.add_argument("--patience", type=int, default=PATIENCE, help="seconds until an input counts as too slow")
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="folder of failing inputs")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args, console = parse(argv), Console(width=max(120, Console().width), markup=False, highlight=False)
    share = -(-args.inputs // len(args.family))
    results, seconds = {}, {}
    for family in args.family:
        began = perf_counter()
        results[family] = run_family(family, args.seed, args.only or range(share), args.patience, args.keep)
        seconds[family] = perf_counter() - began
    lines = [line for family in results.values() for line in family]
    for made, verdict in lines if args.only else ():
        console.print(f"{made}\n{verdict.kind}: {verdict.message}\n{verdict}")
    console.print(table_of(results, seconds))
    for kind in kinds_of(lines):
        console.print(kind.encode("ascii", "backslashreplace").decode(), soft_wrap=True)
    sys.exit(any(verdict.failed for _, verdict in lines))


if __name__ == "__main__":
    main()
