"""Case: a fact with its exam, the prompts that examine an edit of it. Check: one such prompt with its answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from errata.errors import BadRecord, printable
from errata.fact import Fact
from errata.form import Turns

MCF, ZSRE = "mcf/teacher-forced", "zsre/token-accuracy"


@dataclass(frozen=True, slots=True)
class Check:
    """A prompt with the answer to look for, of a named kind. `kind` is lower case, words joined by "_".

    `aliases` are other names of the answer, as good as the answer itself.
    """

    kind: str
    prompt: str
    answer: str
    aliases: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """The answer and its aliases; blank ones are left out."""
        return tuple(dict.fromkeys(text for text in (self.answer, *self.aliases) if text.strip()))

    def to_json(self) -> dict[str, Any]:
        """The entry that a file has for it."""
        row = asdict(self) | {"aliases": list(self.aliases)}
        return row if self.aliases else {name: value for name, value in row.items() if name != "aliases"}


@dataclass(frozen=True, slots=True)
class Case:
    """A fact and the prompts that examine an edit of it. An editor is given the fact and never the case.

    paraphrases            other wordings of the fact
    novel                  wordings of it that no training text of the model has
    neighbourhood          prompts about other subjects, whose answers shall not change
    neighbourhood_answers  their answers where they are not all `target_true`; empty, or one per prompt
    far                    prompts about something else altogether
    portability            what follows from the new fact, with the answers it then has
    locality               what does not follow from it, with the answers as they were
    generation             beginnings of free texts about the subject
    references             texts about other things of which the new target is true
    """

    fact: Fact
    id: str
    target_true: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighbourhood: tuple[str, ...] = ()
    far: tuple[str, ...] = ()
    novel: tuple[str, ...] = ()
    neighbourhood_answers: tuple[str, ...] = ()
    portability: tuple[Check, ...] = ()
    locality: tuple[Check, ...] = ()
    generation: tuple[str, ...] = ()
    references: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.neighbourhood_answers and len(self.neighbourhood_answers) != len(self.neighbourhood):
            raise BadRecord(
                f"case {printable(self.id, 40)}: {len(self.neighbourhood_answers)} neighbourhood answers for "
                f"{len(self.neighbourhood)} neighbourhood prompts; give one each, or none at all"
            )

    @property
    def protocol(self) -> str:
        """MCF compares two answers; a case without a true answer is scored as ZsRE (evaluation 1.2)."""
        return MCF if self.target_true else ZSRE

    def wordings(self, kind: str) -> tuple[str, ...]:
        """The prompts that ask for the new target: "efficacy", "generalisation" or "novel"."""
        if kind == "efficacy":
            return (self.fact.text,)
        if kind == "novel":
            return self.novel
        if kind == "generalisation":  # evaluation 1.2: ZsRE uses the first paraphrase only
            return self.paraphrases if self.protocol == MCF else self.paraphrases[:1]
        raise ValueError(f"kind of wording {kind!r}; expected 'efficacy', 'generalisation' or 'novel'")

    def asked_as_chat(self, turns: Turns = (), end: bool = False) -> Case:
        """The same, with every prompt put as the user's turn behind these turns; a record's own messages stay.

        `end`: the answer is to end the model's turn.
        """
        fact = self.fact if self.fact.chat is not None else replace(self.fact, chat=turns, join=None)
        return replace(self, fact=replace(fact, end=end or fact.end))

    def to_json(self) -> dict[str, Any]:
        """The record that `read_cases` reads back (format "errata")."""
        row: dict[str, Any] = {"id": self.id} | _asked(self.fact)
        row |= {"subject": self.fact.subject, "target_new": self.fact.target_new}
        row |= {} if self.fact.join is None else {"join": self.fact.join}
        row |= {"end": True} if self.fact.end else {}
        rest = {name: getattr(self, name) for name in OPTIONAL_TEXT + OPTIONAL_LISTS}
        row |= {name: value if isinstance(value, str) else list(value) for name, value in rest.items() if value}
        checks = {f"{name}_checks": [check.to_json() for check in getattr(self, name)] for name in OPTIONAL_CHECKS}
        return row | {name: value for name, value in checks.items() if value}


def _asked(fact: Fact) -> dict[str, Any]:
    """The fields of a record that say what a model is asked."""
    if fact.chat is None:
        return {"prompt": fact.prompt}
    return {"messages": [{"role": role, "content": text} for role, text in (*fact.chat, ("user", fact.prompt))]}


OPTIONAL_TEXT = ("target_true",)
OPTIONAL_LISTS = ("paraphrases", "neighbourhood", "far", "novel", "neighbourhood_answers", "generation", "references")
OPTIONAL_CHECKS = ("portability", "locality")  # in files `portability_checks`: KnowEdit's `portability` is nested
