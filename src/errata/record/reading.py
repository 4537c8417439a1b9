"""Numbers as records hold them; and reading a record that anything may have happened to."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from errata.errors import BadRecord

MOST = 1e15
"""No number that errata records is larger."""
DEPTH = 40
"""Nothing that errata records is nested deeper than this."""
SHOWN = 200
"""Characters of a reason that are shown."""


def _none_if_not_finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Finite = Annotated[float, Field(ge=-MOST, le=MOST, allow_inf_nan=False)]
FiniteOrNone = Annotated[Finite | None, BeforeValidator(_none_if_not_finite)]
"""A number; None where it is not finite, as some are of a model that an edit has ruined."""
Count = Annotated[int, Field(ge=0, le=int(MOST))]
Layer = Annotated[int, Field(ge=0, le=100_000)]
Setting = bool | Annotated[int, Field(ge=-int(MOST), le=int(MOST))] | Finite | str | None


def finite(value: Any) -> Any:
    """A value of JSON types with None for every number that JSON has no word for: NaN and the infinities."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return _none_if_not_finite(value)


def read_json(path: Path) -> Any:
    """What a file of JSON holds. Raises BadRecord with the reason in one line."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadRecord(f"{path.name} could not be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise BadRecord(f"{path.name} is not text in UTF-8") from None
    except ValueError as error:
        raise BadRecord(f"{path.name} is not whole JSON: {shortened(error)}") from None
    except RecursionError:
        raise BadRecord(f"{path.name} is nested too deep") from None
    if _depth(value) > DEPTH:
        raise BadRecord(f"{path.name} is nested too deep")
    return value


def reason(problem: Mapping[str, Any]) -> str:
    """One of the errors of a ValidationError in words: where it is, and what was expected and found."""
    place = ".".join(str(part) for part in problem["loc"]) or "the record"
    if problem["type"] == "missing":
        return shortened(f"there is no {place}")
    return shortened(f"{place}: {problem['msg'][:1].lower()}{problem['msg'][1:]}, found {repr(problem['input'])[:60]}")


def first_reason(error: ValidationError) -> str:
    """The first thing that is wrong with a record."""
    return reason(error.errors(include_url=False, include_context=False)[0])


def shortened(text: object) -> str:
    """One line of at most a few hundred characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]} ..."


def _depth(value: Any) -> int:
    """How many lists and objects stand inside each other."""
    depth, level = 0, [value]
    while level and depth <= DEPTH:
        depth += 1
        objects = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [inner for values in objects for inner in values]
    return depth
