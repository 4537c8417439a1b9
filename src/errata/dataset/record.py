"""Record: one row of a file of facts, read field by field, with errors that say where."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from errata.dataset.case import Check
from errata.errors import BadRecord, printable
from errata.fact import Fact
from errata.form import JOINS, SPACED, Form, Turns
from errata.rows import Number

_JOIN_WORDS = {"none": "", "space": " "}
_TRUTHS = {"": False, "true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
"""How a table's cell says yes or no."""


@dataclass(frozen=True)
class Record:
    """`where` is the file and line, `number` counts records from 0; a field that is None or NaN counts as absent.

    `numbers` collects every number that was read where a text is meant: (field, where) -> the number as text.
    """

    where: str
    number: int
    row: dict[str, Any]
    numbers: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """`id` or `case_id`, or the record's number in its file where it has neither."""
        return str(self.row[name]) if (name := self._present("id", "case_id")) else str(self.number)

    def text(self, *names: str) -> str:
        """The first of these fields that is there; it must be text, or a (nested) list that starts with text."""
        if (name := self._present(*names)) is None:
            fields = ", ".join(map(printable, self.row)) or "no fields"
            raise self.wrong(names[0], f"expected the field {' or '.join(map(repr, names))}", fields)
        if not (value := self._first(name, self.row[name])).strip():
            raise self.wrong(name, "expected text", printable(self.row[name]))
        return value.strip()

    def written(self, name: str) -> str:
        """As `text`, but with its outer white space, which the user wrote on purpose."""
        self.text(name)
        return self._first(name, self.row[name])

    def maybe(self, *names: str) -> str:
        """As `text`, but "" if absent or empty."""
        return self._first(name, self.row[name]).strip() if (name := self._present(*names)) else ""

    def texts(self, *names: str, blanks: bool = False) -> tuple[str, ...]:
        """A list of texts; one text stands for a list of one, absence for none. Blank ones are left out.

        `blanks` keeps them, for lists whose entries belong to those of another list.
        """
        if (name := self._present(*names)) is None:
            return ()
        value = self.row[name]
        if isinstance(value, str):
            value = [value] if value.strip() else []
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise self.wrong(name, "expected a list of texts", printable(value))
        if number := next((entry for entry in value if isinstance(entry, Number)), None):
            self.numbers[name, self.where] = str(number)
        return tuple(str(entry) for entry in value if blanks or entry.strip())

    def part(self, name: str) -> Record:
        """A field that is an object with fields of its own."""
        if not isinstance(value := self.row.get(name), dict):
            raise self.wrong(name, "expected an object", printable(value))
        return self._inside(value)

    def parts(self, name: str) -> list[Record]:
        """A field that is a list of objects, or one object, or absent."""
        value = [] if self.row.get(name) is None else self.row[name]
        value = [value] if isinstance(value, dict) else value
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise self.wrong(name, "expected a list of objects", printable(value))
        return [self._inside(entry) for entry in value]

    def checks(self, name: str) -> tuple[Check, ...]:
        """A field {kind: entry or entries}, each entry a `prompt` and its `ground_truth`, one text or a list each.

        Of alternative answers the first that is not blank is taken; "" where there is none (evaluation 3).
        """
        if not self.row.get(name):
            return ()
        kinds = self.part(name)
        return tuple(
            Check(re.sub(r"\W+", "_", kind.strip().lower()), prompt, answer)
            for kind in self.row[name]
            for entry in kinds.parts(kind)
            for prompt, answer in entry.pairs("prompt", "ground_truth")
        )

    def pairs(self, prompt: str, answer: str) -> list[tuple[str, str]]:
        """A prompt and its answer; or, where the prompt is a list, each with the answer at its place."""
        if not isinstance(self.row.get(prompt), list):
            return [(self.text(prompt), self.maybe(answer))]
        prompts, answers = self.row[prompt], self.row.get(answer)
        if not isinstance(answers, list) or len(answers) != len(prompts):
            raise self.wrong(answer, f"expected a list of {len(prompts)}, one for each prompt", printable(answers))
        rows = [{prompt: one, answer: other} for one, other in zip(prompts, answers, strict=True)]
        return [pair for row in rows for pair in self._inside(self.row | row).pairs(prompt, answer)]

    def fact(self, prompt: str, subject: str, target_new: str, form: Form = SPACED) -> Fact:
        """A fact whose prompt has its `{}` already; of a benchmark, joined by one space, unless `form` says else."""
        fact = Fact(prompt, subject, target_new, form.join, form.chat, form.end)
        if problems := fact.problems():
            raise BadRecord(f"{self.where} (id {self.shown_id}): {'; '.join(problems)}")
        return fact

    def fact_inside(self, prompt: str, subject: str, target_new: str, form: Form = SPACED) -> Fact:
        """A fact whose prompt holds the subject itself; `{}` takes the place of one occurrence.

        The first that stands alone as a word, else the first, else the first that differs in upper and lower
        case only (the fact's subject is then spelt as in the prompt, so that its text is the file's).
        """
        if "{}" in prompt:
            return self.fact(prompt, subject, target_new, form)
        literal = re.escape(subject)
        for pattern in (rf"(?<!\w){literal}(?!\w)", literal, rf"(?i){literal}"):
            if match := re.search(pattern, prompt):
                slotted = prompt[: match.start()] + "{}" + prompt[match.end() :]
                return self.fact(slotted, match[0], target_new, form)
        expected = f"expected it to occur in the prompt {printable(prompt)}, or '{{}}' to stand there in its place"
        raise self.wrong("subject", expected, printable(subject))

    def form(self) -> Form:
        """What the fields `join`, `messages` and `end` say of how prompt and target are put to a model."""
        join = self.row.get("join")
        join = _JOIN_WORDS.get(join, join) if isinstance(join, str) else join
        if join is not None and join not in JOINS:
            raise self.wrong("join", "expected '' (or 'none') or ' ' (or 'space')", printable(join))
        end = self.row.get("end")
        end = _TRUTHS.get(end.strip().lower(), end) if isinstance(end, str) else end
        if end is not None and not isinstance(end, bool):
            raise self.wrong("end", "expected true or false", printable(end))
        turns = self.turns()
        return Form(join, None if turns is None else turns[:-1], bool(end))

    def turns(self) -> Turns | None:
        """The conversation of the field `messages`, whose last turn is the user's; None where there is a prompt."""
        if self.row.get("messages") is None:
            return None
        if self.row.get("prompt") is not None:
            raise self.wrong("messages", "expected a prompt or messages, not both", "both")
        turns = tuple((part.written("role"), part.written("content")) for part in self.parts("messages"))
        if not turns or turns[-1][0] != "user":
            last = f"a turn of {printable(turns[-1][0])} at its end" if turns else "no turns"
            raise self.wrong("messages", "expected turns with role and content, the user's last", last)
        return turns

    @property
    def shown_id(self) -> str:
        """The id as it stands in messages."""
        return self.id if self.id.isalnum() and len(self.id) < 40 else printable(self.id, 40)

    def wrong(self, field: str, expected: str, value: str) -> BadRecord:
        """An error that names file, record, field, what was expected, and the value as it is shown."""
        return BadRecord(f"{self.where} (id {self.shown_id}): field {field!r}: {expected}, found {value[:200]}")

    def _inside(self, row: dict[str, Any]) -> Record:
        return replace(self, row={"id": self.id} | row)

    def _present(self, *names: str) -> str | None:
        values = ((name, self.row.get(name)) for name in names)
        return next((name for name, value in values if value is not None and value == value), None)  # NaN is not itself

    def _first(self, name: str, value: Any) -> str:
        """The text of a field: itself, the first of a list, or the `str` of an object, as ROME writes targets."""
        while isinstance(value, list | dict):
            value = value.get("str") if isinstance(value, dict) else next((entry for entry in value if entry), "")
        if isinstance(value, Number | int | float) and not isinstance(value, bool):
            self.numbers[name, self.where] = str(value)
            return str(value)
        if not isinstance(value, str):
            raise self.wrong(name, "expected text", printable(self.row[name]))
        return value
