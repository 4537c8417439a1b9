"""What every verb shares: opening a model, showing progress, printing tables."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table as PrintedTable
from transformers.utils import logging as transformers_logging

from errata import pocket
from errata.decoder.corpus import Corpus
from errata.decoder.decoder import Decoder
from errata.editors.base import Progress as Tell
from errata.evaluate import Case
from errata.evaluate.benchmarks import named_cases
from errata.fleet import LIMIT, SOLO, Fleet
from errata.pocket.cases import cases as pocket_cases
from errata.recipe import Recipe, parse_window, recipe_for
from errata.record.tables import Table

PRACTISED = 200
"""Cases of the pocket model's tuning half to practise with."""

SHORT = 16
"""Columns of words are not folded to less than this."""

out = Console()
err = Console(stderr=True)
_here: ContextVar[Fleet] = ContextVar("fleet", default=SOLO)

Model = Annotated[str, typer.Argument(help="A checkpoint folder, a hub name, or `pocket` for the built-in model.")]
Method = Annotated[str, typer.Option("--method", "-m", help="See `errata methods`.")]
RecipeName = Annotated[str | None, typer.Option("--recipe", help="A recipe's name or a YAML file.")]
Window = Annotated[str | None, typer.Option("--window", help="Layers to edit, such as 3-7 or 1,3,5.")]
CorpusName = Annotated[str | None, typer.Option("--corpus", help="Text for key statistics: a file, or a dataset name.")]
Practice = Annotated[
    str | None, typer.Option("--practice", help="Cases to learn editing from, for methods that do; not those edited.")
]
Dtype = Annotated[str | None, typer.Option("--dtype", help="float32, bfloat16 ...; default: the checkpoint's.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 ...; auto: spread over all there are.")]
Trust = Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the checkpoint.")]


def fail(message: str, rank: int = 0) -> None:
    """Print an error; the one thing that every rank of a fleet prints."""
    told = f"rank {rank}: {message}" if rank else message
    err.print(f"[red]{escape(told)}[/red]", highlight=False, soft_wrap=True)


def fleet() -> Fleet:
    """The processes that run this command together."""
    return _here.get()


@contextmanager
def in_fleet(here: Fleet) -> Iterator[None]:
    """Inside, `fleet()` is this one, and only its leading rank prints."""
    token, out.quiet = _here.set(here), not here.leads
    try:
        with here:
            yield
    finally:
        _here.reset(token)
        out.quiet = False


def fleet_here() -> Fleet:
    """What a launcher started, with $ERRATA_FLEET_LIMIT seconds of silence allowed to a rank."""
    return Fleet.here(float(os.environ.get("ERRATA_FLEET_LIMIT") or LIMIT))


def open_decoder(model: str, dtype: str | None = None, device: str | None = None, trust: bool = False) -> Decoder:
    """The model named on the command line."""
    transformers_logging.disable_progress_bar()
    if model != "pocket":
        where: dict[str, Any] = {"device_map": "auto"} if device == "auto" else {"device": device}
        return Decoder.from_pretrained(model, dtype=dtype, **where, trust_remote_code=trust)
    # Stored in bf16 to be small, run in float32: CPUs without bf16 units are tens of times slower in it.
    decoder = Decoder.from_pretrained(
        pocket.path(), dtype=dtype or "float32", device=None if device == "auto" else device
    )
    decoder.name = "pocket"
    return decoder


def recipe_of(decoder: Decoder, name: str | None, window: str | None) -> Recipe:
    """The recipe to use, with the window replaced if one is given."""
    recipe = recipe_for(decoder, name)
    return recipe.with_window(parse_window(window)) if window else recipe


def corpus_of(model: str, name: str | None) -> Corpus | None:
    """The corpus named, or the pocket model's own."""
    if name is not None:
        return Corpus.named(name)
    return Corpus.of(pocket.corpus()) if model == "pocket" else None


def practice_of(model: str, name: str | None) -> Sequence[Case]:
    """The cases named, or for the pocket model those of its tuning half; empty if there are none."""
    if name is not None:
        return named_cases(name)
    return pocket_cases(PRACTISED, split="tuning") if model == "pocket" else ()


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
