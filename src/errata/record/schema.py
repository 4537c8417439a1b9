"""What a run record may hold, as pydantic checks it when one is read. Keys of a later version are let be."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from errata.record.reading import Count, Finite, FiniteOrNone, Layer, Setting

_open = with_config(ConfigDict(extra="allow"))


@_open
class ScoreRecord(TypedDict):
    """One score of a model: its mean with a 95 % interval, and what each case scored (None: not asked)."""

    name: str
    protocol: NotRequired[str]
    unit: NotRequired[str]
    value: Finite
    interval: Annotated[list[Finite], Field(min_length=2, max_length=2)]
    higher_is_better: bool | None
    per_case: list[FiniteOrNone]


@_open
class StepRecord(TypedDict):
    """One step of an edit: the layer edited, what is left of the way to each layer's target, |dW|."""

    edit: Layer
    remaining: NotRequired[dict[Layer, FiniteOrNone] | None]
    update_norm: NotRequired[FiniteOrNone]
    swallowed: NotRequired[FiniteOrNone]


@_open
class LedgerRecord(TypedDict):
    """What an edit did and what it cost."""

    rows: NotRequired[list[StepRecord]]
    seconds: NotRequired[dict[str, Finite]]
    notes: NotRequired[list[str]]


@_open
class SkillRecord(TypedDict):
    """General ability in one task, before and after the edit."""

    task: str
    metric: str
    before: FiniteOrNone
    after: FiniteOrNone
    difference: FiniteOrNone
    error: FiniteOrNone


@_open
class CellKeys(TypedDict):
    """Which cell of a bench a run is of."""

    model: str
    dataset: str
    method: str
    edits: Count
    seed: Count
    settings: dict[str, Setting]


@_open
class SettingsRecord(TypedDict, total=False):
    """What a run was made with: what reports look at, and anything else."""

    cell: CellKeys
    model: str | None
    dataset: str | None
    facts: Count
    seed: Count | None
    records: list[str]
    recipe: dict[str, Any]


@_open
class RunRecord(TypedDict):
    """`run.json`."""

    title: str
    started: str
    settings: SettingsRecord
    scores: dict[str, list[ScoreRecord]]
    command: NotRequired[str]
    versions: NotRequired[dict[str, str]]
    ledgers: NotRequired[dict[str, LedgerRecord]]
    answers: NotRequired[list[dict[str, str]]]
    seconds: NotRequired[dict[str, Finite]]
    memory: NotRequired[dict[str, Finite]]
    ability: NotRequired[list[SkillRecord]]


RUN = TypeAdapter(RunRecord)
NEEDED = ("title", "started", "settings", "scores")
"""Parts without which there is no record."""
BY_METHOD = ("scores", "ledgers")
"""Parts of a record that hold something for each method."""
