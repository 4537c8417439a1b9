"""Titled tables as LaTeX, flat rows as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from errata.record.tables import Table

_TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_TEX |= {c: f"\\{c}" for c in "&%$#_{}"}


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


def latex(tables: Mapping[str, Table], note: str = "") -> str:
    """A booktabs table per section. Needs \\usepackage{booktabs}."""
    lines = [f"% {line}" for line in note.splitlines()]
    for name, table in tables.items():
        align = "l" * table.text_columns + "r" * (len(table.columns) - table.text_columns)
        lines += [r"\begin{table}", r"\centering", rf"\caption{{{tex(name)}}}", rf"\begin{{tabular}}{{{align}}}"]
        lines += [r"\toprule", " & ".join(map(tex, table.columns)) + r" \\", r"\midrule"]
        for row, marks in zip(table.rows, table.best, strict=True):
            cells = [rf"\textbf{{{tex(cell)}}}" if best else tex(cell) for cell, best in zip(row, marks, strict=True)]
            lines.append(" & ".join(cells) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
    return "\n".join(lines)


def tex(text: str) -> str:
    """Text with TeX's own characters escaped."""
    return "".join(_TEX.get(c, c) for c in text)
