"""A grid as jobs of a local Ray cluster, one of whose workers is killed in mid-cell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from errata.bench.record import FAILED
from errata.report.run import RECORD

RUN = """
import json, os, signal, sys
import ray
from pathlib import Path
from errata import Corpus, Store
from errata.bench import Bench, Dataset, Grid
from errata.bench.cluster import run_on_ray
from tests.bench.test_running import CASES
from tests.editing import decoder_of
from tests.models import tiny_corpus

folder = Path(sys.argv[1])

def cases(n, seed):
    scored = list((folder / "out").glob("*unedited*/run.json"))
    if scored and ray.is_initialized() and ray.get_runtime_context().get_task_id() and not (folder / "killed").exists():
        (folder / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return CASES[seed : seed + n]

def made():
    grid = Grid("tiny", "tiny", ("memit", "onelayer"), 2, (0,), probes=("belief",), recipe=str(folder / "tiny.yaml"))
    opened = lambda model: decoder_of("llama")
    return Bench(grid, folder / "out", opened, lambda name: Dataset(cases), lambda model: Corpus.of(tiny_corpus()),
                 store=Store(folder / "store"))

if __name__ == "__main__":
    results = run_on_ray(made(), made, "local")
    print(json.dumps([[r.method, r.seed] for r in results.records] + [results.computed, len(results.failures)]))
"""
RECIPE = """
name: tiny
window: [1, 2, 3]
anchor: {learning_rate: 0.3, steps: 4}
solvers: {least_squares: {weight: 1.0, ridge: 0.01}}
"""


def test_a_worker_killed_in_mid_cell_is_replaced_and_the_table_is_complete(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    (tmp_path / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    (tmp_path / "run.py").write_text(RUN, encoding="utf-8")
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": root, "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    *cells, computed, failures = json.loads(done.stdout.splitlines()[-1])
    assert cells == [["unedited", 0], ["memit", 0], ["onelayer", 0]]
    assert (computed, failures) == (2, 0)
    assert (tmp_path / "killed").exists()
    assert len(list((tmp_path / "out").glob(f"*/{RECORD}"))) == 3
    assert not list((tmp_path / "out").glob(f"*/{FAILED}"))
