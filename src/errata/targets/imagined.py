"""Imagined: anchors held to what the model says in its middle and at its end when told the fact (LTI, method 2.13)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from errata.decoder.decoder import Decoder
from errata.decoder.site import FactSite, Site
from errata.decoder.tails import Row
from errata.form import joined
from errata.targets.search import (
    AnchorSettings,
    Asked,
    Logits,
    Objective,
    PerFact,
    divergence,
    rewriting,
    shared_out,
)

TOLD = "Imagine that {}\n"
"""What stands before a prompt that has been told its fact."""


@dataclass(frozen=True)
class Imagined(Objective):
    """nll_factor NLL + output_factor KL(now || told) + middle_factor KL(now || told at block `middle`).

    The outputs are the next-token distributions where the target is predicted, and at the end of "{subject} is a";
    at `middle` they are read off the block at every row's decisive token, through final norm and head. "Told" is
    the model as it is when anchors are sought, reading the fact before each prompt; the essence prompt is told
    nothing. Positions are those of the prefixed prompts, which published code takes from the others (method 2.13).

    After the FE repository's reading of LTI, with positions recomputed.

    middle: None is the block just below the middle of the model (15 of 32, as published). Of the published choices
    of position this is `subject`.
    """

    middle: int | None = None
    nll_factor: float = 1.0
    output_factor: float = 0.0625
    middle_factor: float = 0.0425

    def rows(self, place: FactSite, settings: AnchorSettings) -> list[Row]:
        """Every context with the target, then the essence prompt; wanted at the decisive token too."""
        essence = Row(place.essence.ids, place.essence.decisive, (len(place.essence.ids) - 1,))
        # Once where both are the same: the head of a row is narrowed to distinct positions.
        return [replace(r, wanted=tuple(sorted({r.decisive, *r.wanted}))) for r in (*rewriting(place), essence)]

    def lens(self, decoder: Decoder, layer: int, settings: AnchorSettings) -> int | None:
        return max(layer, (decoder.depth - 1) // 2 if self.middle is None else self.middle)

    def reference(
        self, decoder: Decoder, site: Site, asked: Asked, lens: int | None, read: Logits, own: Logits
    ) -> Float[Tensor, "place vocabulary"]:
        """Row by row at the middle, then the outputs in the order of `_places`."""
        assert lens is not None
        (fact,), target = site.facts, asked.place.target
        join = fact.join if fact.chat is None else " "
        prefix = TOLD.replace("{}", "".join(joined(fact.text, fact.target_new, join)), 1)
        prompts = [template.replace("{}", fact.prompt, 1) for template in site.contexts.templates]
        told = [decoder.tokens.locate(prompt, fact.subject, prefix, fact.form) for prompt in prompts]
        middle = decoder.lens(decoder.states(told, [lens])[lens].to(decoder.dtype)).to(own)
        outputs = own.new_empty(len(told), len(target), own.shape[-1])
        rows = [prompt.ids + target[:-1] for prompt in told]
        wanted = [range(len(row) - len(target), len(row)) for row in rows]
        for row, slot, logits in decoder.logits(rows, wanted):
            outputs[row, slot] = logits.to(own)
        itself = -len(asked.rows[-1].wanted)
        return torch.cat([middle, read[itself][None], outputs.flatten(0, 1), own[-1:]]).log_softmax(-1)

    def loss(
        self, asked: Sequence[Asked], references: Sequence[Tensor], read: Logits, own: Logits, settings: AnchorSettings
    ) -> tuple[PerFact, PerFact, PerFact]:
        facts = len(asked)
        at_middle, at_output, targets = self._places(asked)
        rows = [len(one.rows) for one in asked]
        told_middle = torch.cat([told[:n] for told, n in zip(references, rows, strict=True)])
        told_output = torch.cat([told[n:] for told, n in zip(references, rows, strict=True)])
        outputs = [len(told) - n for told, n in zip(references, rows, strict=True)]

        def mean(values: Tensor, counts: Sequence[int]) -> PerFact:
            owner = [slot for slot, n in enumerate(counts) for _ in range(n)]
            return shared_out(values, owner, [1 / n for n in counts for _ in range(n)], facts)

        now = own[at_output].log_softmax(-1)
        kl = mean(divergence(now, told_output), outputs)
        middle = mean(divergence(read[at_middle].log_softmax(-1), told_middle), rows)
        spoken = [i for i, target in enumerate(targets) if target is not None]
        answers = now[spoken, [target for target in targets if target is not None]]
        nll = -mean(answers, [n - 1 for n in outputs])
        return self.nll_factor * nll + self.output_factor * kl + self.middle_factor * middle, nll, kl

    @staticmethod
    def _places(asked: Sequence[Asked]) -> tuple[list[int], list[int], list[int | None]]:
        """Among packed logits: each row's decisive token, the outputs, and the target's token at each output."""
        middle: list[int] = []
        outputs: list[int] = []
        targets: list[int | None] = []
        first = 0
        for one in asked:
            for row in one.rows:
                spoken: list[int | None] = [None] if row is one.rows[-1] else list(one.place.target)
                middle.append(first)
                first += len(row.wanted)
                outputs += range(first - len(spoken), first)
                targets += spoken
        return middle, outputs, targets
