"""Does the pocket model know its facts? `python -m tools.pocket.quality [--by relation]`.

Recall: greedy decoding after the bare prompt gives exactly the object's tokens and the full stop behind them.
Only stock transformers classes are used.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from errata.pocket.facts import PocketFact, facts

POOLS = ("trained", "held_out", "never_trained")


@dataclass(frozen=True)
class Answer:
    """Whether the model recalled a fact when asked in one wording."""

    fact: PocketFact
    pool: str
    right: bool


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[PocketFact],
    pools: Sequence[str] = POOLS,
    batch: int = 512,
) -> list[Answer]:
    """Ask every fact in every wording of the pools.

    Greedy decoding gives the expected tokens if and only if each is the most likely one after those before it,
    so one forward pass over prompt and object answers (no generation).
    """
    questions = [
        (fact, pool, prompt) for fact in asked for pool in pools for prompt in fact.prompts(getattr(fact, pool))
    ]
    texts = tokenizer([f"{prompt} {fact.object}." for fact, _, prompt in questions])["input_ids"]
    starts = [len(ids) for ids in tokenizer([prompt for _, _, prompt in questions])["input_ids"]]
    right = [False] * len(questions)
    for rows in _alike(texts, batch):
        for row, verdict in zip(rows, _recalled(model, texts, starts, rows), strict=True):
            right[row] = verdict
    return [Answer(fact, pool, verdict) for (fact, pool, _), verdict in zip(questions, right, strict=True)]


def _alike(texts: Sequence[Sequence[int]], batch: int) -> Iterator[list[int]]:
    """Rows of one length at a time: no padding."""
    lengths = defaultdict(list)
    for row, ids in enumerate(texts):
        lengths[len(ids)].append(row)
    for rows in lengths.values():
        for first in range(0, len(rows), batch):
            yield rows[first : first + batch]


@torch.inference_mode()
def _recalled(
    model: PreTrainedModel, texts: Sequence[Sequence[int]], starts: Sequence[int], rows: Sequence[int]
) -> list[bool]:
    ids = torch.tensor([texts[row] for row in rows])
    first = min(starts[row] for row in rows)
    logits = model(input_ids=ids, logits_to_keep=ids.shape[1] - first + 1).logits
    hit = logits[:, :-1].argmax(-1) == ids[:, first:]
    return [bool(hit[place, starts[row] - first :].all()) for place, row in enumerate(rows)]


def recall(answers: Sequence[Answer]) -> dict[str, float]:
    """Share of right answers in each pool."""
    return {
        pool: sum(answer.right for answer in answers if answer.pool == pool)
        / max(1, sum(answer.pool == pool for answer in answers))
        for pool in dict.fromkeys(answer.pool for answer in answers)
    }


def table(answers: Sequence[Answer], by_relation: bool = False) -> str:
    """Recall as lines of text, one per relation if asked for and one for all."""
    groups: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers if by_relation else []:
        groups[answer.fact.relation].append(answer)
    groups["all"] = list(answers)
    lines = [f"{'':18} {'facts':>6} {'trained':>9} {'held out':>9} {'never trained':>14}"]
    for name, group in groups.items():
        share = recall(group)
        count = len({answer.fact.id for answer in group})
        lines.append(
            f"{name:18} {count:6} {share['trained']:9.4f} {share['held_out']:9.4f} {share['never_trained']:14.4f}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    from errata import pocket

    parser = argparse.ArgumentParser(prog="python -m tools.pocket.quality", description=__doc__)
    parser.add_argument("--model", type=Path, default=pocket.path(), help="folder of the checkpoint")
    parser.add_argument("--by", choices=["relation"], help="a line per relation")
    parser.add_argument("--limit", type=int, help="ask only about this many facts, evenly spread")
    chosen = parser.parse_args(arguments)
    model = AutoModelForCausalLM.from_pretrained(chosen.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(chosen.model)
    asked = facts()
    if chosen.limit:
        asked = asked[:: max(1, len(asked) // chosen.limit)][: chosen.limit]
    print(table(ask(model, tokenizer, asked), by_relation=chosen.by == "relation"))


if __name__ == "__main__":
    main()
