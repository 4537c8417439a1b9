"""A cell's record: whole or not there at all; and what is kept of a cell that failed."""

from __future__ import annotations

import json
import os
import shutil
import traceback
from datetime import UTC, datetime
from uuid import uuid4

from errata.bench.planning import Planned
from errata.record.run import CARD, RECORD, Run

FAILED = "failed.json"


def write_record(run: Run, plan: Planned) -> None:
    """The card first and the record last, each moved into place whole: a folder with a record is finished."""
    folder = plan.folder
    made = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}")
    try:
        run.write(made)
        folder.mkdir(parents=True, exist_ok=True)
        for name in (CARD, RECORD):
            os.replace(made / name, folder / name)
        (folder / FAILED).unlink(missing_ok=True)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def write_failure(error: Exception, plan: Planned) -> str:
    """Keep what went wrong where the record would be; the cell is tried again next time. Returns it in words."""
    told = f"{type(error).__name__}: {error}"
    row = {
        "cell": plan.cell.to_json(),
        "error": told,
        "traceback": "".join(traceback.format_exception(error)),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    plan.folder.mkdir(parents=True, exist_ok=True)
    (plan.folder / FAILED).write_text(json.dumps(row, indent=1, ensure_ascii=False), encoding="utf-8")
    return told


def read_failure(plan: Planned) -> str | None:
    """What `write_failure` kept of this cell, if it did."""
    try:
        return str(json.loads((plan.folder / FAILED).read_text(encoding="utf-8"))["error"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError):
        return "it failed, and what is kept of that cannot be read"
