"""Peaks of memory: what `errata doctor` predicts of each stage of an edit, against what it takes.

    python -m benchmarks.memory [--sizes gpt2 llama-wide] [--stages solve ...] [--facts 100] [--device-free 24]
                                [--json result.json]

Each stage runs in a process of its own; what it takes is the most that process held during the stage beyond what it
held when the model had been built. Needs Linux for that. Then the prediction for the Llama-3-8B shape in bfloat16 on
a device of `--device-free` GiB, for which the model is never built.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.anchors import made_up_facts, tokenizer_for
from benchmarks.machine import high_water, start_of_peak
from benchmarks.shapes import SIZES, Size, contexts
from errata.cli.work.plan import size_of
from errata.decoder.decoder import Decoder
from errata.decoder.frontier import Frontier
from errata.decoder.memory import Peak, tokens_at_once
from errata.editor import Editor
from errata.recipe import Recipe, StatisticsSettings
from errata.statistics import KeyStatistics
from errata.store import Store
from errata.targets import AnchorSettings, optimise_anchors

STAGES = ("statistics", "anchors", "keys", "solve")
CONTEXT = 600 * 2**20
"""Bytes that CUDA itself takes of a device."""
FREE = 2 * 2**30
"""Passes are as large as they are where so many bytes are free, on whatever machine this runs."""


@dataclass(frozen=True)
class Row:
    size: str
    stage: str
    model: int
    predicted: int
    measured: int | None

    @property
    def cells(self) -> list[str]:
        ratio = "" if self.measured is None else f"{self.predicted / max(1, self.measured):.2f}"
        measured = "" if self.measured is None else size_of(self.measured)
        return [self.size, self.stage, size_of(self.model), size_of(self.predicted), measured, ratio]


def recipe_of(size: Size, tokens: int | None) -> Recipe:
    settings = AnchorSettings(steps=3, stop_loss=-1.0)
    solver = {"least_squares": {"weight": 15000.0}}
    return Recipe("random", size.window, anchor=settings, solvers=solver, statistics=StatisticsSettings(tokens=tokens))


def run(size: Size, stage: str, facts: int) -> Row:
    """One stage, in this process."""
    decoder = size.decoder()
    weights = sum(p.numel() * p.element_size() for p in decoder.model.parameters())
    decoder.budget = tokens_at_once(decoder, free=FREE)
    anchors(size, decoder, 1)  # what a first pass leaves behind is not of this stage
    before = start_of_peak()
    with tempfile.TemporaryDirectory() as folder:
        options = {"contexts": contexts(), "store": Store(folder), "corpus": size.texts(size.tokens)}
        editor = Editor(decoder, "memit+fe", recipe=recipe_of(size, size.tokens), **options)  # type: ignore[arg-type]
        predicted = editor.pipeline.memory(decoder, facts, FREE)[stage]
        work: dict[str, Callable[[], object]] = {
            "statistics": editor.statistics,
            "anchors": lambda: anchors(size, decoder, facts),
            "keys": lambda: keys(size, decoder, facts),
            "solve": lambda: sweep(size, editor, facts),
        }
        held = [] if stage == "statistics" else [made_up(decoder.inner(layer)) for layer in size.window]
        if stage == "solve":
            editor.supplies.given_statistics = dict(zip(size.window, held, strict=True))
        start_of_peak()
        work[stage]()
        measured = high_water() - before
    return Row(size.told, stage, weights, predicted.device + predicted.host, measured)


def made_up(inner: int) -> KeyStatistics:
    """Statistics that lie in memory as real ones do."""
    return KeyStatistics(torch.eye(inner, dtype=torch.float64), 1)


def anchors(size: Size, decoder: Decoder, facts: int) -> None:
    site = decoder.tokens.site(size.made_up(facts), contexts())
    for _ in optimise_anchors(decoder, site, size.window[0], AnchorSettings(steps=3, stop_loss=-1.0)):
        pass


def keys(size: Size, decoder: Decoder, facts: int) -> None:
    site = decoder.tokens.site(size.made_up(facts), contexts())
    frontier = Frontier(decoder, [prompt.stem for place in site for prompt in place.prompts])
    for layer in size.window:
        frontier.keys([layer], settle=True)


def sweep(size: Size, editor: Editor, facts: int) -> None:
    """A whole edit; its peak is counted from when its first layer is done, so that anchors are not in it."""

    def tell(stage: str, done: int, total: int) -> None:
        if stage == "layers" and done == 1:
            start_of_peak()

    editor.supplies.progress = tell
    editor.edit(size.made_up(facts))


def foretold(size: Size, facts: int, device_bytes: int) -> list[Row]:
    """The prediction for a model that is only described, on a device with so many bytes."""
    assert size.shape is not None
    config = AutoConfig.for_model(size.shape.model_type, **size.shape.sizes, **{size.shape.depth: size.blocks})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=size.dtype)
    decoder = Decoder(model, tokenizer_for(made_up_facts(50), True), name=size.name)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    free = device_bytes - weights - CONTEXT
    editor = Editor(decoder, "memit+fe", recipe=recipe_of(size, None), contexts=contexts(), store=Store.nowhere())
    peaks: dict[str, Peak] = editor.pipeline.memory(decoder, facts, free)
    rows = [Row(f"{size.told}, device", stage, weights, peak.device, None) for stage, peak in peaks.items()]
    return rows + [Row(f"{size.told}, main memory", stage, 0, peak.host, None) for stage, peak in peaks.items()]


def table_of(rows: Sequence[Row], title: str) -> Table:
    table = Table("size", "stage", "model", "predicted beside it", "measured", "predicted / measured", title=title)
    for row in rows:
        table.add_row(*row.cells)
    return table


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=["gpt2", "llama-wide"])
    parser.add_argument("--facts", type=int, default=100)
    parser.add_argument("--device-free", type=float, default=24.0, help="GiB of the device in the last table")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--stage", choices=STAGES, help="run one stage in this process and print its row as JSON")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    if args.stage:
        torch.set_num_threads(1)
        row = run(SIZES[args.sizes[0]], args.stage, args.facts)
        sys.stdout.write(json.dumps(asdict(row)) + "\n")
        return
    rows: list[Row] = []

    def keep(found: Sequence[Row]) -> None:
        rows.extend(found)
        if args.json:
            args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")

    for name in args.sizes:
        for stage in args.stages:
            mine = [sys.executable, "-m", "benchmarks.memory", "--sizes", name, "--stage", stage]
            mine += ["--facts", str(args.facts)]
            done = subprocess.run(mine, stdout=subprocess.PIPE, text=True, check=True)
            keep([Row(**json.loads(done.stdout.splitlines()[-1]))])
            Console(stderr=True).print(" | ".join(rows[-1].cells), highlight=False)
    out = Console(width=150)
    out.print(table_of(rows, f"memit+fe, {args.facts} facts"))
    eight = SIZES["llama-3-8b"]
    free = int(args.device_free * 2**30)
    for facts in (100, 2000):
        predicted = foretold(eight, facts, free)
        out.print(table_of(predicted, f"{facts} facts, a device of {args.device_free:g} GiB"))
        keep([replace(row, size=f"{row.size}, {facts} facts") for row in predicted])


if __name__ == "__main__":
    main()
