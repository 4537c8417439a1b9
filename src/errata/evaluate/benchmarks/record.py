"""Record: one row of a benchmark file, read field by field, with errors that say where."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from errata.errors import BadRecord
from errata.evaluate.base import Check
from errata.fact import Fact


@dataclass(frozen=True)
class Record:
    """`where` is the file and line, `number` counts records from 0; a field that is None or NaN counts as absent."""

    where: str
    number: int
    row: dict[str, Any]

    @property
    def id(self) -> str:
        """`id` or `case_id`, or the record's number in its file where it has neither."""
        return str(self.row[name]) if (name := self._present("id", "case_id")) else str(self.number)

    def text(self, *names: str) -> str:
        """The first of these fields that is there; it must be text, or a (nested) list that starts with text."""
        if (name := self._present(*names)) is None:
            found = ", ".join(map(repr, self.row)) or "no fields"
            raise self.wrong(names[0], f"expected the field {' or '.join(map(repr, names))}", found)
        if not (value := self._first(name, self.row[name])):
            raise self.wrong(name, "expected text", self.row[name])
        return value

    def maybe(self, *names: str) -> str:
        """As `text`, but "" if absent or empty."""
        return self._first(name, self.row[name]) if (name := self._present(*names)) else ""

    def texts(self, *names: str, blanks: bool = False) -> tuple[str, ...]:
        """A list of texts; one text stands for a list of one, absence for none. Blank ones are left out.

        `blanks` keeps them, for lists that run beside another one.
        """
        if (name := self._present(*names)) is None:
            return ()
        value = [self.row[name]] if isinstance(self.row[name], str) else self.row[name]
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise self.wrong(name, "expected a list of texts", value)
        return tuple(entry for entry in value if blanks or entry.strip())

    def part(self, name: str) -> Record:
        """A field that is an object with fields of its own."""
        if not isinstance(value := self.row.get(name), dict):
            raise self.wrong(name, "expected an object", value)
        return Record(self.where, self.number, {"id": self.id} | value)

    def parts(self, name: str) -> list[Record]:
        """A field that is a list of objects, or one object, or absent."""
        value = [] if self.row.get(name) is None else self.row[name]
        value = [value] if isinstance(value, dict) else value
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise self.wrong(name, "expected a list of objects", value)
        return [Record(self.where, self.number, {"id": self.id} | entry) for entry in value]

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
            raise self.wrong(answer, f"expected a list of {len(prompts)}, one for each prompt", answers)
        rows = [{prompt: one, answer: other} for one, other in zip(prompts, answers, strict=True)]
        return [pair for row in rows for pair in Record(self.where, self.number, self.row | row).pairs(prompt, answer)]

    def fact(self, prompt: str, subject: str, target_new: str) -> Fact:
        """A fact whose prompt has its `{}` already."""
        fact = Fact(prompt, subject, target_new.strip())
        if problems := fact.problems():
            raise BadRecord(f"{self.where} (id {self.id}): {'; '.join(problems)}")
        return fact

    def fact_inside(self, prompt: str, subject: str, target_new: str) -> Fact:
        """A fact whose prompt holds the subject itself; `{}` takes the place of one occurrence.

        The first that stands alone as a word, else the first, else the first that differs in upper and lower
        case only (the fact's subject is then spelt as in the prompt, so that its text is the file's).
        """
        literal = re.escape(subject)
        for pattern in (rf"(?<!\w){literal}(?!\w)", literal, rf"(?i){literal}"):
            if "{}" not in prompt and (found := re.search(pattern, prompt)):
                slotted = prompt[: found.start()] + "{}" + prompt[found.end() :]
                return self.fact(slotted, found[0], target_new)
        if "{}" in prompt:
            return self.fact(prompt, subject, target_new)
        raise self.wrong("subject", f"expected it to occur in the prompt {prompt!r}", subject)

    def wrong(self, field: str, expected: str, found: Any) -> BadRecord:
        """An error that names file, record, field, what was expected and what was found."""
        shown = found if isinstance(found, str) and "'" in found and ", " in found else repr(found)
        return BadRecord(f"{self.where} (id {self.id}): field {field!r}: {expected}, found {shown[:200]}")

    def _present(self, *names: str) -> str | None:
        values = ((name, self.row.get(name)) for name in names)
        return next((name for name, value in values if value is not None and value == value), None)  # NaN is not itself

    def _first(self, name: str, value: Any) -> str:
        while isinstance(value, list):
            value = next((entry for entry in value if entry), "")
        if not isinstance(value, str):
            raise self.wrong(name, "expected text", value)
        return value.strip()
