"""One input, used, and what came of it: what was raised, what was said, and whether anything else was touched."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from errata import Decoder, ErrataError
from errata.cli import app as cli
from errata.cli.ending import BUG, DONE, INCOMPLETE
from errata.errors import UnusableFacts

LONGEST = 500
"""Characters of a message, for each problem that it names."""
PATIENCE = 20
"""Seconds until an input counts as too slow."""


class TooSlow(BaseException):
    """The input has used up its seconds."""


class Refused(Exception):
    """The command line said no, with an exit code that says so."""


class Mistake(Exception):
    """The command line says that errata itself made a mistake: a traceback put into one line."""


class Contradiction(Exception):
    """The exit code says one thing, what was written another."""


@dataclass
class Verdict:
    """What one input led to. `kind`: accepted, refused, traceback, slow or died."""

    kind: str
    message: str = ""
    where: str = ""
    """Of a traceback: its error, and the innermost line of errata's own."""
    too_long: int = 0
    """Characters of the longest message about one problem, if they are too many."""
    weights_changed: bool = False
    outside: list[str] = field(default_factory=list)
    """Files that were changed, removed or made where nothing was to be written."""
    exit_code: str = ""
    """An exit code that does not fit what was written."""

    @property
    def failed(self) -> bool:
        wrong = self.too_long or self.weights_changed or self.outside or self.exit_code
        return bool(wrong) or self.kind in ("traceback", "died")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Bench:
    """A tiny model, in memory and as a folder, and a place to write: all that an input is tried with."""

    root: Path
    decoder: Decoder

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def out(self) -> Path:
        """Where a command may write."""
        return self.root / "out"

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def options(self) -> tuple[str, ...]:
        """A recipe and a corpus for the tiny model."""
        return ("--recipe", str(self.root / "recipe.yaml"), "--corpus", str(self.root / "corpus.txt"))

    def call(self, *words: object) -> str:
        """Run the command line in this process; what it printed. Raises Refused if it did nothing, and says so.

        The streams are as strict as a terminal's: what cannot be encoded is an error.
        """
        argv, streams = sys.argv, (sys.stdout, sys.stderr)
        sys.argv = ["errata", *map(str, words)]
        sys.stdout = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        sys.stderr = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
        code: Any = 0
        try:
            cli.main()
        except SystemExit as left:
            code = left.code
        finally:
            said = [stream.buffer.getvalue().decode() for stream in (sys.stdout, sys.stderr)]  # type: ignore[attr-defined]
            sys.argv, (sys.stdout, sys.stderr) = argv, streams
        if code == BUG:
            raise Mistake(said[1])
        if code not in (None, DONE, INCOMPLETE):
            raise Refused(said[1] or said[0])
        return said[0]


def weights_of(decoder: Decoder) -> dict[str, Tensor]:
    """The weights by name, as they are now."""
    return {name: weight.detach().clone() for name, weight in decoder.model.named_parameters()}


def same_weights(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def files_below(root: Path, without: Sequence[Path] = ()) -> dict[str, tuple[int, int, int]]:
    """Every file and folder with what tells it from another: inode, time of change (files only) and size."""
    seen = {}
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if Path(folder, name) not in without]
        for name in (*folders, *files):
            stat = os.lstat(Path(folder, name))
            is_folder = name in folders
            seen[str(Path(folder, name).relative_to(root))] = (
                stat.st_ino,
                0 if is_folder else stat.st_mtime_ns,
                0 if is_folder else stat.st_size,
            )
    return seen


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raises TooSlow inside when the seconds are over."""

    def over(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def judged(
    bench: Bench,
    use: Callable[[], object],
    original: dict[str, Tensor],
    patience: int = PATIENCE,
    places_named: bool = False,
) -> Verdict:
    """Use an input and say what came of it. `original`: the decoder's weights as they have to be afterwards.

    `places_named`: the input itself says where to write, so new files may be anywhere; what was there must not change.
    """
    allowed = (bench.out, bench.store)
    before = files_below(bench.root, allowed)
    try:
        with at_most(patience), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            verdict = _used(use)
    except TooSlow:
        verdict = Verdict("slow")
    after = files_below(bench.root, allowed)
    names = before.keys() if places_named else before.keys() | after.keys()
    verdict.outside = sorted(name for name in names if before.get(name) != after.get(name))
    for name in sorted(after.keys() - before.keys(), reverse=True):
        path = bench.root / name
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    verdict.weights_changed = not same_weights(original, weights_of(bench.decoder))
    return verdict


def _used(use: Callable[[], object]) -> Verdict:
    try:
        use()
    except (ErrataError, Refused) as error:
        longest = max(map(len, _problems(error)))
        return Verdict("refused", str(error)[:2000], too_long=longest if longest > LONGEST else 0)
    except Mistake as error:
        return Verdict("traceback", str(error), re.sub(r"0x\w+|/\S+|'.*'", "...", str(error))[:120].strip())
    except Contradiction as error:
        return Verdict("refused", str(error), exit_code=str(error))
    except Exception as error:
        return Verdict("traceback", traceback.format_exc()[-3000:], where(error))
    return Verdict("accepted")


def _problems(error: Exception) -> list[str]:
    if isinstance(error, UnusableFacts):
        return [str(problem) for problem in error.problems] or [""]
    return str(error).splitlines() or [""]


def where(error: BaseException) -> str:
    """An error by its type and the innermost line of errata's own, which is how failures are counted by kind."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/errata/" in frame.filename]
    frame = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {frame.filename.split('/errata/')[-1]}:{frame.name}"
