"""Pieces of a page: sections, tables whose heads sort, numbers with their interval. Everything told is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from errata.record.tables import Table


@dataclass(frozen=True)
class Cell:
    """`inner` is markup, so already escaped. `order`: what the cell is sorted by, its text if None."""

    inner: str
    order: float | None = None
    kind: str = ""


def word(text: str, kind: str = "word") -> Cell:
    return Cell(escape(text), None, kind)


def table(columns: Sequence[tuple[str, bool]], rows: Iterable[Sequence[Cell]], name: str) -> str:
    """`columns`: title, and whether it holds words. Every head is a button that sorts; wide tables scroll by
    themselves. `name` tells who cannot see it what the table is.
    """
    heads = "".join(
        f'<th scope="col" aria-sort="none"{" class=word" if words else ""}><button type="button">'
        f"{lowered(title) or '<span class=sr>row</span>'}</button></th>"
        for title, words in columns
    )
    body = "\n".join(f"<tr>{''.join(map(_td, row))}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}"><table class="sorts">'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def grid_table(grid: Table, name: str) -> str:
    """A grid of text as a table; `0.930 (.910-.950)` shows its interval small, and the best are marked."""
    columns = [(title, i < grid.text_columns) for i, title in enumerate(grid.columns)]
    rows = [
        [
            word(text) if i < grid.text_columns else number(text, best)
            for i, (text, best) in enumerate(zip(*line, strict=True))
        ]
        for line in zip(grid.rows, grid.best, strict=True)
    ]
    return table(columns, rows, name)


def number(text: str, best: bool = False, under: str = "", meaning: str = "best") -> Cell:
    """A number with its interval below it. `under`: markup below both; `meaning`: told of a marked one."""
    shown, _, interval = text.partition(" (")
    try:
        order = float(shown)
    except ValueError:
        order = None
    small = f"<small>{escape(interval.removesuffix(')').replace('-', '–'))}</small>" if interval else ""
    body = f'<b>{escape(shown)}</b><span class="sr"> {escape(meaning)}</span>' if best else escape(shown)
    return Cell(f"<span class=num>{body}</span>{small}{under}", order, "best" if best else "")


def strip(value: float, low: float, high: float, top: float = 1.0) -> str:
    """A line from 0 to `top` with the interval and the value on it."""
    start, end, at = (f"{100 * min(1.0, max(0.0, v / top)):.1f}" for v in (low, high, value))
    width = f"{max(0.0, float(end) - float(start)):.1f}"
    return (
        f'<span class="strip" aria-hidden="true"><i style="left:{start}%;width:{width}%"></i>'
        f'<b style="left:{at}%"></b></span>'
    )


def section(key: str, title: str, *parts: str) -> str:
    """Empty if there is nothing in it."""
    body = "\n".join(part for part in parts if part)
    return f'<section id="{key}"><h2>{escape(title)}</h2>\n{body}\n</section>' if body else ""


def heading(text: str, wanted: bool = True) -> str:
    """A heading below a section's; nothing where there is only one part to head."""
    return f"<h3>{lowered(text)}</h3>" if wanted and text else ""


def note(text: str) -> str:
    return f'<p class="note">{lowered(text)}</p>'


def folded(summary: str, inner: str) -> str:
    """Shown when asked for."""
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>" if inner else ""


def figure(chart: str, caption: str, below: str = "") -> str:
    """`below`: what the chart does not show."""
    told = note(below) if below else ""
    return f"<figure><figcaption>{lowered(caption)}</figcaption>{chart}{told}</figure>"


def lowered(text: str) -> str:
    """Escaped, with the index of D_KL set below."""
    return escape(text).replace("D_KL", "D<sub>KL</sub>")


def listed(words: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    return f" {last} ".join(", ".join(part) for part in (words[:-1], words[-1:]) if part)


def percent(share: float) -> str:
    """Whole percents, with one place where it takes one to tell it from none or all."""
    whole = f"{100 * share:.0f}"
    return f"{100 * share:.1f}\u00a0%" if whole in ("0", "100") and share not in (0.0, 1.0) else f"{whole}\u00a0%"


def _td(cell: Cell) -> str:
    order = "" if cell.order is None else f' data-v="{cell.order:.10g}"'
    kind = f' class="{cell.kind}"' if cell.kind else ""
    return f"<td{kind}{order}>{cell.inner}</td>"
