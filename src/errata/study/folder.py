"""Findings as files: JSON, Markdown, and a figure as PNG and SVG."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from errata.files import whole_file, write_text
from errata.report.figures import NoFigures
from errata.report.formats import markdown
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


def write(finding: Finding, folder: Path, made: Made, seconds: float) -> list[str]:
    """`NAME.json`, `README.md`, `NAME.png` and `NAME.svg`; returns what the reader should be told."""
    record: dict[str, Any] = {"kind": "study", "what": finding.name, "title": finding.title, "note": finding.note}
    record |= {"seconds": seconds, **vars(made), "tables": finding.tables(), "data": finding}
    text = json.dumps(plain(record), indent=1, ensure_ascii=False)
    write_text(folder / f"{finding.name}.json", text)
    told = []
    try:
        drawn = draw(finding, folder)
    except NoFigures as error:
        drawn, told = [], [str(error)]
    picture = "".join(f"![{finding.title}]({path.name})\n\n" for path in drawn if path.suffix == ".png")
    settings = json.dumps(made.settings, indent=1, ensure_ascii=False)
    text = (
        f"{markdown(finding.tables(), finding.title, f'`{made.command}`, {made.started}, {seconds:.0f} s')}\n{picture}"
        f"{finding.note}\n\n## Settings\n\n{len(made.facts)} facts, listed in `{finding.name}.json`.\n\n"
        f"```json\n{settings}\n```\n\n## Versions\n\n"
        f"{', '.join(f'{name} {number}' for name, number in made.versions.items())}\n"
    )
    write_text(folder / CARD, text)
    return told


def draw(finding: Finding, folder: Path) -> list[Path]:
    """The figure as SVG and PNG. Raises NoFigures if matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise NoFigures("no figure was drawn: it needs `pip install 'errata[figures]'`") from None
    figure = Figure(figsize=finding.size, layout="constrained")
    finding.draw(figure)
    made = [folder / f"{finding.name}.{kind}" for kind in ("svg", "png")]
    for path in made:
        with whole_file(path) as unfinished:
            figure.savefig(unfinished, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    return made
