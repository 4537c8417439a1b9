"""Blocks: what the sections of a page are made of. Plain values; templates/block.html makes markup of each kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup

from errata.record.chart import Chart
from errata.record.tables import Table

FULL = 1.0
"""The length of a bar for a share."""


@dataclass(frozen=True)
class Block:
    """Something between a section's heading and the next. `kind` names its part of the template."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Section:
    """A part of the page that its contents link to; not shown if it has no blocks."""

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Heading(Block):
    text: str
    kind: ClassVar[str] = "heading"


@dataclass(frozen=True)
class Note(Block):
    text: str
    kind: ClassVar[str] = "note"


@dataclass(frozen=True)
class Lead(Block):
    """A sentence in large print."""

    text: Markup
    kind: ClassVar[str] = "lead"


@dataclass(frozen=True)
class Command(Block):
    text: str
    kind: ClassVar[str] = "command"


@dataclass(frozen=True)
class Pairs(Block):
    """Names and values."""

    pairs: Mapping[str, str]
    kind: ClassVar[str] = "pairs"


@dataclass(frozen=True)
class Failures(Block):
    """What could not be read, a line each."""

    lines: Sequence[str]
    kind: ClassVar[str] = "failures"


@dataclass(frozen=True)
class Folded(Block):
    """Shown when asked for."""

    summary: str
    blocks: Sequence[Block]
    kind: ClassVar[str] = "folded"


@dataclass(frozen=True)
class Figures(Block):
    """Charts next to each other, each with a note of what it does not show."""

    charts: Sequence[tuple[Chart, str]]
    kind: ClassVar[str] = "figures"


@dataclass(frozen=True)
class Bar:
    """A line from nothing to `top` with a value and its interval on it; all in percent of its length."""

    at: float
    start: float
    width: float

    @classmethod
    def of(cls, value: float, low: float, high: float, top: float = FULL) -> Bar:
        start, end, at = (round(100 * min(1.0, max(0.0, v / top)), 1) for v in (low, high, value))
        return cls(at, start, round(max(0.0, end - start), 1))


@dataclass(frozen=True)
class Card:
    """A method: named shares with their bars, and how far neighbours drift, in nats."""

    name: str
    settings: str
    shares: Sequence[tuple[str, str, Bar]]
    drift: str


@dataclass(frozen=True)
class Cards(Block):
    cards: Sequence[Card]
    kind: ClassVar[str] = "cards"


@dataclass(frozen=True)
class Slip(Block):
    """An errata slip: for what the model said before, read what it says now."""

    method: str
    lines: Sequence[tuple[str, str, str]]
    kind: ClassVar[str] = "slip"


@dataclass(frozen=True)
class FactSearch(Block):
    """The table of single facts, which the page's script fills."""

    kind: ClassVar[str] = "fact_search"


@dataclass(frozen=True)
class TableCell:
    """What stands in one place of a table. `order`: what it is sorted by, its text if None; `below`: small print
    under it; `marked`: why it is marked, told to who cannot see the mark; empty if it is not.
    """

    text: str
    words: bool = False
    order: float | None = None
    below: str = ""
    marked: str = ""
    bar: Bar | None = None


@dataclass(frozen=True)
class SortedTable(Block):
    """A table whose heads sort it. `columns`: title, and whether it holds words. `name` is for screen readers."""

    name: str
    columns: Sequence[tuple[str, bool]]
    rows: Sequence[Sequence[TableCell]]
    kind: ClassVar[str] = "sorted_table"

    @classmethod
    def of(cls, table: Table, name: str) -> SortedTable:
        """A table of text; `0.930 (.910-.950)` shows its interval small, and the best are marked."""
        words = [i < table.text_columns for i in range(len(table.columns))]
        rows = [
            [TableCell(text, True) if word else number(text, "best" if best else "") for text, best, word in row]
            for row in (zip(*both, words, strict=True) for both in zip(table.rows, table.best, strict=True))
        ]
        return cls(name, list(zip(table.columns, words, strict=True)), rows)


def number(text: str, marked: str = "", bar: Bar | None = None) -> TableCell:
    """A number with its interval below it."""
    shown, _, interval = text.partition(" (")
    try:
        order = float(shown)
    except ValueError:
        order = None
    return TableCell(shown, False, order, interval.removesuffix(")").replace("-", "–"), marked, bar)


def folded(summary: str, blocks: Iterable[Block]) -> list[Block]:
    """A block that is shown when asked for; nothing if there is nothing in it."""
    inner = list(blocks)
    return [Folded(summary, inner)] if inner else []


def listed(words: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    return f" {last} ".join(", ".join(part) for part in (words[:-1], words[-1:]) if part)


def percent(share: float) -> str:
    """Whole percents, with one place where it takes one to tell it from none or all."""
    whole = f"{100 * share:.0f}"
    return f"{100 * share:.1f}\u00a0%" if whole in ("0", "100") and share not in (0.0, 1.0) else f"{whole}\u00a0%"
