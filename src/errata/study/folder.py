"""Findings as files: everything as JSON, and a card to read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from errata.files import write_text
from errata.record.study import StudyRecord
from errata.record.tables import markdown
from errata.study.finding import Finding, plain

CARD = "README.md"


@dataclass(frozen=True)
class Made:
    """What a finding was made with: its folder explains itself by this."""

    command: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    facts: tuple[Mapping[str, str], ...] = ()
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


def write(finding: Finding, folder: Path, made: Made, seconds: float, figures: Sequence[Path] = ()) -> StudyRecord:
    """`README.md` to read, with the PNGs among the figures, then `NAME.json`; returns the record. Raises StoreError."""
    record = StudyRecord(
        what=finding.name,
        title=finding.title,
        note=finding.note,
        tables=finding.tables(),
        charts=tuple(finding.charts()),
        seconds=seconds,
        data=finding.to_json(),
        **vars(made),
    )
    write_text(folder / CARD, card(record, [path.name for path in figures if path.suffix == ".png"]))
    write_text(folder / f"{finding.name}.json", json.dumps(plain(record), indent=1, ensure_ascii=False))
    return record


def card(record: StudyRecord, pictures: Sequence[str]) -> str:
    """The study as Markdown."""
    made = f"`{record.command}`, {record.started}, {record.seconds:.0f} s"
    settings = json.dumps(record.settings, indent=1, ensure_ascii=False)
    sections = [
        markdown(record.tables, record.title, made).rstrip(),
        *(f"![{record.title}]({name})" for name in pictures),
        record.note,
        f"## Settings\n\n{len(record.facts)} facts, listed in `{record.what}.json`.\n\n```json\n{settings}\n```",
        f"## Versions\n\n{', '.join(f'{name} {number}' for name, number in record.versions.items())}",
    ]
    return "\n\n".join(sections) + "\n"
