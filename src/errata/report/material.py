"""Material: everything a report is made of, read from run folders and bench folders."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from errata.errors import ErrataError
from errata.paper import PaperTable, paper_tables
from errata.record.cell import UNEDITED, CellRecord, Measured
from errata.record.run import RECORD, Run
from errata.report.study import FIGURES, Study, studies_in
from errata.report.summary import Row, over_seeds

FAILED = "failed.json"
_WANTED = "folders of runs, of `errata bench` or `errata study`, or a file that `errata evaluate -o` wrote"


class NothingToReport(ErrataError):
    """What was given holds no run record and no study, or is not there."""


@dataclass(frozen=True)
class Case:
    """A fact as far as its record tells it. `said`: what the model continued the prompt with, by method."""

    prompt: str
    wanted: str = ""
    before: str = ""
    said: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Trial:
    """One state of a model that was examined: its scores with all their cases, and how it came about."""

    record: CellRecord
    scores: Sequence[Mapping[str, Any]]
    ledger: Mapping[str, Any]
    cases: Sequence[Case]
    run: Run

    @property
    def key(self) -> tuple[Any, ...]:
        r = self.record
        return r.model, r.dataset, r.edits, r.method, r.settings, r.seed


@dataclass(frozen=True)
class Material:
    """Trials of all runs, one per method, setting and seed; runs by folder; what failed; studies.

    `beside`: a published table, and the rows of the bench that was printed beside it.
    """

    trials: Sequence[Trial]
    runs: Mapping[Path, Run]
    failures: Sequence[str]
    studies: Sequence[Study]
    beside: Sequence[tuple[PaperTable, Sequence[Row]]] = ()

    def rows(self) -> list[Row]:
        """Trials that differ only in their seed as one row; the unedited first, methods as they were run, settings
        ascending."""
        rows = over_seeds(trial.record for trial in self.trials)
        methods = list(dict.fromkeys(row.method for row in rows))
        return sorted(rows, key=lambda row: (methods.index(row.method), [_rank(value) for _, value in row.settings]))

    def of(self, row: Row) -> list[Trial]:
        """The trials of a row, by seed."""
        found = {trial.key: trial for trial in self.trials}
        start = (row.model, row.dataset, row.edits, row.method, row.settings)
        return [found[*start, seed] for seed in row.seeds]


def read_material(folders: Sequence[Path]) -> Material:
    """Run folders, bench folders with cells in them, study records in either, and records as files of any name.

    Raises NothingToReport.
    """
    runs: dict[Path, Run] = {}
    failures: list[str] = []
    studies: list[Study] = []
    beside: list[tuple[PaperTable, Sequence[Row]]] = []
    for folder in folders:
        if not folder.exists():
            raise NothingToReport(f"{folder} is not there. Give {_WANTED}.")
        inner = (
            sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")) if folder.is_dir() else []
        )
        here: list[Run] = []
        for place in [folder, *inner]:
            record = place if place.is_file() else place / RECORD
            if record.is_file():
                try:
                    runs[place] = _read(record)
                    here.append(runs[place])
                except (ValueError, TypeError, AttributeError) as error:
                    failures.append(f"{place.name}: its record could not be read ({error})")
            elif (place / FAILED).is_file():
                failures.append(_failure(place / FAILED))
            studies += studies_in(place)
        if table := _paper_table(folder / "paper.csv"):
            cells = [run for run in sorted(here, key=lambda run: run.started) if "cell" in run.settings]
            beside.append((table, over_seeds(map(CellRecord.of, cells))))
    if not runs and not studies:
        told = f" {len(failures)} failed: {'; '.join(failures)}." if failures else ""
        where = ", ".join(map(str, folders))
        raise NothingToReport(f"no finished run in {where} (no {RECORD}, no study).{told} Give {_WANTED}.")
    known = list(FIGURES)
    studies.sort(key=lambda study: known.index(study.what) if study.what in known else len(known))
    return Material(_trials(runs), runs, failures, studies, beside)


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as (dotted path, value); lists stay whole."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _read(path: Path) -> Run:
    known = {field.name for field in fields(Run)}
    run = Run(**{k: v for k, v in json.loads(path.read_text(encoding="utf-8")).items() if k in known})
    if not run.scores:
        raise ValueError("it holds no scores")
    return run


def _paper_table(path: Path) -> PaperTable | None:
    """The table that a bench's scores were printed beside, if its folder has such a comparison."""
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as lines:
        first: Mapping[str, str] = next(csv.DictReader(lines), {})
    return paper_tables().get(first.get("table", ""))


def _failure(path: Path) -> str:
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        return f"{path.parent.name}: {row['error']}"
    except (ValueError, KeyError, TypeError):
        return path.parent.name


def _trials(runs: Mapping[Path, Run]) -> list[Trial]:
    alone = {folder: run for folder, run in runs.items() if "cell" not in run.settings}
    found: dict[tuple[Any, ...], Trial] = {}
    in_order = sorted(runs.items(), key=lambda item: item[1].started)
    for trial in [t for f, run in in_order for t in _of_run(f, run, _told_apart(run, alone.values()))]:
        found[trial.key] = trial
    return [_with_before(trial, found) for trial in found.values()]


def _of_run(folder: Path, run: Run, apart: tuple[tuple[str, Any], ...]) -> Iterator[Trial]:
    """The one trial of a cell; of a run without one, a trial per model state it scored."""
    if "cell" in run.settings:
        record = CellRecord.of(run)
        yield Trial(record, run.scores[record.method], run.ledgers.get(record.method, {}), _cases(folder, run), run)
        return
    cases = _cases(folder, run)
    for method, scores in run.scores.items():
        ledger = run.ledgers.get(method, {})
        measured = {
            row["name"]: Measured(row["value"], row["interval"][0], row["interval"][1], row["higher_is_better"])
            for row in scores
        }
        record = CellRecord(
            model=str(run.settings.get("model") or run.settings.get("recipe", {}).get("name") or ""),
            dataset=str(run.settings.get("dataset") or ""),
            method=method,
            edits=run.settings.get("facts") or max((len(row["per_case"]) for row in scores), default=0),
            seed=run.settings.get("seed") or 0,
            settings=() if method == UNEDITED else apart,
            scores=measured,
            seconds=ledger.get("seconds", {}),
            memory=run.memory if method != UNEDITED else {},
        )
        yield Trial(record, scores, ledger, cases, run)


def _rank(value: Any) -> tuple[bool, float, str]:
    """Numbers before words, each in their own order."""
    number = isinstance(value, int | float)
    return not number, float(value) if number else 0.0, str(value)


def _told_apart(run: Run, alone: Iterable[Run]) -> tuple[tuple[str, Any], ...]:
    """The recipe's settings in which runs without a cell differ from each other."""
    recipes = [dict(flat(other.settings.get("recipe", {}))) for other in alone]
    mine = dict(flat(run.settings.get("recipe", {})))
    own = {p: v for p, v in mine.items() if not p.startswith("source") and any(r.get(p) != v for r in recipes)}
    return tuple((path, json.dumps(v) if isinstance(v, list | dict) else v) for path, v in own.items())


def _cases(folder: Path, run: Run) -> list[Case]:
    """From the record's answers, else from a saved edit's facts, else from the record's ids; in the scores' order."""
    count = max((len(row["per_case"]) for rows in run.scores.values() for row in rows), default=0)
    known = {"id", "prompt", "subject", "to say", "before", "undone"}
    ids = [str(name) for name in run.settings.get("records", [])]
    cases = [Case(name) for name in ids or map(str, range(1, count + 1))]
    for i, fact in enumerate(_saved_facts(folder)[: len(cases)]):
        cases[i] = Case(str(fact["prompt"]).replace("{}", str(fact["subject"])), str(fact["target_new"]))
    for i, row in enumerate(run.answers[: len(cases)]):
        said = {name: str(text) for name, text in row.items() if name not in known}
        cases[i] = Case(str(row.get("prompt", "")), str(row.get("to say", "")), str(row.get("before", "")), said)
    return cases[:count] or cases


def _saved_facts(folder: Path) -> list[dict[str, Any]]:
    for path in sorted(folder.glob("edits/*/manifest.json")):
        try:
            rows = json.loads(path.read_text(encoding="utf-8")).get("facts", [])
        except (OSError, ValueError, AttributeError):
            continue
        if all({"prompt", "subject", "target_new"} <= set(row) for row in rows):
            return rows
    return []


def _with_before(trial: Trial, found: Mapping[tuple[Any, ...], Trial]) -> Trial:
    """What the unedited model said, from its own cell on the same records where this one's does not hold it.

    That cell has another seed where seeds choose the contexts: the unedited model is scored once for all of them.
    """
    section, records = trial.key[:3], trial.run.settings.get("records")
    unedited = (t for t in found.values() if t.key[:4] == (*section, UNEDITED) and t.run is not trial.run)
    first = next((t for t in unedited if records and t.run.settings.get("records") == records), None)
    if first is None:
        return trial
    pairs = zip(trial.cases, first.cases, strict=True)
    return replace(trial, cases=[mine if mine.before else replace(mine, before=was.before) for mine, was in pairs])
