"""What every stage of an edit costs: errata against the plain way, and against what the machine could do at best.

    python -m benchmarks.stages [--sizes pocket gpt2 gpt2-xl llama-3-8b] [--inner 3072 6400 14336] [--threads 1]
                                [--stages anchors replay ...] [--quick] [--json result.json]

Models have random weights in published shapes (the pocket model its own): costs do not depend on what a model
knows. Anchors make all their evaluations, but for end to end edits of the pocket model, which stop as usual. `times`
is the cost of the plain way for one of errata's. `limit` is the share of errata's seconds that its own matrix
arithmetic would take at the rate of a large matrix product on this machine, measured in the same run; that of edits
end to end is counted for ten facts at most, and carried on from there. On a CPU seconds are those of the process,
on all its threads, so that other work on shared cores counts little; on a GPU they are those of the clock.

A row is printed, and written to the JSON file, as soon as it is known. On a core that has nothing else to do the whole
should take 15 to 20 minutes: pocket 5 (4 of them for 1000 facts end to end), gpt2 4, gpt2-xl 4, solves 4 (3 of them
at inner width 14336, which takes some 10 GiB of memory).
"""

from __future__ import annotations

import argparse
import json
import platform
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from time import perf_counter

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import plain, scoring
from benchmarks.anchors import CONTEXTS, by_errata, by_the_book
from benchmarks.machine import gflop, matrix_rate, peak, seconds
from benchmarks.shapes import SIZES, WIDTHS, Size, contexts, names
from errata.decoder.corpus import Corpus, gather
from errata.decoder.frontier import Frontier
from errata.decoder.rows import grouped, pad
from errata.editor import Editor
from errata.evaluate import evaluate, probes
from errata.pocket.cases import cases as pocket_cases
from errata.recipe import Recipe, recipe_for
from errata.solvers import LeastSquares, LinearSystem
from errata.statistics import KeyStatistics
from errata.store import Store
from errata.targets import AnchorSettings

PRESERVED = 15000.0
FACTS = (1, 100, 2000)
FEW = 10
STAGES = ("anchors", "replay", "keys", "statistics", "scoring", "whole", "solve")


@dataclass(frozen=True)
class Row:
    """One stage at one size: errata's rate or cost, how many times less that is than another way's, and the share."""

    size: str
    stage: str
    amount: str
    errata: str
    against: str = ""
    times: float | None = None
    share: float | None = None

    @property
    def cells(self) -> list[str]:
        times = "" if self.times is None else f"{self.times:.2f}" if self.times < 2 else f"{self.times:.1f}"
        share = "" if self.share is None else f"{self.share:.0%}"
        return [self.size, self.stage, self.amount, self.errata, self.against, times, share]


class Bench:
    """One size: its model, and each stage on it."""

    def __init__(self, size: Size) -> None:
        self.size, self.window = size, size.window
        self.decoder = size.decoder()
        self.device = self.decoder.device
        self.rate = matrix_rate(size.width, size.inner, size.dtype, self.device)
        d = self.decoder
        self.plain = plain.PlainModel(d.model, d.tokenizer, d.layout.blocks, d.layout.down_projection)

    def row(self, stage: str, amount: str, errata: str, against: str = "", times: float | None = None,
            share: float | None = None) -> Row:  # fmt: skip
        return Row(self.size.name, stage, amount, errata, against, times, share)

    def rows(self, stages: Collection[str]) -> Iterator[Row]:
        by_errata(self.decoder, self.size.made_up(1), self.window[0], 2)  # the first pass of a process is slow
        yield self.row("matrix rate", "", f"{self.rate:.0f} GFLOP/s")
        run = {"anchors": self.anchors, "replay": self.replay, "keys": self.keys, "statistics": self.statistics,
               "scoring": self.scoring, "whole": self.whole}  # fmt: skip
        for stage, rows in run.items():
            if stage in stages:
                yield from rows()

    def anchors(self) -> Iterator[Row]:
        size, layer, n = self.size, self.window[0], self.size.evaluations
        facts = size.made_up(size.facts)
        mine = seconds(lambda: by_errata(self.decoder, facts, layer, n), self.device) / len(facts)
        few = facts[:: max(1, len(facts) // size.plain_facts)][: size.plain_facts]
        with torch.device(self.device):
            theirs = seconds(lambda: by_the_book(self.decoder, few, layer, n), self.device) / len(few)
        one, two = (gflop(partial(by_errata, self.decoder, facts, layer, steps)) for steps in (2, 3))
        work = (one + (n - 2) * (two - one)) / len(facts)
        told = f"{len(facts)} facts ({len(few)}), {n} evaluations"
        yield self.row("anchors", told, f"{1 / mine:.3g} facts/s", "plain loop", theirs / mine, work / self.rate / mine)

    def replay(self) -> Iterator[Row]:
        facts = self.size.made_up(self.size.keyed)
        site, first = self.decoder.tokens.site(facts, contexts()), self.window[0]
        z = 1.01 * self.decoder.states(site.bare, [first])[first]

        def mine() -> object:
            return self.decoder.states(site.bare, self.window[1:], holding=(first, z))

        cost, work, n = seconds(mine, self.device) / len(facts), gflop(mine) / len(facts), self.size.plain_keyed
        with torch.device(self.device):
            theirs = seconds(
                lambda: plain.plain_replay(self.plain, facts[:n], z[:n], first, self.window[1:]), self.device
            ) / n  # fmt: skip
        yield self.row("replay", f"{len(facts)} facts ({n})", f"{1 / cost:.3g} facts/s", "plain loop", theirs / cost,
                       work / self.rate / cost)  # fmt: skip

    def keys(self) -> Iterator[Row]:
        facts, n = self.size.made_up(self.size.keyed), self.size.plain_keyed
        site = self.decoder.tokens.site(facts, contexts())
        stems = [prompt.stem for place in site for prompt in place.prompts]

        def mine() -> None:
            frontier = Frontier(self.decoder, stems)
            for layer in self.window:
                frontier.keys([layer], settle=True)

        def theirs() -> None:
            for layer in self.window:
                self.plain.keys(facts[:n], CONTEXTS, layer)

        cost, work = seconds(mine, self.device) / len(facts), gflop(mine) / len(facts)
        with torch.device(self.device):
            other = seconds(theirs, self.device) / n
        told = f"{len(facts)} facts ({n}), {len(self.window)} layers"
        yield self.row("keys", told, f"{1 / cost:.3g} facts/s", "plain loop", other / cost, work / self.rate / cost)

    def statistics(self) -> Iterator[Row]:
        """Of a further token: a sample has tens of thousands, beside which what is done once a layer is little."""
        decoder, window, tokens = self.decoder, self.window, self.size.tokens
        corpus, few = Corpus.of(self.size.texts(tokens)), self.size.tokens // 4

        def further(measure: Callable[[Callable[[], object]], float], layers: Sequence[int]) -> float:
            many, less = (measure(partial(gather, decoder, corpus, layers, n)) for n in (tokens, few))
            return max(1e-9, many - less) / (tokens - few)

        timed = partial(seconds, device=self.device)
        cost, work = further(timed, window), further(gflop, window)
        apart = sum(further(timed, [layer]) for layer in window)
        told = f"{tokens - few} tokens, {len(window)} layers"
        each = "a pass per layer"
        yield self.row("statistics", told, f"{1 / cost:.0f} tokens/s", each, apart / cost, work / self.rate / cost)
        batches = self.batches(corpus, tokens)

        @torch.no_grad()
        def forward(last: int | None) -> None:
            for ids in batches:
                decoder.run(ids, leave=last)

        there, whole = (timed(partial(forward, last)) / tokens for last in (window[-1], None))
        told = f"{1 / there:.0f} tokens/s; statistics reach {there / cost:.0%}"
        yield self.row("", "forward to there", told, "all blocks and the head", whole / there)

    def batches(self, corpus: Corpus, tokens: int) -> list[Tensor]:
        """The passes that gathering statistics makes."""
        ends = list(accumulate(map(len, rows := self.decoder.tokens.prompts(list(corpus.texts())))))
        enough = rows[: bisect_left(ends, tokens) + 1]
        return [pad(group, self.device) for group in grouped(enough, self.decoder.budget)]

    def scoring(self) -> Iterator[Row]:
        cases, n = pocket_cases(self.size.records), self.size.plain_records
        decoder = self.decoder
        scoring.edit(decoder, self.window[1])

        def mine() -> object:
            decoder._known = {}
            return evaluate(decoder, cases, probes(*scoring.FAMILIES))

        cost, work = seconds(mine, self.device) / len(cases), gflop(mine) / len(cases)
        with torch.device(self.device):
            other = seconds(lambda: scoring.plainly(decoder, cases[:n], None), self.device) / n
        decoder.restore()
        told = f"{len(cases)} records ({n})"
        yield self.row("scoring", told, f"{1 / cost:.3g} records/s", "one record at a time", other / cost,
                       work / self.rate / cost)  # fmt: skip

    def whole(self) -> Iterator[Row]:
        decoder, settings = self.decoder, AnchorSettings(steps=self.size.evaluations, stop_loss=-1.0)
        recipe = Recipe("random", self.window, anchor=settings, solvers={"least_squares": {"weight": PRESERVED}})
        if self.size.shape is None:
            recipe = recipe_for(decoder)
        found = gather(decoder, Corpus.of(self.size.texts(self.size.tokens)), self.window, self.size.tokens)
        statistics = {layer: definite(one) for layer, one in found.items()}
        every = self.size.made_up(max(self.size.edits))
        precise = matrix_rate(self.size.width, self.size.inner, torch.float64, self.device)
        factors = 1e-9 * len(self.window) * self.size.inner**3 / 3 / precise

        def edit(n: int) -> None:
            options = {"recipe": recipe, "contexts": contexts(), "statistics": statistics, "store": Store.nowhere()}
            Editor(decoder, "memit+fe", **options).edit(every[:n]).restore()  # type: ignore[arg-type]

        first = each = 0.0
        for n in self.size.edits:
            cost = seconds(partial(edit, n), self.device)
            first = first or cost / n
            each = gflop(partial(edit, n)) / n if n <= FEW or not each else each
            share = (n * each / self.rate + factors) / cost
            yield self.row("end to end", f"{n} facts", f"{cost:.3g} s, {cost / n:.3g} s a fact", "one fact alone",
                           first / (cost / n), share)  # fmt: skip


def definite(found: KeyStatistics) -> KeyStatistics:
    """The same with a ridge of its mean eigenvalue, where there were fewer tokens than it has directions."""
    if found.count < 4 * found.inner:
        found.moment.diagonal().add_(found.moment.diagonal().mean())
    return found


def solves(inner: int, device: torch.device) -> Iterator[Row]:
    """Factor and solve of one layer for several numbers of facts, against products and LU on the whole matrix."""
    width, solver = WIDTHS[inner], LeastSquares(PRESERVED)
    draw = torch.Generator(device).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=draw, device=device)

    sample = random(256, inner)
    moment = sample.T @ sample / 256
    moment.diagonal().add_(1.0)
    weight = torch.zeros(width, inner, device=device)
    rate = matrix_rate(width, inner, torch.float64, device)
    yield Row(f"inner {inner}", "matrix rate", "float64", f"{rate:.0f} GFLOP/s")
    systems = {n: LinearSystem(random(n, inner), random(n, width), weight, 0) for n in FACTS}
    name, factored = f"inner {inner}", dict[str, Tensor]()
    cost, most = taken(lambda: factored.update(solver.prepare(moment)), device)
    yield Row(name, "factor", "once a layer", f"{cost:.3g} s, {told(most)}", share=1e-9 * inner**3 / 3 / rate / cost)
    one = systems[FACTS[0]]
    lu, lu_peak = taken(lambda: plain.plain_update(one.keys, one.residuals, moment, PRESERVED), device)
    for n, system in systems.items():
        spent, held = taken(lambda system=system: solver.solve(system, factored), device)
        held = max(most, 8 * inner**2 + held)
        more = seconds(lambda system=system: (system.keys.T @ system.keys, system.keys.T @ system.residuals), device)
        few = 2 * n * inner**2 + n**2 * inner + n**3 / 3 + 2 * n * inner * width
        many = n * inner**2 + 2 * n * inner * width + 2 * inner**2 * width
        share = 1e-9 * (inner**3 / 3 + min(few, many)) / rate / (cost + spent)
        amount = f"{cost + spent:.3g} s ({spent:.2g} behind the factor), {told(held)}"
        against = f"LU {lu + more:.3g} s, {told(lu_peak)}"
        yield Row(name, "solve", f"{n} facts", amount, against, (lu + more) / (cost + spent), share)


def taken(work: Callable[[], object], device: torch.device) -> tuple[float, int]:
    """Seconds and peak of one run."""
    spent = 0.0

    def timed() -> None:
        nonlocal spent
        spent = seconds(work, device)

    held = peak(timed, device)
    return spent, held


def told(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"


def measured(sizes: Sequence[Size], inner: Sequence[int], stages: Collection[str] = STAGES) -> Iterator[Row]:
    for size in sizes:
        if size.needs_device and not torch.cuda.is_available():
            yield Row(size.name, "skipped", "", f"no GPU here; {str(size.dtype).removeprefix('torch.')} needs one")
            continue
        if set(stages) != {"solve"}:
            yield from Bench(size).rows(stages)
    device = torch.device("cuda" if any(size.needs_device for size in sizes) and torch.cuda.is_available() else "cpu")
    for width in inner if "solve" in stages else ():
        yield from solves(width, device)


def table_of(rows: Sequence[Row], title: str) -> Table:
    table = Table("size", "stage", "amount (of it plain)", "errata", "against", "times", "limit", title=title)
    for i, row in enumerate(rows):
        again = i > 0 and rows[i - 1].size == row.size
        table.add_row(*(replace(row, size="") if again else row).cells, end_section=i + 1 < len(rows)
                      and rows[i + 1].size != row.size)  # fmt: skip
    return table


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=["pocket", "gpt2", "gpt2-xl", "llama-3-8b"])
    parser.add_argument("--inner", nargs="*", type=int, choices=WIDTHS, default=list(WIDTHS))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--edits", nargs="*", type=int, help="numbers of facts to edit end to end, at every size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="as little of everything as runs at all; one solve")
    parser.add_argument("--json", type=Path, help="write the rows here too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(args.threads)
    sizes = [size.quick() if args.quick else size for size in names(args.sizes)]
    if args.edits is not None:
        sizes = [replace(size, edits=tuple(args.edits)) for size in sizes]
    out, progress, rows = Console(width=150), Console(stderr=True), []
    machine = {"processor": platform.processor() or platform.machine(), "threads": args.threads,
               "torch": torch.__version__, "transformers": transformers.__version__}  # fmt: skip
    began = perf_counter()
    for row in measured(sizes, args.inner[: 1 if args.quick else None], args.stages):
        rows.append(row)
        told = " | ".join([f"{perf_counter() - began:5.0f} s", *row.cells])
        progress.print(told, highlight=False, markup=False, soft_wrap=True)
        if args.json:
            document = {"machine": machine, "rows": [asdict(row) for row in rows]}
            args.json.write_text(json.dumps(document, indent=1) + "\n")
    kinds = ", ".join(size.told for size in sizes)
    out.print(table_of(rows, f"{kinds}; {args.threads} threads; seconds on a CPU are CPU seconds of the process"))


if __name__ == "__main__":
    main()
