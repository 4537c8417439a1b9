"""Description: an object in words by which its results can be kept: settings, and code that is not errata's own."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from uuid import uuid4

KNOWN = {"errata", "builtins", "abc", "typing", "torch"}
"""Packages whose code is told by their version, or by the store's schema."""


def description(part: object) -> str:
    """Its repr, and a hash of the code of every class in it that somebody else wrote.

    A method under work keeps its name and settings while its code changes; what the old code made is not what the new
    one makes.
    """
    codes = sorted({f"{kind.__qualname__} {_code(kind)}" for kind in _foreign(part)})
    return repr(part) + "".join(f" # {code}" for code in codes)


def _foreign(part: object) -> Iterator[type]:
    """Classes that the object and its parts are made of, and which are not of the known packages."""
    yield from (kind for kind in type(part).__mro__ if kind.__module__.partition(".")[0] not in KNOWN)
    if is_dataclass(part) and not isinstance(part, type):
        for field in fields(part):
            yield from _foreign(getattr(part, field.name))


def _code(kind: type) -> str:
    """A hash of the file that the class stands in, else of its own source; of none, a word that never comes again."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    try:
        source = Path(file).read_bytes() if file else inspect.getsource(kind).encode()
    except (OSError, TypeError):
        source = uuid4().bytes
    return hashlib.blake2b(source, digest_size=8).hexdigest()
