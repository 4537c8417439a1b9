"""A grid on a Ray cluster: every cell is a job of its own, tried again elsewhere if its worker dies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from errata.bench.grid import UNEDITED
from errata.bench.running import Bench, Failure, Results
from errata.errors import ErrataError

RETRIES = 3


def run_on_ray(bench: Bench, make: Callable[[], Bench], address: str, gpus: float | None = None) -> Results:
    """The results of the grid, its cells computed as Ray tasks; the unedited models are scored first.

    `make` builds the same bench anew in every worker, so it must not hold a model. Workers must see the same folder of
    cells and the same store, on a shared file system where there are several machines. `address`: of a running
    cluster, `auto`, or `local` to use this machine alone. `gpus` of each cell; None: one if the cluster has any.
    Raises ErrataError if ray is not installed or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise ErrataError("ray is not installed: pip install 'errata[ray]'") from error
    try:
        ray.init(address, log_to_driver=False, configure_logging=False, include_dashboard=False)
    except (ConnectionError, ValueError) as error:
        raise ErrataError(f"no Ray cluster at {address!r}: {error}") from error
    try:
        share = min(1.0, ray.cluster_resources().get("GPU", 0.0)) if gpus is None else gpus
        job: Any = ray.remote(max_retries=RETRIES, num_gpus=share)(_job)
        failures: list[Failure] = []
        computed = 0
        plans = [plan for plan in bench.plans() if plan.run is None]
        for unedited in (True, False):
            names = {p.folder.name: p.cell.label() for p in plans if (p.cell.method == UNEDITED) == unedited}
            waiting = {job.remote(make, name): name for name in names}
            while waiting:
                (done, *_), _ = ray.wait(list(waiting))
                name = waiting.pop(done)
                bench.watch.cell(names[name], len(names) - len(waiting), len(names))
                try:
                    failures += ray.get(done)
                    computed += not unedited
                except ray.exceptions.RayError as error:
                    failures.append(Failure(names[name], f"the worker died {RETRIES + 1} times: {error}"))
    finally:
        ray.shutdown()
    results = bench.run(lambda plan: False)
    results.failures += failures
    results.found -= computed - len(failures)
    results.computed = computed - len(failures)
    return results


def _job(make: Callable[[], Bench], name: str) -> list[Failure]:
    return make().run(lambda plan: plan.folder.name == name).failures
