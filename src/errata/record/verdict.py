"""Verdict: whether an edit is good, in numbers and in one line. The facts, other wordings, neighbours, plain text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from errata.errors import StoreError
from errata.record.reading import FiniteOrNone
from errata.record.tables import Table

SLIP = 3
"""Neighbours of each kind that are shown in words."""


@dataclass(frozen=True)
class FactVerdict:
    """One fact, as the model continues its prompt before and after. `advice`: why it was missed, and what to try."""

    prompt: str
    wanted: str
    before: str
    after: str
    holds: bool
    believed: bool
    """Whether it held before."""
    probability: FiniteOrNone
    """exp(-NLL) of the target now, per token."""
    advice: str = ""

    @property
    def word(self) -> str:
        """The verdict in a word or two."""
        if self.holds:
            return "held before" if self.believed else "holds"
        return "missed"


@dataclass(frozen=True)
class Neighbour:
    """A prompt about something else, and the likeliest next words before and after."""

    prompt: str
    before: str
    after: str
    """Empty, as `before` is, where it was not asked in words."""
    same: bool
    """Whether the likeliest next token is as before."""


@dataclass(frozen=True)
class Verdict:
    """What an edit did: `str()` says it in one line.

    paraphrases: (held, asked); None where none were given. perplexity: of held-out text, before and after.
    neighbours_from, held_out: where the neighbours and the text come from.
    """

    facts: tuple[FactVerdict, ...]
    wanted: int
    """Facts that were asked for; more than `facts` where a guard stopped before the last batch."""
    paraphrases: tuple[int, int] | None
    neighbours: tuple[Neighbour, ...]
    neighbours_from: str
    divergence: FiniteOrNone
    """D_KL(unedited || edited) of the next token in nats, mean over the neighbours."""
    perplexity: tuple[FiniteOrNone, FiniteOrNone] | None
    held_out: str

    @property
    def held(self) -> int:
        """How many facts hold."""
        return sum(fact.holds for fact in self.facts)

    @property
    def share(self) -> float:
        """Of the facts that were asked for, how many hold."""
        return self.held / self.wanted if self.wanted else 0.0

    @property
    def unmoved(self) -> int:
        """How many neighbours are continued as before."""
        return sum(neighbour.same for neighbour in self.neighbours)

    def __str__(self) -> str:
        parts = [f"{self.held} of {self.wanted} facts hold"]
        if self.paraphrases:
            parts[0] += ", {} of {} paraphrases".format(*self.paraphrases)
        if self.neighbours:
            parts.append(f"of {len(self.neighbours)} neighbours {self.unmoved} as before")
        if self.perplexity:
            before, after = (f"{p:.1f}" if p is not None else "no number" for p in self.perplexity)
            parts.append(f"held-out text {before} -> {after} perplexity")
        return "; ".join(parts)

    def table(self) -> Table:
        """A row per fact, missed ones first; texts as they are, with line breaks and outer spaces written out."""
        facts = sorted(self.facts, key=lambda fact: fact.holds)
        rows = []
        for fact in facts:
            joined = fact.wanted.startswith(" ")  # one space, as words are joined, is not worth drawing
            wanted, *said = (
                shown(text.removeprefix(" ") if joined else text) for text in (fact.wanted, fact.before, fact.after)
            )
            rows.append([fact.word, f"{shown(fact.prompt)} -> {wanted}", *said])
        return Table.plain(["verdict", "fact", "before", "after"], rows, 4)

    def slip(self) -> list[str]:
        """A few neighbours in words: those that changed, then those that did not."""
        changed = [n for n in self.neighbours if not n.same and n.after]
        same = [n for n in self.neighbours if n.same and n.after]
        lines = [
            f"changed: {shown(n.prompt)} ... {shown(n.before.strip(' '))} -> {shown(n.after.strip(' '))}"
            for n in changed[:SLIP]
        ]
        return lines + [f"unchanged: {shown(n.prompt)} ... {shown(n.after.strip(' '))}" for n in same[:SLIP]]

    def advice(self) -> list[str]:
        """Why facts were missed and what to try, a line for each reason."""
        reasons: dict[str, list[str]] = {}
        for fact in self.facts:
            if fact.advice:
                reasons.setdefault(fact.advice, []).append(shown(fact.prompt))
        return [f"{len(prompts)} missed ({_some(prompts)}): {reason}" for reason, prompts in reasons.items()]

    def to_json(self) -> dict[str, Any]:
        """All of it, and the line that says it."""
        return {"line": str(self), **asdict(self)}

    @classmethod
    def from_json(cls, row: Any) -> Verdict:
        """The inverse of `to_json`. Raises StoreError."""
        try:
            return TypeAdapter(cls).validate_python({name: value for name, value in row.items() if name != "line"})
        except (ValidationError, AttributeError) as error:
            raise StoreError(f"this is not the verdict on an edit: {str(error)[:200]}") from None


def shown(text: str) -> str:
    """A text on one line: line breaks written out, and a space at either end drawn."""
    line = text.replace("\n", "\\n").replace("\t", "\\t")
    core = line.strip(" ")
    left = len(line) - len(line.lstrip(" "))
    return "␣" * left + core + "␣" * (len(line) - left - len(core))


def _some(prompts: list[str]) -> str:
    more = f" and {len(prompts) - 2} more" if len(prompts) > 2 else ""
    return "; ".join(repr(prompt) for prompt in prompts[:2]) + more
