"""How a command ends: its exit code, and the one line that says why."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from errata.cli.console import fail
from errata.errors import ErrataError
from errata.visible import visible

DONE, REFUSED, USAGE, INCOMPLETE, BUG = 0, 1, 2, 3, 70
INTERRUPTED, PIPE_CLOSED, TERMINATED = (128 + signal.Signals[name] for name in ("SIGINT", "SIGPIPE", "SIGTERM"))
CODES = {
    DONE: "done: all that was asked for",
    REFUSED: "refused or failed, one line says why; no model or edit was changed",
    USAGE: "the command line is not understood",
    INCOMPLETE: "done and written, but not all that was asked for: facts missed, cells failed, runs left out",
    BUG: "a mistake in errata; --traceback shows where",
    INTERRUPTED: "interrupted by Ctrl-C; the same command goes on from what is stored",
    PIPE_CLOSED: "whoever read the output stopped reading",
    TERMINATED: "ended by SIGTERM; as after Ctrl-C",
}
TRACEBACK = "ERRATA_TRACEBACK"
"""Variable that, if set, lets a mistake in errata show its traceback."""
_ENVIRONMENT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE)
_MEMORY = "The memory does not suffice. Try --batch with fewer facts, --dtype bfloat16 or a smaller window."


def epilogue() -> str:
    """The exit codes, for the help."""
    return "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in CODES.items()) + "."


@dataclass
class Speaker:
    """The process that an error is of: its rank in a fleet."""

    rank: int = 0


@contextmanager
def one_line_per_error() -> Iterator[Speaker]:
    """Inside, every error becomes one line and SystemExit with its code, never a traceback nobody asked for.

    Yields who says it, to be told which rank of a fleet this is.
    """
    speaker = Speaker()
    with terminated_like_interrupted() as signals:
        try:
            yield speaker
        except SystemExit as left:
            if left.code != INTERRUPTED:
                raise
            sys.exit(_interrupted(signals))
        except KeyboardInterrupt:
            sys.exit(_interrupted(signals))
        except Exception as error:
            sys.exit(explain(error, speaker.rank))


def explain(error: Exception, rank: int = 0) -> int:
    """Say in one line what went wrong, and return the exit code."""
    name = type(error).__name__
    if isinstance(error, ErrataError):
        fail(f"{name}: {error}", rank)
        return REFUSED
    if isinstance(error, BrokenPipeError):
        _read_by_nobody()
        return PIPE_CLOSED
    if isinstance(error, MemoryError) or name == "OutOfMemoryError":
        fail(f"OutOfMemory: {_MEMORY}", rank)
        return REFUSED
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT:
        fail(f"{name}: {error}", rank)
        return REFUSED
    if os.environ.get(TRACEBACK):
        sys.stderr.write(visible("".join(traceback.format_exception(error))))
    place = traceback.extract_tb(error.__traceback__)[-1]
    reason = " ".join(str(error).split())[:300]
    fail(
        f"errata made a mistake: {name}: {reason} ({os.path.basename(place.filename)}, line {place.lineno}). Please "
        f"report it with the command and what --traceback (or {TRACEBACK}=1) shows.",
        rank,
    )
    return BUG


def _interrupted(signals: list[int]) -> int:
    fail(
        "Interrupted. The checkpoint is unchanged and every file is whole; anchors computed so far are kept for the "
        "next run."
    )
    return TERMINATED if signals else INTERRUPTED


def _read_by_nobody() -> None:
    """Let what is still to be printed vanish, so that Python's last flush does not fail too."""
    with suppress(OSError):  # a stream that is no file needs none of this
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def terminated_like_interrupted() -> Iterator[list[int]]:
    """Inside, SIGTERM raises KeyboardInterrupt in the main thread, so that what is half done is undone; once only.

    Yields the signals that came.
    """
    signals: list[int] = []

    def stop(number: int, frame: object) -> None:
        if not signals:
            signals.append(number)
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGTERM, before)
