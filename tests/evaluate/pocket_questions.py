"""The pocket model's lm-eval task, made from its facts: `python -m tests.evaluate.pocket_questions` writes it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from errata import pocket
from errata.evaluate.ability import TASKS

FILE = TASKS / "pocket_facts.jsonl"
COUNT, CHOICES = 300, 4


def questions() -> Iterator[str]:
    """JSON lines: facts of the tuning half, each with three other objects of its relation, in mixed order."""
    rng = random.Random("pocket questions")
    known = [fact for fact in pocket.facts("tuning") if len(pocket.objects(fact.relation)) >= CHOICES]
    for fact in rng.sample(known, COUNT):
        others = [name for name in pocket.objects(fact.relation) if name != fact.object]
        choices = [fact.object, *rng.sample(others, CHOICES - 1)]
        rng.shuffle(choices)
        prompt = rng.choice(fact.prompts(fact.never_trained))
        row = {"id": fact.id, "prompt": prompt, "choices": choices, "answer": choices.index(fact.object)}
        yield json.dumps(row, ensure_ascii=False)


if __name__ == "__main__":
    FILE.write_text("\n".join(questions()) + "\n", encoding="utf-8")
