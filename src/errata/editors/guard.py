"""Guard: watches a model while it is edited batch after batch, and says when to stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, exp

import torch
from torch import Tensor

from errata.decoder.decoder import Decoder
from errata.errors import Collapsed

TOKENS = 64
"""Of each text at most so many tokens are read."""
MARKS = 4
"""Of each text at so many places, evenly spaced, the next token's distribution is compared."""


@dataclass(frozen=True)
class Health:
    """The state of an edited model after a batch, against the unedited one."""

    batch: int
    growth: dict[int, float]
    """Layer -> |dW| / |W| of the whole change so far (Frobenius)."""
    divergence: float
    """D_KL(unedited || edited) of the next token in nats, mean over places in the held-out texts."""
    perplexity: float
    """Of the held-out texts, divided by the unedited model's."""


@dataclass(frozen=True)
class Guard:
    """Limits beyond which an edit is taken back; in batches, the last batch alone. None: no limit.

    texts: what the limits on divergence and perplexity are measured on; read before the first batch and after each.
    """

    texts: Sequence[str] = ()
    growth: float | None = 10.0
    divergence: float | None = 1.0
    perplexity: float | None = 2.0

    def crossed(self, health: Health) -> str | None:
        """The first limit that is crossed, in words."""
        worst = max(health.growth, key=lambda layer: health.growth[layer], default=None)
        growth = [] if worst is None else [(f"|dW| / |W| of layer {worst}", health.growth[worst], self.growth)]
        measured = (
            *growth,
            ("the divergence on held-out texts", health.divergence, self.divergence),
            ("the growth of perplexity on held-out texts", health.perplexity, self.perplexity),
        )
        crossed = (
            f"{what} is {value:.3g}, above {limit}"
            for what, value, limit in measured
            if limit is not None and not value <= limit
        )
        return next(crossed, None)


USUAL = Guard()
"""What an edit is watched by unless another guard, or none, is asked for."""


class Watch:
    """A guard at work: what the unedited model makes of the texts, to compare with."""

    def __init__(self, guard: Guard, decoder: Decoder) -> None:
        self.guard, self.decoder = guard, decoder
        self.rows = [ids for text in guard.texts if len(ids := decoder.token_ids(text)[:TOKENS]) > 1]
        shares = [k / MARKS for k in range(1, MARKS + 1)]
        self.marks = [{ceil(share * len(ids)) - 1 for share in shares} for ids in self.rows]
        with decoder.unedited():
            self.first, self.loss = self.read()

    def look(self, batch: int, changes: Mapping[int, Tensor], seen: list[Health]) -> str | None:
        """Note the model as it is now in `seen`; the limit it crosses, if any. `changes`: layer -> its whole change."""
        size = torch.linalg.matrix_norm
        growth = {
            layer: float(size(change) / size(self.decoder.original(layer).to(change)))
            for layer, change in sorted(changes.items())
        }
        log_p, loss = self.read()
        divergence = float((self.first.exp() * (self.first - log_p)).sum(-1).mean()) if self.rows else 0.0
        seen.append(Health(batch, growth, divergence, exp(min(loss - self.loss, 700.0))))
        return self.guard.crossed(seen[-1])

    def stop(self, limit: str, edited: int, batches: int, notes: list[str]) -> None:
        """Say why the run ends here. Raises Collapsed if there is no batch to fall back on."""
        if not edited:
            raise Collapsed(
                f"after {'the first batch' if batches > 1 else 'this edit'} {limit}. Nothing was kept; the model is as "
                "it was before. Edit fewer facts at a time, preserve more (a larger weight in the recipe's solver), "
                "raise the guard's limit, or go without a guard."
            )
        notes.append(f"stopped after {edited} facts: with the next batch {limit}; that batch was taken back")

    def read(self) -> tuple[Tensor, float]:
        """Log-probabilities [place, vocabulary] behind each mark, and the mean loss of all tokens."""
        marked: dict[tuple[int, int], Tensor] = {}
        total, count = 0.0, 0
        for row, at, logits in self.decoder.logits(self.rows, [range(len(ids)) for ids in self.rows]):
            log_p = logits.log_softmax(-1)
            for i, position, values in zip(row.tolist(), at.tolist(), log_p, strict=True):
                if position + 1 < len(self.rows[i]):
                    total, count = total - float(values[self.rows[i][position + 1]]), count + 1
                if position in self.marks[i]:
                    marked[i, position] = values.to("cpu", copy=True)
        places = [marked[place] for place in sorted(marked)]
        return torch.stack(places) if places else torch.empty(0), total / max(count, 1)
