"""The sizes that benchmarks are run at: the pocket model, and published shapes with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from benchmarks.anchors import CONTEXTS, SHAPES, Shape, made_up_facts, tokenizer_for
from errata import pocket
from errata.decoder.decoder import Decoder
from errata.decoder.site import Contexts
from errata.evaluate import Case
from errata.fact import Fact
from errata.pocket.cases import cases as pocket_cases


@dataclass(frozen=True)
class Size:
    """A shape, how many of its blocks are built, and how much of each stage is run."""

    name: str
    shape: Shape | None
    blocks: int
    published: int
    inner: int
    width: int
    window: tuple[int, ...] = (3, 4, 5, 6, 7)
    facts: int = 12
    plain_facts: int = 1
    evaluations: int = 20
    keyed: int = 24
    plain_keyed: int = 2
    tokens: int = 3000
    records: int = 12
    plain_records: int = 2
    edits: tuple[int, ...] = (1, 10)
    dtype: torch.dtype = torch.float32
    needs_device: bool = False

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if self.needs_device else "cpu")

    @property
    def told(self) -> str:
        part = "" if self.blocks == self.published else f", {self.blocks} of {self.published} blocks"
        return f"{self.name} ({str(self.dtype).removeprefix('torch.')}{part})"

    def quick(self) -> Size:
        """The least that still runs every stage."""
        few = {"facts": 2, "plain_facts": 1, "evaluations": 3, "keyed": 4, "plain_keyed": 1, "tokens": 400}
        return replace(self, **few, records=3, plain_records=1, edits=(1, 2))  # type: ignore[arg-type]

    def made_up(self, n: int) -> list[Fact]:
        """Facts to edit: the pocket model's own, or made-up ones of CounterFact's form."""
        return [case.fact for case in pocket_cases(n)] if self.shape is None else made_up_facts(n)

    def decoder(self) -> Decoder:
        """The model, the same one every time."""
        if self.shape is None:
            found = Decoder.from_pretrained(pocket.path(), dtype=self.dtype)
            found.name = "pocket"
            return found
        config = AutoConfig.for_model(
            self.shape.model_type, **self.shape.sizes, **{self.shape.depth: self.blocks}, bos_token_id=0, eos_token_id=0
        )
        with torch.random.fork_rng(devices=[]), torch.device(self.device):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config, dtype=self.dtype)
        read = [*made_up_facts(400), *_read(pocket_cases(self.records))]
        return Decoder(model, tokenizer_for(read, self.shape.bos), name=self.name)

    def texts(self, tokens: int) -> list[str]:
        """Text for key statistics, of at least so many tokens."""
        if self.shape is None:
            return list(pocket.corpus())
        sentences = [f"{fact.text} {fact.target_new}." for fact in made_up_facts(max(400, tokens // 4))]
        return [" ".join(sentences[i : i + 8]) for i in range(0, len(sentences), 8)]


def contexts() -> Contexts:
    return Contexts(CONTEXTS)


def _read(cases: Sequence[Case]) -> list[Fact]:
    """Every prompt of the cases, for a tokenizer to learn from."""
    prompts = [(case, (case.fact.text, *case.paraphrases, *case.neighbourhood)) for case in cases]
    return [Fact("{}", prompt, case.fact.target_new) for case, group in prompts for prompt in group]


def _llama(width: int, inner: int, heads: int, groups: int, vocabulary: int) -> Shape:
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_attention_heads": heads}
    sizes |= {"num_key_value_heads": groups, "vocab_size": vocabulary, "max_position_embeddings": 8192}
    return Shape("llama", "num_hidden_layers", True, sizes)


_XL = Shape("gpt2", "n_layer", False, {"n_embd": 1600, "n_head": 25, "n_inner": 6400, "vocab_size": 50257})
SIZES = {
    size.name: size
    for size in (
        Size("pocket", None, 12, 12, 768, 192, keyed=100, tokens=20000, records=100, plain_records=5,
             facts=32, plain_facts=2, edits=(1, 10, 100, 1000)),
        Size("gpt2", SHAPES["gpt2"], 12, 12, 3072, 768, facts=8, evaluations=10, tokens=3000, records=8, edits=(1, 10)),
        Size("gpt2-xl", _XL, 12, 48, 6400, 1600, facts=4, evaluations=4, keyed=6, plain_keyed=1, tokens=800,
             records=2, plain_records=1, edits=(1, 2)),
        Size("llama-wide", _llama(2048, 8192, 32, 8, 32000), 4, 16, 8192, 2048, window=(1, 2)),
        Size("llama-3-8b", _llama(4096, 14336, 32, 8, 128256), 32, 32, 14336, 4096, window=(4, 5, 6, 7, 8), facts=64,
             keyed=1000, tokens=50000, records=100, edits=(1, 10, 100, 1000), dtype=torch.bfloat16, needs_device=True),
    )
}  # fmt: skip
WIDTHS = {3072: 768, 6400: 1600, 14336: 4096}
"""Inner width -> model width of GPT-2 small, GPT2-XL and Llama-3-8B."""


def names(which: Sequence[str]) -> list[Size]:
    return [SIZES[name] for name in which]
