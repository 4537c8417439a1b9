"""StudyRecord: what `errata study` measured, as its file holds it: tables, charts, and every number behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from errata.errors import BadRecord
from errata.record.chart import Chart
from errata.record.reading import Finite, first_reason
from errata.record.tables import Table


@dataclass(frozen=True)
class StudyRecord:
    """`what` is the study's name, `data` what it found in JSON types, `facts` those it was about."""

    what: str
    title: str
    note: str
    tables: Mapping[str, Table]
    charts: tuple[Chart, ...]
    command: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    started: str
    seconds: Finite
    facts: tuple[Mapping[str, str], ...] = ()
    data: Any = field(default=None, repr=False)
    kind: Literal["study"] = "study"

    @classmethod
    def of(cls, row: Any, path: Path) -> StudyRecord | None:
        """From what a file holds; None if that is something else than a study. Raises BadRecord."""
        if not isinstance(row, dict) or row.get("kind") != "study":
            return None
        try:
            return _STUDY.validate_python(row)
        except ValidationError as error:
            raise BadRecord(f"{path.name}: {first_reason(error)}") from None


_STUDY = TypeAdapter(StudyRecord)
