"""Files, or datasets of the Hugging Face hub, to facts and cases. Every fact that is read is read here."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from errata.dataset.case import Case
from errata.dataset.conflicts import Exam, OnConflict, settle
from errata.dataset.formats import FORMATS, RecordFormat, format_named, format_of, misspelt
from errata.dataset.record import Record
from errata.dataset.references import Topic, read_references
from errata.errors import SHOWN, BadRecord, ErrataError, printable
from errata.fact import Fact
from errata.rows import SUFFIXES, Row, check_characters, read_rows

Note = Callable[[str], None]
"""Called with each thing about the records that is worth knowing, in words."""


class RecordWarning(UserWarning):
    """Records were read, but not all of them, or not quite as they are written."""


def _warn(message: str) -> None:
    warnings.warn(message, RecordWarning, stacklevel=4)


def read_facts(
    path: str | Path,
    format: str | None = None,
    limit: int | None = None,
    *,
    on_conflict: OnConflict = "refuse",
    note: Note = _warn,
) -> list[Fact]:
    """The facts of a file that `read_cases` reads, without the prompts that examine them."""
    return [case.fact for case in read_cases(path, format, limit, on_conflict=on_conflict, note=note)]


def read_cases(
    path: str | Path,
    format: str | None = None,
    limit: int | None = None,
    references: str | Path | None = None,
    *,
    on_conflict: OnConflict = "refuse",
    note: Note = _warn,
) -> list[Case]:
    """The cases of the first `limit` records of a JSON, JSON lines, CSV or TSV file, in the order of the file.

    A record has one case for each of its facts: one in most formats, so that case i is record i there. `format` is
    the name of a row of `FORMATS`; None takes the one that the first record's fields fit. `references` is a file of
    reference texts (`read_references`), which `Consistency` compares free texts with. `on_conflict`: what becomes of
    records that repeat or contradict each other (`settle`). `note` is called with what is worth knowing; by default
    it is a RecordWarning.

    Raises BadRecord naming every record that cannot be read, UnusableFacts naming those that conflict, UnknownName.
    """
    rows = _unwrapped(read_rows(path))
    return _cases(rows[: _checked(limit)], format, references, on_conflict, note)


def named_cases(
    source: str,
    format: str | None = None,
    limit: int | None = None,
    references: str | Path | None = None,
    *,
    on_conflict: OnConflict = "refuse",
    note: Note = _warn,
) -> list[Case]:
    """As `read_cases` if there is a file of that name, else a dataset of the hub: `name`, `name:config`, or
    `name:config:split` (split `train` unless given). Raises BadRecord."""
    is_folder = os.path.isdir(source)
    if not is_folder and (os.path.exists(source) or Path(source).suffix.lower() in SUFFIXES):
        return read_cases(source, format, limit, references, on_conflict=on_conflict, note=note)
    name, config, split, *_ = [source, "", ""] if is_folder else [*source.split(":"), "", ""]
    return read_hub_cases(
        name,
        split=split or "train",
        config=config or None,
        format=format,
        limit=limit,
        references=references,
        on_conflict=on_conflict,
        note=note,
    )


def detect_format(path: str | Path) -> str:
    """The name of the format that `read_cases` takes for this file. Raises BadRecord if none fits."""
    where, row = _unwrapped(read_rows(path))[0]
    return format_of(where, row).name


def read_hub_cases(
    name: str,
    *,
    split: str = "train",
    config: str | None = None,
    format: str | None = None,
    limit: int | None = None,
    references: str | Path | None = None,
    on_conflict: OnConflict = "refuse",
    note: Note = _warn,
    **options: Any,
) -> list[Case]:
    """As `read_cases`, from a dataset of the hub or a local folder of one; `options` go to `load_dataset`.

    Needs the optional `datasets` library (`pip install errata[hub]`). Raises BadRecord if there is no such dataset.
    """
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError
    except ImportError:
        raise ErrataError(f"{name}: reading datasets needs `pip install 'errata[hub]'`") from None
    _checked(limit)
    try:
        dataset = load_dataset(name, config, split=split, **options)
    except (OSError, ValueError, DatasetsError) as error:  # not there, out of reach, no dataset, no such split
        raise BadRecord(
            f"{name}: neither a file nor a dataset that could be read from the hub: {str(error)[:300]}"
        ) from error
    rows = [(f"{name} {split}[{i}]", row) for i, row in enumerate(islice(dataset, limit))]
    for where, row in rows:
        check_characters(where, row)
    return _cases(rows, format, references, on_conflict, note)


def _checked(limit: int | None) -> int | None:
    if limit is not None and limit < 1:
        raise BadRecord(f"a limit of {limit} records; expected at least 1, or None for all of them")
    return limit


def _unwrapped(rows: list[Row]) -> list[Row]:
    """The rows of the list that a file's only object holds, if that object is no record itself.

    Raises BadRecord if a row is not an object.
    """
    for where, row in rows:
        if not isinstance(row, dict):
            raise BadRecord(
                f"{where}: expected an object with named fields such as prompt, subject and target_new, found "
                f"{printable(row)}"
            )
    where, only = rows[0]
    lists = {name: value for name, value in only.items() if isinstance(value, list) and value}
    lists = {name: value for name, value in lists.items() if all(isinstance(entry, dict) for entry in value)}
    if len(rows) > 1 or len(lists) != 1 or not all(each.lacks(only) for each in FORMATS):
        return rows
    [(name, records)] = lists.items()
    return [(f"{where.rpartition(':')[0]}:{name}[{i}]", record) for i, record in enumerate(records)]


def _cases(
    rows: list[Row],
    format: str | None,
    references: str | Path | None,
    on_conflict: OnConflict,
    note: Note,
) -> list[Case]:
    if not rows:
        raise BadRecord("no records to read")
    chosen = format_named(format) if format else format_of(*rows[0])
    numbers: dict[tuple[str, str], str] = {}
    exams = _exams(rows, chosen, _texts_for(chosen, references), numbers)
    cases, left_out = settle(exams, on_conflict)
    near = misspelt(chosen, {name: None for _, row in rows for name in row})
    unread = [f"the field {printable(name)} is not read; is it {other!r}?" for name, other in near.items()]
    for message in (*_numbers_noted(numbers), *unread, *left_out):
        note(message)
    return cases


def _texts_for(chosen: RecordFormat, references: str | Path | None) -> dict[Topic, tuple[str, ...]]:
    """The reference texts of a file. Raises BadRecord if the records do not say which are theirs."""
    if references is None:
        return {}
    if chosen.topics is None:
        raise BadRecord(
            f"records of format {chosen.name!r} do not say which texts of {references} are theirs: they have no "
            "relation_id and no id of their target. The files of CounterFact's authors have both."
        )
    return read_references(references)


def _exams(
    rows: Sequence[Row],
    chosen: RecordFormat,
    texts: Mapping[Topic, tuple[str, ...]],
    numbers: dict[tuple[str, str], str],
) -> list[Exam]:
    """What each record gives. Raises BadRecord naming all that cannot be read."""
    exams, problems = [], []
    for number, (where, row) in enumerate(rows):
        try:
            exams.append(_exam(Record(where, number, row, numbers), chosen, texts))
        except BadRecord as error:
            problems.append(str(error) if where in str(error) else f"{where}: {error}")
    if problems:
        more = f"\n  ... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        listed = "\n  ".join(problems[:SHOWN])
        raise BadRecord(
            f"{len(problems)} of {len(rows)} records do not fit the format {chosen.name!r}:\n  {listed}{more}"
        )
    return exams


def _exam(record: Record, chosen: RecordFormat, texts: Mapping[Topic, tuple[str, ...]]) -> Exam:
    """A record's cases, each with its reference texts, and its questions. Raises BadRecord."""
    read = chosen.read(record)
    cases = [read] if isinstance(read, Case) else read
    if texts and chosen.topics is not None:
        topics = chosen.topics(record)
        cases = [replace(case, references=texts.get(topic, ())) for case, topic in zip(cases, topics, strict=True)]
    return Exam(tuple(cases), chosen.questions(record) if chosen.questions else ())


def _numbers_noted(numbers: Mapping[tuple[str, str], str]) -> list[str]:
    counts = Counter(field for field, _ in numbers)
    first = {field: (where, number) for (field, where), number in reversed(list(numbers.items()))}
    return [
        f"the number {field!r} of {first[field][0]} is read as the text {printable(first[field][1])}"
        + (f"; {count - 1} more like it" if count > 1 else "")
        for field, count in counts.items()
    ]
