"""Files, or datasets of the Hugging Face hub, to Cases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from errata.errors import BadRecord, ErrataError, UnknownName
from errata.evaluate.base import Case
from errata.evaluate.benchmarks.layouts import LAYOUTS, RecordLayout
from errata.evaluate.benchmarks.record import Record
from errata.evaluate.references import Topic, read_references
from errata.fact import read_records

_SHOWN = 10
_FORMS = (".json", ".jsonl", ".csv")


def read_cases(
    path: str | Path,
    layout: str | None = None,
    limit: int | None = None,
    references: str | Path | None = None,
) -> list[Case]:
    """The first `limit` records of a JSON, JSON lines or CSV file, in the order of the file.

    `layout` is the name of a row of `LAYOUTS`; None takes the one that the first record's fields fit.
    `references` is a file of reference texts (`read_references`), which `Consistency` compares free texts with.
    Raises BadRecord naming every record that cannot be read: none is left out, so that case i is record i.
    """
    return _cases(read_records(path)[:limit], layout, references)


def named_cases(
    source: str, layout: str | None = None, limit: int | None = None, references: str | Path | None = None
) -> list[Case]:
    """As `read_cases` if there is a file of that name, else a dataset of the hub: `name`, `name:config`, or
    `name:config:split` (split `train` unless given). Raises BadRecord."""
    path = Path(source)
    if path.is_file() or path.suffix.lower() in _FORMS:
        return read_cases(path, layout, limit, references)
    name, config, split, *_ = [source, "", ""] if path.is_dir() else [*source.split(":"), "", ""]
    return read_hub_cases(
        name, split=split or "train", config=config or None, layout=layout, limit=limit, references=references
    )


def detect_layout(path: str | Path) -> str:
    """The name of the layout that `read_cases` takes for this file. Raises BadRecord if none fits."""
    return _fitting(*read_records(path)[0]).name


def read_hub_cases(
    name: str,
    *,
    split: str = "train",
    config: str | None = None,
    layout: str | None = None,
    limit: int | None = None,
    references: str | Path | None = None,
    **options: Any,
) -> list[Case]:
    """As `read_cases`, from a dataset of the hub or a local folder of one; `options` go to `load_dataset`.

    Needs the optional `datasets` library (`pip install errata[hub]`). Raises BadRecord if there is no such dataset.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise ErrataError(f"{name}: reading datasets needs `pip install 'errata[hub]'`") from None
    try:
        rows = load_dataset(name, config, split=split, **options)
    except (OSError, ValueError) as error:  # not there, out of reach, or without this config or split
        raise BadRecord(f"{name}: neither a file nor a dataset that could be read from the hub: {error}") from error
    return _cases([(f"{name} {split}[{i}]", row) for i, row in enumerate(islice(rows, limit))], layout, references)


def _cases(rows: Iterable[tuple[str, dict[str, Any]]], layout: str | None, references: str | Path | None) -> list[Case]:
    rows = list(rows)
    if not rows:
        raise BadRecord("no records to read; the limit must be at least 1")
    chosen = _named(layout) if layout else _fitting(*rows[0])
    texts = read_references(references) if references else {}
    if references and chosen.topic is None:
        raise BadRecord(
            f"records of layout {chosen.name!r} do not say which texts of {references} are theirs: they have no "
            "relation_id and no id of their target. The files of CounterFact's authors have both."
        )
    cases, problems = [], []
    for number, (where, row) in enumerate(rows):
        try:
            record = Record(where, number, row)
            cases.append(_with_references(chosen.read(record), chosen, record, texts))
        except BadRecord as error:
            problems.append(str(error) if where in str(error) else f"{where}: {error}")
    if problems:
        more = f"\n  ... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        listed = "\n  ".join(problems[:_SHOWN])
        raise BadRecord(
            f"{len(problems)} of {len(rows)} records do not fit the layout {chosen.name!r}:\n  {listed}{more}"
        )
    return cases


def _with_references(case: Case, layout: RecordLayout, record: Record, texts: Mapping[Topic, tuple[str, ...]]) -> Case:
    if not texts or layout.topic is None:
        return case
    return replace(case, references=texts.get(layout.topic(record), ()))


def _named(name: str) -> RecordLayout:
    by_name = {layout.name: layout for layout in LAYOUTS}
    if name not in by_name:
        raise UnknownName("record layout", name, by_name)
    return by_name[name]


def _fitting(where: str, row: dict[str, Any]) -> RecordLayout:
    for layout in LAYOUTS:
        if layout.fits(row):
            return layout
    known = "; ".join(f"{layout.name} ({', '.join(layout.fields)})" for layout in LAYOUTS)
    raise BadRecord(f"{where}: fields {', '.join(map(repr, row))} fit no layout. Known: {known}")
