"""load_edit: a saved edit of whatever kind."""

from __future__ import annotations

from pathlib import Path

from errata.editors.base import Edit, WeightEdit
from errata.editors.folder import DELTA, MEMORY
from errata.editors.side_memory import SideMemory
from errata.errors import StoreError
from errata.files import recover


def load_edit(folder: str | Path) -> Edit:
    """Read what `Edit.save` wrote: a change of weights or a side memory. Raises StoreError."""
    folder = Path(folder)
    recover(folder)
    if (folder / MEMORY).is_file():
        return SideMemory.load(folder)
    if (folder / DELTA).is_file():
        return WeightEdit.load(folder)
    raise StoreError(f"{folder}: not a saved edit: it holds neither {DELTA} nor {MEMORY}")
