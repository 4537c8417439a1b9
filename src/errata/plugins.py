"""Plugins: methods written elsewhere, in an installed package or in a file that the user names."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from errata.errors import BadPlugin, UnknownMethod
from errata.method import Method

GROUP = "errata.methods"
"""Of entry points: `mine = "my_package.my_module:MINE"` names a Method."""

TABLE = "METHODS"


def installed() -> dict[str, EntryPoint]:
    """Methods that installed packages bring, by name; nothing of theirs is run yet."""
    return {point.name: point for point in entry_points(group=GROUP)}


def installed_method(name: str, known: Iterable[str] = ()) -> Method:
    """A method that an installed package brings. Raises UnknownMethod with the nearest names, or BadPlugin."""
    points = installed()
    if name not in points:
        raise UnknownMethod(name, [*known, *points])
    try:
        value = points[name].load()
    except Exception as error:
        raise BadPlugin(f"method {name!r} of {points[name].value}: {type(error).__name__}: {error}") from error
    if not isinstance(value, Method):
        raise BadPlugin(f"method {name!r} of {points[name].value}: expected a Method, found a {type(value).__name__}")
    return value


def read_plugin(path: Path, table: Mapping[str, Method]) -> dict[str, Method]:
    """The methods that a Python file defines: its `METHODS`, by name, or else every Method by its variable's name.

    This runs the file. Raises BadPlugin if it fails, defines none, or uses a name that `table` has.
    """
    module = _run(path.resolve())
    named: Any = getattr(module, TABLE, None)
    if named is None or named is table:
        named = {name: value for name, value in vars(module).items() if isinstance(value, Method)}
    if not isinstance(named, Mapping) or not named:
        raise BadPlugin(f'{path}: defines no method. Write METHODS = {{"name": Pair(construction, solver)}}.')
    own = {name: value for name, value in named.items() if table.get(name) is not value}
    for name, value in own.items():
        if not isinstance(name, str) or not isinstance(value, Method):
            raise BadPlugin(f"{path}: METHODS[{name!r}] is a {type(value).__name__}, expected a Method such as a Pair.")
        if ":" in name or "," in name:
            raise BadPlugin(f"{path}: the name {name!r} holds a ':' or ',', which put names together. Choose another.")
        if name in table:
            raise BadPlugin(f"{path}: errata has a method {name!r} already. Choose another name.")
    return own


def _run(path: Path) -> ModuleType:
    """The file as a module; known to Python by a name of its own, so that its dataclasses find their types."""
    name = f"errata_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadPlugin(f"{path}: expected a Python file, with a name that ends in .py.")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise BadPlugin(f"{path}: could not be run: {type(error).__name__}: {error}") from error
    return module
