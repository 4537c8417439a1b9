"""What every verb shares: showing progress, printing tables. The only file that knows the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table as PrintedTable

if TYPE_CHECKING:
    from errata.editors.supplies import Progress as Tell
    from errata.fleet import Fleet
    from errata.record.tables import Table

LAUNCHED = {"WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"}
"""Variables that launchers of several processes set."""

SHORT = 16
"""Columns of words are not folded to less than this."""

out = Console()
err = Console(stderr=True)
_here: ContextVar[Fleet | None] = ContextVar("fleet", default=None)


def fail(message: str, rank: int = 0) -> None:
    """Print an error; the one thing that every rank of a fleet prints."""
    told = f"rank {rank}: {message}" if rank else message
    err.print(f"[red]{escape(told)}[/red]", highlight=False, soft_wrap=True)


def warn(message: str) -> None:
    """Print what the reader should know though the work was done."""
    err.print(f"[yellow]{escape(message)}[/yellow]", highlight=False)


def fleet() -> Fleet:
    """The processes that run this command together."""
    from errata.fleet import SOLO

    return _here.get() or SOLO


@contextmanager
def in_fleet(here: Fleet | None) -> Iterator[None]:
    """Inside, `fleet()` is this one, and only its leading rank prints. None: this process alone."""
    token, out.quiet = _here.set(here), here is not None and not here.leads
    try:
        with here or nullcontext():
            yield
    finally:
        _here.reset(token)
        out.quiet = False


def fleet_here() -> Fleet | None:
    """What a launcher started, with $ERRATA_FLEET_LIMIT seconds of silence allowed to a rank; None without one."""
    if not LAUNCHED & os.environ.keys():
        return None
    from errata.fleet import LIMIT, Fleet

    return Fleet.here(float(os.environ.get("ERRATA_FLEET_LIMIT") or LIMIT))


@contextmanager
def progress() -> Iterator[Tell]:
    """Bars on the error stream, one per stage; a stage that begins again starts its own bar anew. Gone when done."""
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not fleet().leads) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            elif done < bars.tasks[tasks[stage]].completed:
                bars.reset(tasks[stage])
            bars.update(tasks[stage], completed=done, total=total or None)

        yield tell


def show(table: Table, title: str = "") -> None:
    """Print a table, best values bold. Numbers never fold: where the screen is too narrow for them, heads of several
    words stand on several lines, and if this is not enough the table is wider than the screen.
    """
    heads = [*table.columns]
    if _width(table, heads) > out.width:
        heads = [head.replace(" ", "\n") if i >= table.text_columns else head for i, head in enumerate(heads)]
    printed = PrintedTable(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    for i, head in enumerate(heads):
        words = i < table.text_columns
        justify: Literal["left", "right"] = "left" if words else "right"
        printed.add_column(
            escape(head), justify=justify, overflow="fold", no_wrap=not words, min_width=_least(table, heads, i)
        )
    for row, best in zip(table.rows, table.best, strict=True):
        printed.add_row(*(f"[bold]{escape(c)}[/bold]" if b else escape(c) for c, b in zip(row, best, strict=True)))
    needed = _width(table, heads)
    (out if needed <= out.width else Console(width=needed, quiet=out.quiet)).print(printed)


def _width(table: Table, heads: Sequence[str]) -> int:
    """Characters that a printed table takes at least."""
    return 2 + sum(_least(table, heads, i) + 3 for i in range(len(heads)))


def _least(table: Table, heads: Sequence[str], column: int) -> int:
    """Characters that a column takes at least: all of its numbers; of words no more than SHORT."""
    texts = [heads[column], *(row[column] for row in table.rows)]
    longest = max(len(line) for text in texts for line in text.split("\n"))
    return min(longest, SHORT) if column < table.text_columns else longest


def lines(items: Sequence[tuple[str, object]]) -> None:
    """Print names and values in two columns."""
    wide = max(len(name) for name, _ in items)
    for name, value in items:
        out.print(f"  [bold]{name:<{wide}}[/bold]  {escape(str(value))}", highlight=False, soft_wrap=True)


def command_line() -> str:
    """What was typed, for the record."""
    return " ".join(["errata", *sys.argv[1:]])
