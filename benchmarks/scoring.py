"""How fast records are scored: errata against the plain loop, one record at a time, and whether both agree.

    python -m benchmarks.scoring [--models pocket gpt2] [--cases counterfact.json] [--json result.json]

An edited model (noise in one matrix) is given the paper's scores: success and accuracy of the fact, its paraphrases
and its neighbourhood, teacher-forced, and the shift of the neighbourhood's next-token distributions from the
unedited model's. The plain loop does so twice over: with one forward pass a record, as the published evaluators
do, and with one a prompt. It shares no line with errata. CPU seconds are those of the process; on shared cores
they still grow when others compute, so compare ratios.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import exp
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.anchors import SHAPES, Cost, decoder_for, timed
from errata import pocket
from errata.dataset import read_cases
from errata.decoder.decoder import Decoder
from errata.delta import WeightDelta
from errata.evaluate import Case, Scores, evaluate, probes
from errata.fact import Fact
from errata.pocket.cases import cases as pocket_cases

FAMILIES = ("belief", "neighbourhood", "specificity")
Row = dict[str, float]


@dataclass(frozen=True)
class Plain:
    """The published evaluation, as it is written. `rows` is how many rows run together; None: a record's."""

    model: Any
    tokenizer: Any
    rows: int | None

    def logits(self, rows: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """All logits [token, vocabulary] of each row, padded on the right to the longest beside it."""
        size = self.rows or len(rows)
        for start in range(0, len(rows), size):
            group = rows[start : start + size]
            length = max(map(len, group))
            ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in group])
            with torch.no_grad():
                yield from self.model(input_ids=ids, use_cache=False).logits

    def read(self, prompts: Sequence[str], answers: Sequence[str]) -> list[tuple[float, list[bool]]]:
        """NLL a token and hits of each answer after each prompt, prompts outermost (evaluation 1)."""
        fronts = {prompt: self.tokenizer(prompt)["input_ids"] for prompt in prompts}
        ends = {answer: self.tokenizer(" " + answer, add_special_tokens=False)["input_ids"] for answer in answers}
        pairs = [(fronts[prompt], ends[answer]) for prompt in prompts for answer in answers]
        found = []
        for (front, end), logits in zip(pairs, self.logits([a + b for a, b in pairs]), strict=True):
            table = logits.log_softmax(-1)[len(front) - 1 : len(front) - 1 + len(end)]
            target = torch.tensor(end)
            nll = -table.gather(1, target[:, None]).mean().item()
            found.append((nll, (table.argmax(-1) == target).tolist()))
        return found

    def after(self, prompts: Sequence[str]) -> list[Tensor]:
        """Logits after the last token of each prompt."""
        rows = [self.tokenizer(prompt)["input_ids"] for prompt in prompts]
        return [logits[len(row) - 1] for row, logits in zip(rows, self.logits(rows), strict=True)]

    def score(self, case: Case, unedited: Sequence[Tensor]) -> Row:
        """Evaluation 1.1, 1.2, 1.4 and 2 for one record."""
        new, true, found = case.fact.target_new, case.target_true, {}
        asked = {"efficacy": [case.fact.text], "generalisation": list(case.paraphrases), "novel": list(case.novel)}
        if not true:
            asked["generalisation"] = asked["generalisation"][:1]
        answers = [new, true] if true else [new]
        near = [] if case.neighbourhood_answers else list(case.neighbourhood)
        every = [prompt for prompts in asked.values() for prompt in prompts] + (near if true else [])
        readings = self.read(every, answers)
        it = iter(readings)
        for kind, prompts in [*asked.items(), ("neighbourhood", near if true else [])]:
            got = [[next(it) for _ in answers] for _ in prompts]
            if got:
                found |= self.judged(kind, got if kind != "neighbourhood" else [pair[::-1] for pair in got])
        if case.neighbourhood_answers and case.neighbourhood_answers[0]:
            got = [self.read(case.neighbourhood[:1], case.neighbourhood_answers[:1])]
            found |= self.judged("neighbourhood", got)
        return found | self.shift(unedited, self.after(case.neighbourhood))

    @staticmethod
    def judged(kind: str, got: Sequence[Sequence[tuple[float, list[bool]]]]) -> Row:
        """Success, accuracy and difference from the wanted answer's reading and, for MCF, the other's."""
        wanted = [each[0] for each in got]
        row = {f"{kind}_accuracy": fmean(all(hits) for _, hits in wanted)}
        if len(got[0]) == 1:
            return row | {f"{kind}_success": fmean(fmean(hits) for _, hits in wanted)}
        row[f"{kind}_success"] = fmean(one[0] < other[0] for one, other in got)
        return row | {f"{kind}_diff": fmean(exp(-one[0]) - exp(-other[0]) for one, other in got)}

    @staticmethod
    def shift(before: Sequence[Tensor], after: Sequence[Tensor]) -> Row:
        """D_KL, its symmetric kin, entropy and overlaps of the next token's distribution, mean over prompts."""
        rows = []
        for one, other in zip(before, after, strict=True):
            log_p, log_q = one.double().log_softmax(-1), other.double().log_softmax(-1)
            p, q = log_p.exp(), log_q.exp()
            log_m = ((p + q) / 2).log()
            row = {
                "specificity_kl": (p * (log_p - log_q)).sum().item(),
                "specificity_js": (p * (log_p - log_m) + q * (log_q - log_m)).sum().item() / 2,
                "specificity_entropy": -(p * log_p).sum().item(),
            }
            for k in (1, 5, 10):
                same = {*one.topk(k).indices.tolist()} & {*other.topk(k).indices.tolist()}
                row[f"specificity_top{k}"] = len(same) / k
            rows.append(row)
        return {name: fmean(row[name] for row in rows) for name in rows[0]} if rows else {}


@dataclass(frozen=True)
class Result:
    """One model: what a record costs each way, and the largest difference of any score of any record."""

    model: str
    records: int
    plain_records: int
    errata: Cost
    by_record: Cost
    by_prompt: Cost
    difference: float


def plainly(decoder: Decoder, cases: Sequence[Case], rows: int | None) -> list[Row]:
    """The unedited model's distributions first, kept, as the published scripts do; then record by record."""
    plain = Plain(decoder.model, decoder.tokenizer, rows)
    with decoder.unedited():
        kept = [[logits.clone() for logits in plain.after(case.neighbourhood)] for case in cases]
    return [plain.score(case, before) for case, before in zip(cases, kept, strict=True)]


def difference(scores: Scores, plain: Sequence[Row]) -> float:
    """The largest of any score of any record; infinity if a record has a score on one side only."""
    largest = 0.0
    for name in {name for row in plain for name in row} | set(scores):
        for ours, row in zip(scores[name].per_case, plain, strict=False):
            if (ours is None) != (name not in row):
                return float("inf")
            if ours is not None:
                largest = max(largest, abs(ours - row[name]))
    return largest


def opened(name: str, cases: Sequence[Case]) -> Decoder:
    """The pocket model, or a published shape with random weights and a tokenizer for these cases."""
    if name == "pocket":
        return Decoder.from_pretrained(pocket.path(), dtype=torch.float32)
    texts = [
        Fact("{}", prompt, case.fact.target_new)
        for case in cases
        for prompt in (case.fact.text, *case.paraphrases, *case.neighbourhood)
    ]
    return decoder_for(SHAPES[name], 12, texts, torch.float32)


def edit(decoder: Decoder, layer: int = 5) -> None:
    """Noise of a tenth of the matrix's own size."""
    weight = decoder.weight(layer)
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    change = noise * float(0.1 * weight.norm() / noise.norm())
    decoder.put_on(WeightDelta(decoder.fingerprint, {decoder.parameter_name(layer): change}))


def measure(name: str, cases: Sequence[Case], plain_records: int, at_once: int | None) -> Result:
    few = cases[:plain_records]
    for warm in (True, False):  # the first pass of a process is slow; the second model keeps no distributions yet
        decoder = opened(name, cases)
        edit(decoder)
        if at_once:
            decoder.budget = at_once
        if warm:
            evaluate(decoder, few[:2], probes(*FAMILIES))
    found: dict[str, Any] = {}
    errata = timed(lambda: found.update(errata=evaluate(decoder, cases, probes(*FAMILIES))))
    by_record = timed(lambda: found.update(record=plainly(decoder, few, None)))
    by_prompt = timed(lambda: found.update(prompt=plainly(decoder, few, 1)))
    apart = max(difference(found["errata"], found[way]) for way in ("record", "prompt"))
    n = len(few)
    return Result(name, len(cases), n, errata.per(len(cases)), by_record.per(n), by_prompt.per(n), apart)


def table_of(results: Sequence[Result]) -> Table:
    table = Table("", *(result.model for result in results), title="scoring")
    lines = {
        "records (plain loop)": lambda r: f"{r.records} ({r.plain_records})",
        "errata, records a CPU second": lambda r: f"{1 / r.errata.cpu:.1f}",
        "one record a pass": lambda r: f"{1 / r.by_record.cpu:.2f}",
        "one prompt a pass": lambda r: f"{1 / r.by_prompt.cpu:.2f}",
        "times faster than a record a pass": lambda r: f"{r.by_record.cpu / r.errata.cpu:.1f}",
        "times faster than a prompt a pass": lambda r: f"{r.by_prompt.cpu / r.errata.cpu:.1f}",
        "the same by the clock": lambda r: (
            f"{r.by_record.wall / r.errata.wall:.1f}, {r.by_prompt.wall / r.errata.wall:.1f}"
        ),
        "largest difference of a score": lambda r: f"{r.difference:.0e}",
    }
    for label, show in lines.items():
        table.add_row(label, *map(show, results))
    return table


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--models", nargs="+", choices=["pocket", *SHAPES], default=["pocket", "gpt2"])
    parser.add_argument("--cases", type=Path, help="a benchmark file errata can read; none: the pocket model's cases")
    parser.add_argument("--records", type=int, default=300)
    parser.add_argument("--plain-records", type=int, default=20, help="how many of them the plain loop does")
    parser.add_argument("--at-once", type=int, help="tokens in a pass of errata's; none: its own choice")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(args.threads)
    cases = read_cases(args.cases, limit=args.records) if args.cases else pocket_cases(args.records)
    cases = [replace(case, far=()) for case in cases]
    results = []
    for name in args.models:
        results.append(measure(name, cases, args.plain_records, args.at_once))
        Console().print(table_of(results[-1:]))
    if args.json:
        machine = {
            "processor": platform.processor() or platform.machine(),
            "threads": args.threads,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        args.json.write_text(json.dumps({"machine": machine, "results": [asdict(r) for r in results]}, indent=1) + "\n")
    if len(results) > 1:
        Console().print(table_of(results))


if __name__ == "__main__":
    main()
