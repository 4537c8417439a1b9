"""A cell's record: whole or not there at all; and what is kept of a cell that failed."""

from __future__ import annotations

import json
import traceback
from datetime import UTC, datetime

from errata.bench.planning import Planned
from errata.files import write_text
from errata.record.run import Run

FAILED = "failed.json"


def write_record(run: Run, plan: Planned) -> None:
    """Card and record, each whole, the record last: a folder with a record is finished. Raises StoreError."""
    run.write(plan.folder)
    (plan.folder / FAILED).unlink(missing_ok=True)


def write_failure(error: Exception, plan: Planned) -> str:
    """Keep what went wrong where the record would be; the cell is tried again next time. Returns it in words.

    Raises StoreError.
    """
    told = f"{type(error).__name__}: {error}"
    row = {
        "cell": plan.cell.to_json(),
        "error": told,
        "traceback": "".join(traceback.format_exception(error)),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_text(plan.folder / FAILED, json.dumps(row, indent=1, ensure_ascii=False))
    return told


def read_failure(plan: Planned) -> str | None:
    """What `write_failure` kept of this cell, if it did."""
    try:
        return str(json.loads((plan.folder / FAILED).read_text(encoding="utf-8"))["error"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError):
        return "it failed, and what is kept of that cannot be read"
