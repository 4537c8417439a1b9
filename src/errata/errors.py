"""Every error errata raises on purpose. Each says what was found, what was expected, and what to do.

ErrataError
├── FactError                 something is wrong with the facts
│   ├── BadRecord             a file or one of its records cannot be read
│   ├── SubjectNotFound       the subject is not in the prompt
│   └── UnusableFacts         all facts that cannot be edited, listed at once
├── ModelError                something is wrong with the model at hand
│   ├── UnsupportedModel      no layout, or mixture-of-experts blocks
│   ├── WindowOutside         the window names layers the model does not have
│   ├── NotFinite             NaN or infinity in weights, states or updates
│   ├── Collapsed             the first batch of edits already ruins the model
│   ├── WrongModel            the edit was made for other weights
│   ├── AlreadyEdited         the model carries an edit already
│   ├── NotPutOn              an edit is to be taken off that is not on the model
│   ├── WeightsChanged        something else changed the weights that an edit is on
│   └── RowTooLong            a text has more tokens than the model has positions
├── StatisticsError           key statistics are missing, or of another model or shape
├── SolveError                a linear system has no usable solution
│   ├── SingularSystem
│   ├── EmptyNullSpace
│   └── FullNullSpace
├── BadRecipe                 settings hold a key nobody knows, or a value of the wrong kind
├── UnfitParts                methods cannot be put together in this way
├── BadPlugin                 a file or package does not define the methods it should
├── NoPath                    an edit whose settings cannot be chosen from a path
├── WrongEdit                 a method cannot go on from an edit of this kind
├── StoreError                something could not be written or read back
├── FleetError                a process of a run on many is lost, or has failed
├── Untrusted                 what would run a stranger's code, without consent
└── UnknownName               a method, model, recipe key or layout nobody knows
    └── UnknownMethod
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

SHOWN = 10
"""Problems of one kind that a message lists."""

LONGEST = 80
"""Characters of a value that a message shows."""


def printable(value: object, longest: int = LONGEST) -> str:
    """A value as text for a message: quoted, on one line, without control codes, and cut if it is long."""
    text = repr(value[: longest + 1]) if isinstance(value, str) else repr(value)
    return text if len(text) <= longest + 2 else f"{text[:longest]}...{text[0] if isinstance(value, str) else ''}"


def in_words(problem: Mapping[str, Any], where: str = "") -> str:
    """One of pydantic's problems: the place, what was expected, and what is there unless it is missing."""
    place = ".".join([*[where] * bool(where), *(str(part)[:LONGEST] for part in problem["loc"])]) or "the value"
    if problem["type"] in ("missing", "missing_argument"):
        return f"{place} is missing"
    return f"{place}: {problem['msg'][: 2 * LONGEST]}, found {printable(problem['input'])}"


class ErrataError(Exception):
    """The root: catch this to catch everything errata raises on purpose."""


class FactError(ErrataError):
    """Something is wrong with the facts."""


class BadRecord(FactError):
    """A file or one of its records cannot be read."""


class SubjectNotFound(FactError):
    """The subject does not occur where the prompt says."""


class UnusableFacts(FactError):
    """Facts that cannot be edited. `problems` has all reasons, as `errata.fact.Problem` where one fact has it."""

    def __init__(self, problems: Iterable[object], advice: str = "") -> None:
        self.problems = list(problems)
        shown = "\n".join(f"  {problem}" for problem in self.problems[:SHOWN])
        more = f"\n  ... and {len(self.problems) - SHOWN} more" if len(self.problems) > SHOWN else ""
        last = f"\n{advice}" if advice else ""
        super().__init__(f"{len(self.problems)} problem(s) with the facts; nothing was changed:\n{shown}{more}{last}")


class ModelError(ErrataError):
    """Something is wrong with the model at hand."""


class UnsupportedModel(ModelError):
    """No layout is known, or the blocks are of a kind that cannot be edited."""


class WindowOutside(ModelError):
    """The window names layers the model does not have."""


class NotFinite(ModelError):
    """NaN or infinity where numbers are needed."""


class Collapsed(ModelError):
    """The first batch of edits already crosses a limit of the guard."""


class WrongModel(ModelError):
    """An edit was made for other weights than those at hand."""


class AlreadyEdited(ModelError):
    """The model carries an edit already."""


class NotPutOn(ModelError):
    """An edit is to be taken off that is not on the model."""


class WeightsChanged(ModelError):
    """Something else changed matrices that carry an edit."""


class RowTooLong(ModelError):
    """A text has more tokens than the model has positions."""


class StatisticsError(ErrataError):
    """Key statistics are missing, or belong to another model or shape."""


class SolveError(ErrataError):
    """A linear system has no usable solution."""


class SingularSystem(SolveError):
    """The Cholesky factor failed."""


class EmptyNullSpace(SolveError):
    """No direction is below the threshold: the edit would do nothing."""


class FullNullSpace(SolveError):
    """Every direction is below the threshold: nothing would be preserved."""


class EmptyScore(ErrataError):
    """A score of no case at all has no value."""


class BadRecipe(ErrataError):
    """Settings hold a key nobody knows, or a value of the wrong kind."""


class UnfitParts(ErrataError):
    """Methods that cannot be put together in the way their names were."""


class BadPlugin(ErrataError):
    """A user's file, or an installed package, does not define the methods it should."""


class NoPath(ErrataError):
    """An edit whose settings cannot be chosen from a path, because no two of its points would share anchors."""


class WrongEdit(ErrataError):
    """An edit is not of the kind that a method can go on from."""


class StoreError(ErrataError):
    """Something could not be written, or read back."""


class FleetError(ErrataError):
    """Another process of this run is lost or has failed."""


class Untrusted(ErrataError):
    """Something that would run a stranger's code, and nobody has agreed to it."""


class UnknownName(ErrataError):
    """A name nobody knows; the nearest ones are suggested."""

    def __init__(self, kind: str, name: str, known: Iterable[str], see: str = "") -> None:
        known = sorted(known)
        close = get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(repr, close))}?" if close else f"Known: {', '.join(known)}."
        super().__init__(f"unknown {kind} {printable(name)}. {hint}{f'  See {see}.' if see else ''}")


class UnknownMethod(UnknownName):
    """A method no row of the table names."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__("method", name, known, see="`errata methods`")
