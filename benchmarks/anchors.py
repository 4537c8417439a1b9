"""How fast anchors are optimised: errata against the plain loop of the papers, and against the machine.

    python -m benchmarks.anchors [--shapes gpt2 llama qwen3] [--facts counterfact.json] [--json result.json]

Models have random weights in published shapes, cut to a few blocks: the cost of an anchor does not depend on what
a model knows. No fact stops early, so every one takes all its evaluations. CPU seconds are those of the process;
on shared cores they still grow when others compute, so compare ratios, and run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from benchmarks import plain
from errata.dataset import read_cases
from errata.decoder.decoder import Decoder
from errata.decoder.site import Contexts
from errata.fact import Fact
from errata.targets.anchor import AnchorSettings, optimise_anchors, rows_of

BOS = "<|begin|>"
CONTEXTS = (
    ("{}",),
    (
        "The first of these was the one that came later. {}",
        "Therefore it is not known what they did in those. {}",
        "Because of the war there was no one to help. {}",
        "I do not think that we should go there again. {}",
        "You can see the old house from the road here. {}",
    ),
)
"""Of the length that models generate: ten tokens and a full stop (method 1.3)."""


@dataclass(frozen=True)
class Shape:
    """A model type and the sizes of a published model; depth comes from the command line."""

    model_type: str
    depth: str
    bos: bool
    sizes: dict[str, Any]


def _like_llama(width: int, inner: int, heads: int, groups: int, vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "vocab_size": vocabulary,
        "max_position_embeddings": 1024,
        **more,
    }


SHAPES = {
    "gpt2": Shape("gpt2", "n_layer", False, {"n_embd": 768, "n_head": 12, "n_inner": 3072, "vocab_size": 50257}),
    "llama": Shape("llama", "num_hidden_layers", True, _like_llama(768, 2048, 12, 4, 32000)),
    "qwen2": Shape(
        "qwen2", "num_hidden_layers", False, _like_llama(896, 4864, 14, 2, 151936, tie_word_embeddings=True)
    ),
    "qwen3": Shape(
        "qwen3",
        "num_hidden_layers",
        False,
        _like_llama(1024, 3072, 16, 8, 151936, head_dim=128, tie_word_embeddings=True),
    ),
}


@dataclass(frozen=True)
class Cost:
    """What something took: seconds of the process on all cores, and by the clock."""

    cpu: float
    wall: float

    def per(self, n: int) -> Cost:
        return Cost(self.cpu / n, self.wall / n)


@dataclass(frozen=True)
class Result:
    """One shape: cost per fact of the plain loop and of errata, and what errata's could be at best."""

    shape: str
    blocks: int
    layer: int
    facts: int
    plain_facts: int
    tokens_per_row: float
    tail_tokens_per_fact: float
    plain: Cost
    errata: Cost
    gflop_per_fact: float
    gflop_per_cpu_second: float
    check_facts: int
    difference: float

    @property
    def ratio(self) -> float:
        """CPU seconds of the plain loop for one of errata's."""
        return self.plain.cpu / self.errata.cpu

    @property
    def share(self) -> float:
        """Of errata's CPU seconds, those that its arithmetic takes at the machine's matrix rate."""
        return self.gflop_per_fact / self.gflop_per_cpu_second / self.errata.cpu


def made_up_facts(n: int) -> list[Fact]:
    """Facts of CounterFact's form about people and places that do not exist: four in five begin with the subject."""
    draw = random.Random(0)
    syllables = ("mar", "del", "fon", "tis", "ran", "vel", "osk", "lin", "bra", "hul", "ne", "so")
    languages, lands = ("English", "French", "Russian", "Dutch"), ("Finland", "Japan", "Canada", "Spain")
    prompts = (
        ("{}, a citizen of", lands),
        ("{} spoke the language", languages),
        ("{} is located in", lands),
        ("{} was originally aired on", ("CBS", "NBC", "BBC")),
        ("The mother tongue of {} is", languages),
    )
    facts = []
    for i in range(n):
        names = ["".join(draw.choices(syllables, k=draw.choice((2, 3)))).capitalize() for _ in range(2)]
        prompt, answers = prompts[i % len(prompts)]
        facts.append(Fact(prompt, " ".join(names), draw.choice(answers)))
    return facts


def tokenizer_for(facts: Sequence[Fact], bos: bool) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the facts, so that prompts have about as many tokens as under a real one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [f"{fact.text} {fact.target_new}" for fact in facts]
    texts += [template.replace("{}", "One is a") for group in CONTEXTS for template in group] * 20
    tokenizer.train_from_iterator(texts, trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS if bos else None)


def decoder_for(shape: Shape, blocks: int, facts: Sequence[Fact], dtype: torch.dtype) -> Decoder:
    """A model of this shape with random weights, the same ones every time."""
    config = AutoConfig.for_model(
        shape.model_type, **shape.sizes, **{shape.depth: blocks}, bos_token_id=0, eos_token_id=0
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return Decoder(model.to(dtype), tokenizer_for(facts, shape.bos))


def by_errata(
    decoder: Decoder, facts: Sequence[Fact], layer: int, evaluations: int, at_once: int | None = None
) -> Tensor:
    """errata's anchors [fact, model]; no fact stops early."""
    site = decoder.tokens.site(facts, Contexts(CONTEXTS))
    settings = AnchorSettings(steps=evaluations, stop_loss=-math.inf)
    found = dict(optimise_anchors(decoder, site, layer, settings, at_once=at_once))
    return torch.stack([found[i].state for i in range(len(facts))])


def by_the_book(decoder: Decoder, facts: Sequence[Fact], layer: int, evaluations: int) -> Tensor:
    """The plain loop's anchors [fact, model], with the same settings."""
    same = AnchorSettings()
    lm = plain.PlainModel(decoder.model, decoder.tokenizer, decoder.layout.blocks, decoder.layout.down_projection)
    settings = plain.AnchorSettings(
        lr=same.learning_rate,
        evaluations=evaluations,
        weight_decay=same.weight_decay,
        clamp=same.clamp,
        kl_factor=same.kl_factor,
        stop_below=-math.inf,
    )
    return plain.plain_anchors(lm, facts, CONTEXTS, layer, settings).z


def timed(work: Callable[[], object]) -> Cost:
    """What one run of `work` takes."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return Cost(time.process_time() - cpu, time.perf_counter() - wall)


def matrix_rate(width: int, inner: int, seconds: float = 1.0) -> float:
    """GFLOP per CPU second of a float32 product [512, width] x [width, inner], the best of three tries."""
    left, right = torch.randn(512, width), torch.randn(width, inner)
    once = timed(lambda: torch.mm(left, right)).wall
    n = max(3, int(seconds / once))
    costs = [timed(lambda: [torch.mm(left, right) for _ in range(n)]) for _ in range(3)]
    return 2e-9 * 512 * width * inner * n / min(cost.cpu for cost in costs)


def gflop(decoder: Decoder, facts: Sequence[Fact], layer: int, evaluations: int, at_once: int | None) -> float:
    """Matrix arithmetic of errata's anchors: counted for one and for two evaluations, and carried on from there."""

    def count(steps: int) -> float:
        with FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter:
            by_errata(decoder, facts, layer, steps, at_once)
        return counter.get_total_flops() * 1e-9

    one, two = count(2), count(3)
    return one + (evaluations - 2) * (two - one)


def _attention_forward(query: Any, key: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    batch, heads, rows, size = query
    return int(4 * batch * heads * rows * key[2] * size)


def _attention_backward(_: Any, query: Any, key: Any, *__: Any, out_shape: Any = None, **___: Any) -> int:
    return _attention_forward(query, key) * 5 // 2


_ATTENTION = {  # torch counts the attention of accelerators only
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def measure(name: str, facts: Sequence[Fact], known: Sequence[Fact], args: argparse.Namespace) -> Result:
    """Everything about one shape. `known`: the texts that the tokenizer is trained on."""
    shape = SHAPES[name]
    decoder = decoder_for(shape, args.blocks, known, torch.float32)
    rows = [row for place in decoder.tokens.site(facts, Contexts(CONTEXTS)) for row in rows_of(place, AnchorSettings())]
    per_fact = len(rows) // len(facts)
    long = sorted(range(len(facts)), key=lambda i: sum(len(r.ids) for r in rows[i * per_fact :][:per_fact]))
    spread = [facts[long[(2 * k + 1) * len(facts) // (2 * args.plain_facts)]] for k in range(args.plain_facts)]

    by_errata(decoder, facts[:1], args.layer, 2)  # the first pass of a process pays for more than itself
    errata_cost = timed(lambda: by_errata(decoder, facts, args.layer, args.evaluations, args.at_once))
    plain_cost = timed(lambda: by_the_book(decoder, spread, args.layer, args.evaluations))
    done = gflop(decoder, facts, args.layer, args.evaluations, args.at_once)
    rate = matrix_rate(decoder.width, decoder.inner(0))
    del decoder

    exact = decoder_for(shape, args.check_blocks, known, torch.float64)
    check = (exact, facts[: args.check_facts], 1, 6)
    expected = by_the_book(*check)
    difference = ((by_errata(*check) - expected).norm(dim=-1) / expected.norm(dim=-1)).max()
    return Result(
        shape=name,
        blocks=args.blocks,
        layer=args.layer,
        facts=len(facts),
        plain_facts=len(spread),
        tokens_per_row=sum(len(row.ids) for row in rows) / len(rows),
        tail_tokens_per_fact=sum(len(row.cut) - row.decisive for row in rows) / len(facts),
        plain=plain_cost.per(len(spread)),
        errata=errata_cost.per(len(facts)),
        gflop_per_fact=done / len(facts),
        gflop_per_cpu_second=rate,
        check_facts=args.check_facts,
        difference=float(difference),
    )


def table_of(results: Sequence[Result], title: str) -> Table:
    """A column for each shape."""
    table = Table(title=title)
    table.add_column("")
    for r in results:
        table.add_column(r.shape, justify="right")
    lines: dict[str, Callable[[Result], str]] = {
        "block": lambda r: f"{r.layer} of {r.blocks}",
        "tokens a row": lambda r: f"{r.tokens_per_row:.1f}",
        "tail tokens a fact": lambda r: f"{r.tail_tokens_per_fact:.1f}",
        "plain loop, CPU s a fact": lambda r: f"{r.plain.cpu:.2f}",
        "errata, CPU s a fact": lambda r: f"{r.errata.cpu:.2f}",
        "errata, s a fact by the clock": lambda r: f"{r.errata.wall:.2f}",
        "errata, facts a CPU s": lambda r: f"{1 / r.errata.cpu:.2f}",
        "times faster": lambda r: f"{r.ratio:.1f}",
        "GFLOP a fact": lambda r: f"{r.gflop_per_fact:.0f}",
        "machine's GFLOP a CPU s": lambda r: f"{r.gflop_per_cpu_second:.0f}",
        "share of that limit": lambda r: f"{r.share:.0%}",
        "relative difference, float64": lambda r: f"{r.difference:.0e}",
    }
    for label, show in lines.items():
        table.add_row(label, *map(show, results))
    return table


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.anchors", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["gpt2", "llama", "qwen3"])
    parser.add_argument("--facts", type=Path, help="a benchmark file errata can read; none: made-up facts")
    parser.add_argument("--n-facts", type=int, default=16)
    parser.add_argument("--plain-facts", type=int, default=3, help="how many of them the plain loop does")
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--layer", type=int, default=3, help="the block whose output is the anchor")
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--at-once", type=int, help="facts side by side in errata; none: its own choice")
    parser.add_argument("--check-blocks", type=int, default=4, help="depth of the float64 comparison")
    parser.add_argument("--check-facts", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(args.threads)
    known = [case.fact for case in read_cases(args.facts)] if args.facts else made_up_facts(400)
    facts = known[: args.n_facts]
    results = []
    console = Console()
    for name in args.shapes:
        results.append(measure(name, facts, known, args))
        console.print(table_of(results[-1:], f"{args.evaluations} evaluations, {args.threads} threads"))
    if args.json:
        machine = {
            "processor": platform.processor() or platform.machine(),
            "threads": args.threads,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
        rows = [asdict(r) | {"ratio": r.ratio, "share": r.share} for r in results]
        document = {"machine": machine, "settings": settings, "results": rows}
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    if len(results) > 1:
        console.print(table_of(results, "all shapes"))


if __name__ == "__main__":
    main()
