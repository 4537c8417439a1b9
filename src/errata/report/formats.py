"""Titled grids as Markdown, CSV, LaTeX and a page of HTML."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from errata.record.tables import Table

Sections = Mapping[str, Table]

_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_TEX |= {c: f"\\{c}" for c in "&%$#_{}"}

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; color: #1a1a1a }
h2 { font-size: 1.05rem; margin: 2rem 0 .5rem } p { color: #555 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #ddd }
th { border-bottom: 2px solid #333 } th.word, td.word { text-align: left } td.best { font-weight: 700 }
figure { margin: 1rem 0 } svg { max-width: 100%; height: auto }
@media (prefers-color-scheme: dark) { body { background: #16181c; color: #e6e6e6 } th, td { border-color: #444 } }
"""


def markdown(sections: Sections, title: str = "", note: str = "") -> str:
    """A heading and a table per section."""
    parts = [f"# {title}"] if title else []
    parts += [note] if note else []
    for name, grid in sections.items():
        parts += [f"## {name}", grid.markdown()]
    return "\n\n".join(parts) + "\n"


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Flat rows with a header; numbers in full, and no text that a spreadsheet would take for a formula."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([no_formula(column) for column in rows[0]] if rows else [])
    writer.writerows([no_formula(value) for value in row.values()] for row in rows)
    return out.getvalue()


def no_formula(value: Any) -> Any:
    """Text that begins like a formula with an apostrophe before it, which spreadsheets leave out of sight."""
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace(
        "\r", "\n"
    )  # csv leaves a lone \r unquoted, and readers end the row there
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\n")) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and text == text.strip()


def latex(sections: Sections, note: str = "") -> str:
    """A booktabs table per section. Needs \\usepackage{booktabs}."""
    found = [f"% {line}" for line in note.splitlines()]
    for name, grid in sections.items():
        align = "l" * grid.text_columns + "r" * (len(grid.columns) - grid.text_columns)
        found += [r"\begin{table}", r"\centering", rf"\caption{{{tex(name)}}}", rf"\begin{{tabular}}{{{align}}}"]
        found += [r"\toprule", " & ".join(map(tex, grid.columns)) + r" \\", r"\midrule"]
        for row, marks in zip(grid.rows, grid.best, strict=True):
            cells = [rf"\textbf{{{tex(cell)}}}" if best else tex(cell) for cell, best in zip(row, marks, strict=True)]
            found.append(" & ".join(cells) + r" \\")
        found += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(found)


def tex(text: str) -> str:
    """Text with TeX's own characters escaped."""
    return "".join(_TEX.get(c, c) for c in text)


def html(sections: Sections, title: str, note: str = "", figure: str = "") -> str:
    """One page that needs nothing else. `figure`: an svg element, shown first."""
    body = [f"<h1>{escape(title)}</h1>", f"<p>{escape(note)}</p>" if note else ""]
    body.append(f"<figure>{figure}</figure>" if figure else "")
    for name, grid in sections.items():
        words = grid.text_columns
        head = "".join(f"<th{_kind(i < words, False)}>{escape(c)}</th>" for i, c in enumerate(grid.columns))
        lines = []
        for row, marks in zip(grid.rows, grid.best, strict=True):
            cells = zip(row, marks, strict=True)
            lines.append("".join(f"<td{_kind(i < words, b)}>{escape(c)}</td>" for i, (c, b) in enumerate(cells)))
        rows = "\n".join(f"<tr>{line}</tr>" for line in lines)
        body.append(f"<h2>{escape(name)}</h2>\n<table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table>")
    page = "\n".join(part for part in body if part)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{page}\n</body></html>\n"
    )


def _kind(word: bool, best: bool) -> str:
    names = [name for name, on in (("word", word), ("best", best)) if on]
    return f' class="{" ".join(names)}"' if names else ""
