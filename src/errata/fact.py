"""Fact: what the model shall believe, and which facts cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from errata.errors import UnusableFacts, printable
from errata.form import Form, Turns, joined

Asking = tuple[str, str, Turns | None]
"""A prompt and its subject without outer spaces, and the turns before it if it is put in a chat."""


@dataclass(frozen=True, slots=True)
class Fact:
    """`prompt` with one `{}` where `subject` stands, continued by `target_new`. It holds no paraphrases.

    `join`, `chat` and `end` are its form (`errata.form.Form`): what stands between prompt and target, the turns before
    the prompt if it is a user's turn in a chat (none: `()`), and whether the answer ends behind the target.
    """

    prompt: str
    subject: str
    target_new: str
    join: str | None = None
    chat: Turns | None = None
    end: bool = False

    @property
    def form(self) -> Form:
        """How the prompt is put to a model, and how the target follows."""
        return Form(self.join, self.chat, self.end)

    @property
    def text(self) -> str:
        """The prompt with the subject in its place."""
        return self.prompt.replace("{}", self.subject, 1)

    @property
    def asked(self) -> Asking:
        """Facts with the same one cannot be edited together."""
        return self.prompt.strip(" "), self.subject.strip(), self.chat

    @property
    def continuation(self) -> str:
        """What shall stand behind the prompt, the space between them included; in a chat, the answer."""
        return self.target_new.strip(" ") if self.chat is not None else joined(self.text, self.target_new, self.join)[1]

    def agrees(self, other: Fact) -> bool:
        """Whether both have the same target, where spaces do not matter."""
        return self.continuation == other.continuation

    def problems(self) -> list[str]:
        """What makes this fact unusable, in words; empty if nothing does."""
        problems = self.form.problems()
        if (slots := self.prompt.count("{}")) != 1:
            prompt = printable(self.prompt)
            problems.append(f"prompt {prompt} has {slots} '{{}}'; write the subject's place as '{{}}', once")
        if not self.subject.strip():
            problems.append("the subject is empty")
        if not self.target_new.strip():
            problems.append("the target is empty")
        return problems


@dataclass(frozen=True, slots=True)
class Problem:
    """Why one fact cannot be used: `fact` is its index among those given."""

    fact: int
    reason: str

    def __str__(self) -> str:
        return f"fact {self.fact} {self.reason}"


def problems_of(facts: Sequence[Fact]) -> list[Problem]:
    """Every reason why some of these facts cannot be edited together, in the order of the facts.

    A fact given twice, or the same subject and prompt with two targets, cannot be solved for as written.
    """
    problems = []
    first: dict[Asking, int] = {}
    for i, fact in enumerate(facts):
        problems += [Problem(i, f"cannot be used: {reason}") for reason in fact.problems()]
        j = first.setdefault(fact.asked, i)
        if j != i:
            problems.append(Problem(i, _clash(fact, facts[j], j)))
    return problems


def _clash(fact: Fact, other: Fact, j: int) -> str:
    text, target, others = printable(fact.text), printable(fact.target_new), printable(other.target_new)
    if fact.agrees(other):
        return f"repeats fact {j}: {text} -> {target}; keep one"
    return f"contradicts fact {j}: {text} -> {target} and {others}; keep one"


def check_facts(facts: Sequence[Fact]) -> None:
    """Refuse facts that cannot be edited together. Raises UnusableFacts naming every problem at once."""
    if not facts:
        raise UnusableFacts(["there are no facts"])
    if problems := problems_of(facts):
        raise UnusableFacts(problems)
