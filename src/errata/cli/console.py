"""What every verb shares: showing progress, printing tables. The only file that knows the terminal."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from time import perf_counter
from typing import TYPE_CHECKING, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Table as PrintedTable
from rich.text import Text

from errata.errors import ErrataError
from errata.visible import visible

if TYPE_CHECKING:
    from errata.editors.supplies import Progress as Tell
    from errata.fleet import Fleet
    from errata.record.tables import Table

LAUNCHED = {"WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"}
"""Variables that launchers of several processes set."""

SHORT = 16
"""Columns of words are not folded to less than this."""


class Terminal(Console):
    """A console that nothing printed can command: what a terminal would obey is written out (see `visible`)."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


out = Terminal()
err = Terminal(stderr=True)
_here: ContextVar[Fleet | None] = ContextVar("fleet", default=None)


def say(text: str, style: str = "") -> None:
    """Print a text as it is: nothing in it is markup."""
    out.print(Text(visible(text), style=style), soft_wrap=True)


def warn(message: str) -> None:
    """Print, on the error stream, what the reader should know though the work goes on."""
    if fleet_leads():
        err.print(Text(visible(message), style="yellow"), soft_wrap=True)


def report(message: str) -> None:
    """Print on the error stream how far the work is."""
    if fleet_leads():
        err.print(Text(visible(message)), soft_wrap=True)


def fail(message: str, rank: int = 0) -> None:
    """Print an error; the one thing that every rank of a fleet prints."""
    named = f"rank {rank}: {message}" if rank else message
    err.print(Text(visible(named), style="red"), soft_wrap=True)


def write_out(text: str) -> None:
    """Print a document, such as a table in CSV, without any change to its lines."""
    out.out(visible(text), highlight=False)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Inside, Python's warnings are printed as one line each, without the code that gave them."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *where, **kwargs: warn(str(message))
        yield


def fleet_leads() -> bool:
    """Whether this process prints: alone, or the leading rank."""
    here = _here.get()
    return here is None or here.leads


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

    given = os.environ.get("ERRATA_FLEET_LIMIT") or str(LIMIT)
    try:
        return Fleet.here(float(given))
    except ValueError:
        raise ErrataError(f"ERRATA_FLEET_LIMIT is {given!r}, expected a number of seconds") from None


@contextmanager
def progress() -> Iterator[Tell]:
    """Bars on the error stream, one per stage; a stage that begins again starts its own bar anew. Gone when done.

    Where the stream is no terminal: a line now and then, see `Lines`.
    """
    if not err.is_terminal:
        yield Lines()
        return
    columns = (
        TextColumn("{task.description:<28}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not fleet_leads()) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            elif done < bars.tasks[tasks[stage]].completed:
                bars.reset(tasks[stage])
            bars.update(tasks[stage], completed=done, total=total or None)

        yield tell


class Lines:
    """How far a stage is, in a line at most every `SECONDS`: for logs and pipes."""

    SECONDS = 10.0

    def __init__(self) -> None:
        self.last = perf_counter()

    def __call__(self, stage: str, done: int, total: int) -> None:
        if perf_counter() - self.last >= self.SECONDS:
            self.last = perf_counter()
            report(f"{stage}: {done:,} of {total:,}" if total else f"{stage}: {done:,}")


def show(table: Table, title: str = "") -> None:
    """Print a table, best values bold. Numbers never fold: where the screen is too narrow for them, heads of several
    words stand on several lines, and if this is not enough the table is wider than the screen.
    """
    heads = [*table.columns]
    if _width(table, heads) > out.width:
        heads = [head.replace(" ", "\n") if i >= table.text_columns else head for i, head in enumerate(heads)]
    printed = PrintedTable(
        title=Text(visible(title)), title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD
    )
    for i, head in enumerate(heads):
        words = i < table.text_columns
        justify: Literal["left", "right"] = "left" if words else "right"
        printed.add_column(
            Text(visible(head)),
            justify=justify,
            overflow="fold",
            no_wrap=not words,
            min_width=_least(table, heads, i),
        )
    for row, best in zip(table.rows, table.best, strict=True):
        printed.add_row(*(Text(visible(c), style="bold" if b else "") for c, b in zip(row, best, strict=True)))
    needed = _width(table, heads)
    (out if needed <= out.width else Terminal(width=needed, quiet=out.quiet)).print(printed)


def _width(table: Table, heads: Sequence[str]) -> int:
    """Characters that a printed table takes at least."""
    return 2 + sum(_least(table, heads, i) + 3 for i in range(len(heads)))


def _least(table: Table, heads: Sequence[str], column: int) -> int:
    """Characters that a column takes at least: all of its numbers; of words no more than SHORT."""
    texts = [heads[column], *(row[column] for row in table.rows)]
    longest = max(len(line) for text in texts for line in visible(text).split("\n"))
    return min(longest, SHORT) if column < table.text_columns else longest


def lines(items: Sequence[tuple[str, object]]) -> None:
    """Print names and values in two columns."""
    wide = max(len(name) for name, _ in items)
    for name, value in items:
        line = Text(f"  {visible(name):<{wide}}", style="bold").append(f"  {visible(str(value))}", style="not bold")
        out.print(line, soft_wrap=True)


def command_line() -> str:
    """What was typed, for the record."""
    return " ".join(["errata", *sys.argv[1:]])
