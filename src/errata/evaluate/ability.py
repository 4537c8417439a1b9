"""General ability: what the model can do apart from the edited facts, by lm-eval's tasks. The only importer of it."""

from __future__ import annotations

import logging
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from errata.decoder.decoder import Decoder
from errata.errors import BadRecord, ErrataError, UnknownName, Untrusted

TASKS = Path(__file__).parent / "tasks"
"""Tasks that ship with errata, data included."""

_SEED = 1234  # of lm-eval's own command line, for the choice of examples

Task = str | Mapping[str, Any]
"""A name of lm-eval's or of `TASKS`, the path of a YAML file, or a task's settings."""


@dataclass(frozen=True)
class Skill:
    """One metric of one task, for the unedited and for the edited model. Without an edit `after` is None."""

    task: str
    metric: str
    before: float
    after: float | None
    error: float | None
    """Standard error of `before`, or of the difference where there is one; None where lm-eval has none per record."""
    count: int
    higher_is_better: bool | None
    version: str

    @property
    def difference(self) -> float | None:
        """After - before."""
        return None if self.after is None else self.after - self.before

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self) | {"difference": self.difference}


def general_ability(
    decoder: Decoder,
    tasks: Sequence[Task],
    *,
    limit: int | None = None,
    shots: int | None = None,
    batch: int | None = None,
    trust_remote_code: bool = False,
) -> list[Skill]:
    """What lm-eval measures of the model at hand, in memory: unedited, and edited if it carries an edit.

    `limit` records of each task, `shots` examples before each (None: as the task says), `batch` rows at a time
    (None: 16, or 1 with a graft, which decides row by row). A task's data come from where its YAML says; those of
    `TASKS` are local, lm-eval's own come from the hub (HF_HUB_OFFLINE=1 refuses that). Global random states are
    put back. Needs `errata[lm-eval]`.

    A task's YAML file can run any code through its templates: it is read only with `trust_remote_code`, which says
    that you know who wrote it. Names of tasks need no consent. Raises Untrusted, ErrataError, UnknownName.
    """
    if limit is not None and limit < 1:
        raise ErrataError(f"a limit of {limit} records of each task; expected at least 1, or None for all of them")
    check_trusted(tasks, trust_remote_code)
    evaluator, manager, wrap = _harness()
    wanted = [_settings(task) for task in tasks]
    named = [task for task in wanted if isinstance(task, str)]
    manager = manager(include_defaults=bool(named))  # indexing its own tasks takes ten seconds
    if unknown := [name for name in named if name not in manager.all_tasks]:
        raise UnknownName("task", unknown[0], [*manager.all_tasks, *shipped()])
    rows = batch or (1 if decoder.grafted else 16)

    def measured() -> dict[str, Any]:
        with _undisturbed(), decoder.weights.computing():
            loaded = manager.load(wanted)
            for task in loaded["tasks"].values():
                task.set_config(key="num_fewshot", value=task.config.num_fewshot or 0 if shots is None else shots)
                task.set_fewshot_seed(seed=_SEED)
            model = wrap(pretrained=decoder.model, tokenizer=decoder.tokenizer, batch_size=rows)
            found: dict[str, Any] = evaluator.evaluate(model, loaded, limit=limit, bootstrap_iters=0)
            return found

    with decoder.unedited():
        before = measured()
    return _skills(before, measured() if decoder.is_edited else None)


def check_trusted(tasks: Sequence[Task], trust_remote_code: bool) -> None:
    """Raises Untrusted if a task is a file of settings, unless its code may be run."""
    for task in tasks:
        if isinstance(task, str) and _is_file(task) and not trust_remote_code:
            raise Untrusted(
                f"{task}: the templates of a task's YAML file can run any code on this machine. Nothing was run. If "
                "you trust whoever wrote it, give --trust-remote-code (in Python: trust_remote_code=True)."
            )


def _is_file(task: str) -> bool:
    return task not in shipped() and Path(task).suffix.lower() in (".yaml", ".yml")


def shipped() -> list[str]:
    """Names of the tasks in `TASKS`."""
    return sorted(path.stem for path in TASKS.glob("*.yaml"))


def _harness() -> tuple[Any, Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from lm_eval import evaluator
            from lm_eval.models.huggingface import HFLM
            from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ErrataError(f"general ability needs `pip install 'errata[lm-eval]'` ({error})") from None
    return evaluator, TaskManager, HFLM


def _settings(task: Task) -> str | dict[str, Any]:
    """A YAML file's settings, its relative data files being beside it; a name of lm-eval's stays a name."""
    if not isinstance(task, str):
        return dict(task)
    if not _is_file(task) and task not in shipped():
        return task
    path = TASKS / f"{task}.yaml" if task in shipped() else Path(task)
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadRecord(f"{path}: no task could be read: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(settings, dict):
        raise BadRecord(f"{path}: no task could be read: expected settings, found {type(settings).__name__}")
    data = settings.get("dataset_kwargs") or {}
    if isinstance(files := data.get("data_files"), Mapping):
        data["data_files"] = {split: str(path.parent / name) for split, name in files.items()}
    return settings


@contextmanager
def _undisturbed() -> Iterator[None]:
    """lm-eval's warnings about models in memory are not heard, and its seeds are not left behind."""
    ours, numpys, log = random.getstate(), np.random.get_state(), logging.getLogger("lm_eval")
    level = log.level
    try:
        log.setLevel(logging.ERROR)
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
        random.setstate(ours)
        np.random.set_state(numpys)


def _skills(before: Mapping[str, Any], after: Mapping[str, Any] | None) -> list[Skill]:
    found = []
    for task, row in before["results"].items():
        for key, value in row.items():
            metric, _, kind = key.partition(",")
            if not kind or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            per_record = [_per_record(side, task, metric, kind) for side in (before, after) if side]
            found.append(
                Skill(
                    task=task,
                    metric=metric if kind == "none" else key,
                    before=float(value),
                    after=None if after is None else float(after["results"][task][key]),
                    error=_standard_error(per_record),
                    count=int(row["sample_len"]),
                    higher_is_better=before["higher_is_better"].get(task, {}).get(metric),
                    version=str(before["versions"].get(task)),
                )
            )
    return found


def _per_record(side: Mapping[str, Any], task: str, metric: str, kind: str) -> dict[Any, Any]:
    """Record -> value; a group of tasks has no records of its own."""
    rows = [row for row in side["samples"].get(task, ()) if row.get("filter", "none") == kind]
    return {row["doc_id"]: row.get(metric) for row in rows}


def _standard_error(sides: Sequence[Mapping[Any, Any]]) -> float | None:
    """Of a mean over records, or of the mean difference, paired by record (as in a bootstrap over records)."""
    rows: list[list[Any]] = [[side.get(record) for side in sides] for record in sides[0]]
    if len(rows) < 2 or not all(isinstance(v, int | float) and isfinite(v) for row in rows for v in row):
        return None
    values = np.array([row[-1] - (row[0] if len(row) > 1 else 0) for row in rows], dtype=np.float64)
    return float(values.std(ddof=1) / sqrt(len(values)))
