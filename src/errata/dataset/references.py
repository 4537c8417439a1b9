"""Reference texts: what is written about things of which an attribute is true."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from errata.errors import BadRecord, printable
from errata.rows import read_rows

Topic = tuple[str, str]
"""Ids of a relation and of its object, as ("P103", "Q1860")."""


def read_references(path: str | Path) -> dict[Topic, tuple[str, ...]]:
    """CounterFact's `attribute_snippets.json`: rows of relation_id, target_id and samples, each with a text.

    Raises BadRecord naming the row.
    """
    references: dict[Topic, list[str]] = defaultdict(list)
    for where, row in read_rows(path):
        try:
            references[str(row["relation_id"]), str(row["target_id"])] += [str(one["text"]) for one in row["samples"]]
        except (KeyError, TypeError) as error:
            fields = ", ".join(map(printable, row)) if isinstance(row, Mapping) else printable(row)
            raise BadRecord(
                f"{where}: expected relation_id, target_id and samples with a text each, found {fields[:200]}"
            ) from error
    return {topic: tuple(texts) for topic, texts in references.items()}
