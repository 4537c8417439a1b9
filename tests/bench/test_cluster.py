"""A grid as jobs of a local Ray cluster, one of whose workers is killed in mid-cell."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from errata import Corpus, Store
from errata.bench import Bench, Dataset, Grid
from errata.bench.cluster import run_on_ray
from errata.bench.record import FAILED
from errata.evaluate import Case
from errata.record.run import RECORD
from tests.bench.test_running import CASES
from tests.editing import decoder_of
from tests.models import tiny_corpus

RECIPE = """
name: tiny
window: [1, 2, 3]
anchor: {learning_rate: 0.3, steps: 4}
solvers: {least_squares: {weight: 1.0, ridge: 0.01}}
"""


def cases(folder: Path, n: int, seed: int) -> list[Case]:
    """Kills the worker that asks for them first once the unedited model is scored."""
    import ray

    scored = list((folder / "out").glob("*unedited*/run.json"))
    if scored and ray.is_initialized() and ray.get_runtime_context().get_task_id() and not (folder / "killed").exists():
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return list(CASES[seed : seed + n])


def made(folder: Path) -> Bench:
    methods = ("memit", "alphaedit", "onelayer")
    grid = Grid("tiny", "tiny", methods, 2, (0,), probes=("belief",), recipe=str(folder / "tiny.yaml"))
    return Bench(
        grid,
        folder / "out",
        lambda model: decoder_of("llama"),
        lambda name: Dataset(partial(cases, folder)),
        lambda model: Corpus.of(tiny_corpus()),
        store=Store(folder / "store"),
    )


@pytest.mark.filterwarnings("default")  # ray's own
def test_a_worker_killed_in_mid_cell_is_replaced_and_the_table_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    (tmp_path / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    # A worker takes longer to import torch than for everything else, so there is only one at a time.
    ray.init("local", num_cpus=1, log_to_driver=False, configure_logging=False, include_dashboard=False)
    try:
        results = run_on_ray(made(tmp_path), partial(made, tmp_path), "local")
        assert ray.is_initialized()
    finally:
        ray.shutdown()
    assert (tmp_path / "killed").exists()
    assert [(row.method, row.seed) for row in results.records] == [("unedited", 0), ("memit", 0), ("onelayer", 0)]
    (failure,) = results.failures
    assert "EmptyNullSpace" in failure.error
    assert (results.computed, results.found) == (2, 0)
    assert len(list((tmp_path / "out").glob(f"*/{RECORD}"))) == 3
    assert len(list((tmp_path / "out").glob(f"*/{FAILED}"))) == 1
