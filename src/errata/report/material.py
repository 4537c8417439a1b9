"""Material: everything a report is made of, read from run folders and bench folders."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from errata.errors import BadRecord, ErrataError
from errata.paper import PaperTable, paper_tables
from errata.record.cell import UNEDITED, CellRecord, measured
from errata.record.reading import read_json, shortened
from errata.record.run import RECORD, Run
from errata.record.study import StudyRecord
from errata.report.summary import Summary, over_seeds

FAILED = "failed.json"
_WANTED = "folders of runs, of `errata bench` or `errata study`, or a file that `errata evaluate -o` wrote"


class NothingToReport(ErrataError):
    """What was given holds no run record and no study, or is not there."""


@dataclass(frozen=True)
class RecordedFact:
    """A fact as far as its record tells it. `said`: what the model continued the prompt with, by method."""

    prompt: str
    wanted: str = ""
    before: str = ""
    said: Mapping[str, str] | None = None


@dataclass(frozen=True)
class ModelState:
    """One state of a model that was examined: its scores with all their cases, and how it came about."""

    record: CellRecord
    scores: Sequence[Mapping[str, Any]]
    ledger: Mapping[str, Any]
    facts: Sequence[RecordedFact]
    run: Run

    @property
    def key(self) -> tuple[Any, ...]:
        """What no two states of a report have in common."""
        r = self.record
        return r.model, r.dataset, r.edits, r.method, r.settings, r.seed


@dataclass
class Material:
    """States of models from all runs, one per method, setting and seed; runs by folder; what failed; studies.

    `compared`: a published table, and the rows of the bench that was printed beside it.
    """

    states: Sequence[ModelState] = ()
    runs: dict[Path, Run] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    studies: list[StudyRecord] = field(default_factory=list)
    compared: list[tuple[PaperTable, Sequence[Summary]]] = field(default_factory=list)

    def rows(self) -> list[Summary]:
        """States that differ only in their seed as one row; the unedited first, methods as they were run, settings
        ascending."""
        rows = over_seeds(state.record for state in self.states)
        methods = list(dict.fromkeys(row.method for row in rows))
        return sorted(rows, key=lambda row: (methods.index(row.method), [_rank(value) for _, value in row.settings]))

    def of(self, row: Summary) -> list[ModelState]:
        """The states of a row, by seed."""
        states = {state.key: state for state in self.states}
        start = (row.model, row.dataset, row.edits, row.method, row.settings)
        return [states[*start, seed] for seed in row.seeds]


def read_material(folders: Sequence[Path]) -> Material:
    """Run folders, bench folders with cells in them, study records in either, and records as files of any name.

    What is damaged is left out and named among the failures. Raises NothingToReport if nothing can be read.
    """
    material = Material()
    for folder in folders:
        try:
            _read_folder(folder, material)
        except OSError as error:
            raise NothingToReport(f"{shortened(str(folder))} could not be read: {error.strerror}") from error
    if not material.runs and not material.studies:
        count = len(material.failures)
        failed = f" {count} failed: {shortened('; '.join(material.failures))}." if count else ""
        where = shortened(", ".join(map(str, folders)))
        raise NothingToReport(f"no finished run in {where} (no {RECORD}, no study).{failed} Give {_WANTED}.")
    material.states = _states(material.runs)
    return material


def _read_folder(folder: Path, material: Material) -> None:
    """Everything in a folder and the folders in it, or one record in a file. Raises OSError, NothingToReport."""
    if not folder.exists():
        raise NothingToReport(f"{shortened(str(folder))} is not there. Give {_WANTED}.")
    if folder.is_file():
        _read_run(folder, folder, material)
        return
    inner = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    for place in [folder, *inner]:
        if (place / RECORD).exists():
            _read_run(place / RECORD, place, material)
        elif (place / FAILED).exists():
            material.failures.append(f"{place.name}: {_failure(place / FAILED)}")
        _read_studies(place, material)
    if table := _paper_table(folder / "paper.csv"):
        cells = [material.runs[place] for place in inner if place in material.runs]
        cells = sorted((run for run in cells if "cell" in run.settings), key=lambda run: run.started)
        material.compared.append((table, over_seeds(map(CellRecord.of, cells))))


def _read_run(path: Path, place: Path, material: Material) -> None:
    try:
        material.runs[place], left_out = Run.read(path)
    except BadRecord as error:
        material.failures.append(f"{place.name}: its record could not be read ({error})")
    else:
        material.failures += [f"{place.name}: a part was left out ({text})" for text in left_out]


def _read_studies(folder: Path, material: Material) -> None:
    """Every JSON file in the folder that says it is a study, by its `kind`."""
    for path in sorted(folder.glob("*.json")):
        if path.name not in (RECORD, FAILED):
            try:
                study = StudyRecord.of(read_json(path), path)
            except BadRecord as error:
                material.failures.append(f"{folder.name}: {error}")
            else:
                material.studies += [study] if study else []


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as (dotted path, value); lists stay whole."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{path}.{key}" if path else str(key))
    elif path:
        yield path, value


def _paper_table(path: Path) -> PaperTable | None:
    """The table that a bench's scores were printed beside, if its folder has such a comparison."""
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            first: Mapping[str, str] = next(csv.DictReader(lines), {})
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    return paper_tables().get(first.get("table", ""))


def _failure(path: Path) -> str:
    """Why a cell failed, as it was kept."""
    try:
        row = read_json(path)
    except BadRecord as error:
        return f"it failed ({error})"
    return shortened(row["error"]) if isinstance(row, dict) and "error" in row else "it failed"


def _states(runs: Mapping[Path, Run]) -> list[ModelState]:
    alone = [run for run in runs.values() if "cell" not in run.settings]
    states: dict[tuple[Any, ...], ModelState] = {}
    for folder, run in sorted(runs.items(), key=lambda item: item[1].started):
        for state in _of_run(folder, run, _apart(run, alone)):
            states[state.key] = state
    return [_with_before(state, states.values()) for state in states.values()]


def _of_run(folder: Path, run: Run, apart: tuple[tuple[str, Any], ...]) -> Iterator[ModelState]:
    """The one state of a cell; of a run without one, each model state it scored."""
    facts = _facts(folder, run)
    if "cell" in run.settings:
        record = CellRecord.of(run)
        yield ModelState(record, run.scores[record.method], run.ledgers.get(record.method, {}), facts, run)
        return
    for method, scores in run.scores.items():
        ledger = run.ledgers.get(method, {})
        record = CellRecord(
            model=run.settings.get("model") or str(run.settings.get("recipe", {}).get("name", "")),
            dataset=run.settings.get("dataset") or "",
            method=method,
            edits=run.settings.get("facts") or max((len(row["per_case"]) for row in scores), default=0),
            seed=run.settings.get("seed") or 0,
            settings=() if method == UNEDITED else apart,
            scores=measured(scores),
            seconds=ledger.get("seconds", {}),
            memory=run.memory if method != UNEDITED else {},
        )
        yield ModelState(record, scores, ledger, facts, run)


def _rank(value: Any) -> tuple[bool, float, str]:
    """Numbers before words, each in their own order."""
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0, str(value)


def _apart(run: Run, alone: Iterable[Run]) -> tuple[tuple[str, Any], ...]:
    """The recipe's settings in which runs without a cell differ from each other."""
    recipes = [dict(flat(other.settings.get("recipe", {}))) for other in alone]
    mine = dict(flat(run.settings.get("recipe", {})))
    own = {p: v for p, v in mine.items() if not p.startswith("source") and any(r.get(p) != v for r in recipes)}
    return tuple((path, json.dumps(v) if isinstance(v, list | dict) else v) for path, v in own.items())


def _facts(folder: Path, run: Run) -> list[RecordedFact]:
    """From the record's answers, else from a saved edit's facts, else from the record's ids; in the scores' order."""
    count = max((len(row["per_case"]) for rows in run.scores.values() for row in rows), default=0)
    known = {"id", "prompt", "subject", "to say", "before", "undone"}
    names = run.settings.get("records") or [str(i + 1) for i in range(count)]
    facts = [RecordedFact(name) for name in names]
    for i, fact in enumerate(_saved_facts(folder)[: len(facts)]):
        facts[i] = RecordedFact(fact["prompt"].replace("{}", fact["subject"]), fact["target_new"])
    for i, row in enumerate(run.answers[: len(facts)]):
        said = {name: text for name, text in row.items() if name not in known}
        facts[i] = RecordedFact(row.get("prompt", ""), row.get("to say", ""), row.get("before", ""), said)
    return facts[:count] or facts


@with_config(ConfigDict(extra="allow"))
class _Fact(TypedDict):
    prompt: Annotated[str, Field(max_length=10_000)]
    subject: Annotated[str, Field(max_length=10_000)]
    target_new: str


_FACTS = TypeAdapter(list[_Fact])


def _saved_facts(folder: Path) -> Sequence[_Fact]:
    for path in sorted(folder.glob("edits/*/manifest.json")):
        try:
            row = read_json(path)
            return _FACTS.validate_python(row["facts"] if isinstance(row, dict) else None)
        except (BadRecord, KeyError, ValidationError):
            continue
    return []


def _with_before(state: ModelState, states: Iterable[ModelState]) -> ModelState:
    """What the unedited model said, from its own cell on the same records where this one's does not hold it.

    That cell has another seed where seeds choose the contexts: the unedited model is scored once for all of them.
    """
    section, records = state.key[:3], state.run.settings.get("records")
    unedited = (s for s in states if s.key[:4] == (*section, UNEDITED) and s.run is not state.run)
    first = next((s for s in unedited if records and s.run.settings.get("records") == records), None)
    if first is None or len(first.facts) != len(state.facts):
        return state
    pairs = zip(state.facts, first.facts, strict=True)
    return replace(state, facts=[mine if mine.before else replace(mine, before=was.before) for mine, was in pairs])
