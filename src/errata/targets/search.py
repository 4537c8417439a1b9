"""Search: how an anchor is sought. What is moved, how rows are padded, and what the loss asks for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from errata.decoder.decoder import Decoder
from errata.decoder.layout import Space
from errata.decoder.site import FactSite, Site
from errata.decoder.tails import Row
from errata.description import description


@dataclass(frozen=True)
class AnchorSettings:
    """How an anchor is optimised (method 1.5)."""

    learning_rate: float = 0.5
    steps: int = 25
    """As published, counts evaluations of the loss. The last would be followed by no update and is not made."""
    bare_steps: int = 0
    """Evaluations made before those, on the bare prompt and the essence alone; without contexts they cost a quarter."""
    clamp: float = 0.75
    """The largest norm of delta, in norms of the state it is added to."""
    weight_decay: float = 0.5
    kl_factor: float = 0.0625
    stop_loss: float = 0.05
    loss_layer: int | None = None
    """Read the target off this block through final norm and head; None: the model's own logits (method 5.30)."""
    kl_position: Literal["subject", "last"] = "subject"
    """Where the essence prompt must not move: at the subject, as published code does, or at its end (method 5.5)."""
    squared_decay: bool = False
    """Penalise |delta|^2 in place of |delta| (method 5.4)."""


@dataclass(frozen=True)
class Asked:
    """What is asked about one fact: its place, and the rows that are run."""

    place: FactSite
    rows: list[Row]
    share: float = 1.0
    """Of what facts with one stem ask for once: 1 / their number (method 5.31)."""

    @property
    def answers(self) -> int:
        """How many logits come back."""
        return sum(len(row.wanted) for row in self.rows)


Logits = Float[Tensor, "answer vocabulary"]
"""Of one or more facts, packed: fact by fact, row by row, position by position."""
PerFact = Float[Tensor, " fact"]


class Objective(ABC):
    """What a delta shall bring about: the rows it is tried on, and the loss on what they then say."""

    @abstractmethod
    def rows(self, place: FactSite, settings: AnchorSettings) -> list[Row]:
        """The rows of one fact; the bare prompt is the first."""

    def lens(self, decoder: Decoder, layer: int, settings: AnchorSettings) -> int | None:
        """The block off which `read` is read, through final norm and head; None: `read` is `own`."""
        return None if settings.loss_layer is None else max(settings.loss_layer, layer)

    @abstractmethod
    def reference(
        self, decoder: Decoder, site: Site, asked: Asked, lens: int | None, read: Logits, own: Logits
    ) -> Float[Tensor, "place vocabulary"]:
        """Log-probabilities that the fact of `site` is held to; `read` and `own` are its logits before any change."""

    @abstractmethod
    def loss(
        self, asked: Sequence[Asked], references: Sequence[Tensor], read: Logits, own: Logits, settings: AnchorSettings
    ) -> tuple[PerFact, PerFact, PerFact]:
        """Of each fact: what is minimised but for the weight decay, the target's NLL, and the KL divergence."""


@dataclass(frozen=True)
class Essence(Objective):
    """NLL + kl_factor KL(now || before), the KL read on "{subject} is a" (method 1.5)."""

    def rows(self, place: FactSite, settings: AnchorSettings) -> list[Row]:
        """Every context followed by the target but its last token, then the essence prompt."""
        essence = place.essence
        at = essence.decisive if settings.kl_position == "subject" else len(essence.ids) - 1
        return [*rewriting(place), Row(essence.ids, essence.decisive, (at,))]

    def reference(
        self, decoder: Decoder, site: Site, asked: Asked, lens: int | None, read: Logits, own: Logits
    ) -> Float[Tensor, "place vocabulary"]:
        return own[-1:].log_softmax(-1)

    def loss(
        self, asked: Sequence[Asked], references: Sequence[Tensor], read: Logits, own: Logits, settings: AnchorSettings
    ) -> tuple[PerFact, PerFact, PerFact]:
        targets, owner, share, essence = [], [], [], []
        for slot, one in enumerate(asked):
            target, prompts = list(one.place.target), len(one.place.prompts)
            n = prompts * len(target)
            targets += target * prompts + [0]
            owner += [slot] * (n + 1)
            share += [1 / n] * n + [0.0]
            essence.append(len(targets) - 1)
        log_p = read.log_softmax(-1)[range(len(targets)), targets]
        nll = -shared_out(log_p, owner, share, len(asked))
        kl = divergence(own[essence].log_softmax(-1), torch.cat(list(references)))
        shares = kl.new_tensor([one.share for one in asked])
        return nll + settings.kl_factor * (shares * kl), nll, kl


def rewriting(place: FactSite) -> list[Row]:
    """Every context followed by the target but its last token; wanted where the target's tokens are predicted."""
    return [
        Row(
            prompt.ids + place.target[:-1],
            prompt.decisive,
            tuple(range(len(prompt.ids) - 1, len(prompt.ids) - 1 + len(place.target))),
        )
        for prompt in place.prompts
    ]


def divergence(now: Logits, reference: Logits) -> Float[Tensor, " answer"]:
    """KL(now || reference) of log-probabilities, row by row (method 5.6)."""
    return (now.exp() * (now - reference)).sum(-1)


def shared_out(values: Tensor, owner: Sequence[int], share: Sequence[float], facts: int) -> PerFact:
    """Sum over each fact's values, each weighed by its share."""
    owners = torch.tensor(owner, device=values.device)
    return values.new_zeros(facts).index_add(0, owners, values.new_tensor(share) * values)


@dataclass(frozen=True)
class Search:
    """How anchors are sought: part of a method, where AnchorSettings are a model's numbers."""

    space: Space = "block"
    """Whether a delta is added to a block's output, or to its down-projection's (method 5.1)."""
    alone: bool = False
    """In space "mlp": without PMET's second delta on the attention's output, in a ball measured by the state itself."""
    padding: Literal["right", "left"] = "right"
    """On which side a fact's rows are brought to one length; "left" moves their positions (NAMET, method 2.10).

    Padded in front, anchors find the model reading each prompt as many positions late as the fact's longest row is
    longer. That includes h0, so z = h0 + delta starts from the bare prompt's state at the late positions. Keys, current
    states and replays are at the usual ones. Where positions enter as distances alone (rotary, ALiBi) nothing changes
    but rounding; where they are learnt (GPT-2) it is the noise that the method is named after.
    """
    objective: Objective = Essence()

    @property
    def inside(self) -> tuple[str, ...]:
        """The parts of a block that are moved in place of its output."""
        if self.space == "block":
            return ()
        return ("mlp",) if self.alone else ("attention", "mlp")

    @property
    def departures(self) -> dict[str, str]:
        """What differs from the usual search, as text by name; the space is told apart elsewhere."""
        changed = {f.name: (getattr(self, f.name), f.default) for f in fields(self) if f.name != "space"}
        return {name: description(value) for name, (value, usual) in changed.items() if value != usual}


USUAL = Search()
