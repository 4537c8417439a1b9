"""The pocket model's counterfactual records as cases for editing and scoring."""

from __future__ import annotations

from errata.dataset import Case
from errata.fact import Fact
from errata.pocket.counterfactuals import counterfactual
from errata.pocket.facts import Split


def cases(n: int, seed: int = 0, split: Split | None = "report") -> list[Case]:
    """`n` counterfactual cases over different subjects. Raises ValueError if there are not that many."""
    return [
        Case(
            fact=Fact(record.prompt, record.subject, record.target_new, join=" "),
            id=record.fact.id,
            target_true=record.target_true,
            paraphrases=record.paraphrase_prompts,
            novel=record.novel_prompts,
            neighbourhood=record.neighborhood_prompts,
            far=record.far_prompts,
        )
        for record in counterfactual(n, seed, split)
    ]
