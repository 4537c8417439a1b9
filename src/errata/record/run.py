"""Run: a folder that explains itself. Written by a run, read by reports; JSON and Markdown only."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from errata.errors import BadRecord
from errata.files import write_text
from errata.record.reading import finite, read_json, reason
from errata.record.schema import BY_METHOD, NEEDED, RUN
from errata.record.tables import answer_table, residual_table, score_table, seconds_table, skill_table

RECORD, CARD = "run.json", "README.md"
ON_CARD = 20
"""Answers shown on the card; all of them are in the record."""


@dataclass
class Run:
    """What was run, on what, and what came out: recipe, versions, seed, ledgers, scores, answers, general ability."""

    title: str
    command: str
    settings: dict[str, Any]
    versions: dict[str, str]
    scores: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    ledgers: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: list[dict[str, str]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    ability: list[dict[str, Any]] = field(default_factory=list)
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def write(self, folder: Path) -> None:
        """`README.md` to read, then `run.json` with everything: a folder with a record is finished."""
        write_text(folder / CARD, self.card())
        self.write_record(folder / RECORD)

    def write_record(self, path: Path) -> None:
        """Everything as JSON; folders that are not there are made. Raises StoreError."""
        write_text(path, json.dumps(finite(vars(self)), indent=1, ensure_ascii=False))

    @classmethod
    def read(cls, path: Path) -> tuple[Run, list[str]]:
        """The record in a folder or file, and a line for each part of it that had to be left out as damaged.

        Raises BadRecord if what is left is no record of a run.
        """
        path = path / RECORD if path.is_dir() else path
        row = read_json(path)
        if not isinstance(row, dict):
            raise BadRecord(f"{path.name} is not the record of a run")
        checked, left_out = _checked(row)
        cell = checked["settings"].get("cell")
        if not (checked["scores"].get(cell["method"]) if cell else checked["scores"]):
            raise BadRecord("; ".join(left_out) or "it holds no scores")
        known: dict[str, Any] = {"command": "", "versions": {}} | checked
        return cls(**{field.name: known[field.name] for field in fields(cls) if field.name in known}), left_out

    def card(self) -> str:
        """The run as Markdown."""
        rest = len(self.answers) - ON_CARD
        more = f"\n\n... and {rest} more in `{RECORD}`." if rest > 0 else ""
        sections: Sequence[tuple[str, str]] = [
            ("Facts", answer_table(self.answers[:ON_CARD]).markdown() + more if self.answers else ""),
            ("Scores", score_table(self.scores).markdown() if self.scores else ""),
            ("General ability", skill_table(self.ability).markdown() if self.ability else ""),
            ("What is left of the residual at the last layer", residual_table(self.ledgers).markdown()),
            ("Seconds per stage", seconds_table(self.ledgers).markdown()),
            ("Settings", f"```json\n{json.dumps(self.settings, indent=1, ensure_ascii=False)}\n```"),
            ("Versions", ", ".join(f"{name} {number}" for name, number in self.versions.items())),
        ]
        body = "\n\n".join(f"## {name}\n\n{text}" for name, text in sections if text)
        return f"# {self.title}\n\n`{self.command}`, {self.started}\n\n{body}\n"


def versions() -> dict[str, str]:
    """What this ran on."""
    packages = {name: version(name) for name in ("errata", "torch", "transformers")}
    return packages | {"python": platform.python_version()}


def _checked(row: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A record without its damaged parts, and what is wrong with each. Raises BadRecord for a part it cannot lack."""
    left_out: list[str] = []
    while True:
        try:
            return dict(RUN.validate_python(row)), left_out
        except ValidationError as error:
            problems: dict[tuple[Any, ...], Any] = {}
            for problem in error.errors(include_url=False, include_context=False):
                if not problem["loc"]:  # such as a key that is half a surrogate pair
                    raise BadRecord(reason(problem)) from None
                place = problem["loc"][: 2 if problem["loc"][0] in BY_METHOD else 1]
                problems.setdefault(place, problem)
        for (part, *method), problem in problems.items():
            if part in NEEDED and not method:
                raise BadRecord(reason(problem))
            left_out.append(reason(problem))
            del (row[part] if method else row)[method[0] if method else part]
