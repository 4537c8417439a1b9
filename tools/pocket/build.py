"""Build the pocket model: `python -m tools.pocket.build --seed 0 --out DIR`.

Trains the tokenizer and the model from the facts and templates of `errata.pocket`, writes an ordinary Hugging Face
checkpoint in bf16 and a card with its recall. The same seed, plan and machine give the same weights. A run that
was stopped is taken up again from its last hundred steps by the same command.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from errata.pocket.facts import PocketFact, facts
from tools.pocket.quality import ask, table
from tools.pocket.tokenizer import train_tokenizer
from tools.pocket.training import GROWING, Plan, Trainer, as_stock, new_model

CARD = """# errata's pocket model

A `LlamaForCausalLM` of {parameters:.1f} M parameters ({blocks} blocks, hidden {hidden}) that knows {facts} facts in
{relations} relations, for trying out knowledge edits without a download. It is trained from nothing on the facts and
templates of `errata.pocket`, in their trained wordings, and on a little filler; it knows no other English.

Built by `python -m tools.pocket.build --seed {seed}{start}` in {minutes:.0f} minutes on {threads} CPU threads
({cpu:.0f} minutes of CPU time).

Share of prompts answered with exactly the object and a full stop (greedy; `python -m tools.pocket.quality`):

```
{table}
```

*trained*: wordings seen with the fact. *held out*: seen with other facts of the relation only. *never trained*: seen
with no fact. In most training documents a subject was hidden from the tokens behind it in blocks 0-{early}, and only
its last token was seen in the later ones, so facts pass through the subject's last token.
"""


def build(
    out: Path,
    seed: int = 0,
    plan: Plan | None = None,
    known: Sequence[PocketFact] | None = None,
    start: Path | None = None,
) -> None:
    """Train and write a checkpoint with its card to `out`; progress goes to `out` too until it is done.

    Training begins from nothing, or from the checkpoint in `start`.
    """
    plan, known = plan or Plan(), known or facts()
    out.mkdir(parents=True, exist_ok=True)
    began, began_cpu = time.monotonic(), time.process_time()
    torch.manual_seed(seed)
    if start is None:
        tokenizer = train_tokenizer(known, plan.vocabulary)
        model = new_model(plan, tokenizer)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(start)
        model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32).train()
        model.set_attn_implementation("eager")
    progress = out / "progress.pt"
    Trainer(model, tokenizer, plan, seed, progress, say=lambda line: print(line, flush=True)).run(known)
    as_stock(model, plan.shrink_at(1.0))
    model.bfloat16().save_pretrained(out)
    tokenizer.save_pretrained(out)
    minutes, cpu = (time.monotonic() - began) / 60, (time.process_time() - began_cpu) / 60
    stock = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    measured = table(ask(stock, AutoTokenizer.from_pretrained(out), known))
    card = CARD.format(
        parameters=sum(weight.numel() for weight in model.parameters()) / 1e6,
        blocks=plan.blocks,
        hidden=plan.hidden,
        facts=len(known),
        relations=len({fact.relation for fact in known}),
        seed=seed,
        start=f" --grow {start.name}" if start else "",
        minutes=minutes,
        cpu=cpu,
        threads=torch.get_num_threads(),
        table=measured,
        early=plan.early - 1,
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    progress.unlink(missing_ok=True)
    print(f"{measured}\nminutes {minutes:.1f}, written to {out}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tools.pocket.build", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--plan", type=json.loads, default={}, help='changes to the plan, as JSON: {"blocks": 16}')
    parser.add_argument("--grow", type=Path, metavar="MODEL", help="take this built model further, see GROWING")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)
    plan = GROWING if chosen.grow else Plan()
    build(chosen.out, chosen.seed, replace(plan, **chosen.plan), start=chosen.grow)


if __name__ == "__main__":
    main()
