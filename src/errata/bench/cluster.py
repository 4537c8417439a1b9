"""A grid on a Ray cluster: every cell is a job of its own, tried again elsewhere if its worker dies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from errata.bench.running import Bench, Failure, Results
from errata.errors import ErrataError
from errata.record.cell import UNEDITED

RETRIES = 3


def run_on_ray(bench: Bench, make: Callable[[], Bench], address: str, gpus: float | None = None) -> Results:
    """The results of the grid, its cells computed as Ray tasks; the unedited models are scored first.

    `make` builds the same bench anew in every worker, so it must not hold a model. Workers must see the same folder of
    cells and the same store, on a shared file system where there are several machines. `address`: of a running
    cluster, `auto`, or `local` to use this machine alone; in a program that is connected to one already, that one is
    used and stays. `gpus` of each cell; None: one if the cluster has any.
    Raises ErrataError if ray is not installed or the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise ErrataError("ray is not installed: pip install 'errata[ray]'") from error
    connected = ray.is_initialized()
    try:
        if not connected:
            ray.init(address, log_to_driver=False, configure_logging=False, include_dashboard=False)
    except (ConnectionError, ValueError) as error:
        raise ErrataError(f"no Ray cluster at {address!r}: {error}") from error
    try:
        share = min(1.0, ray.cluster_resources().get("GPU", 0.0)) if gpus is None else gpus
        job: Any = ray.remote(max_retries=RETRIES, num_gpus=share)(_job)
        plans = list(bench.plans())
        found = sum(plan.run is not None and plan.cell.method != UNEDITED for plan in plans)
        lost: list[Failure] = []
        for unedited in (True, False):
            cells = [plan for plan in plans if plan.run is None and (plan.cell.method == UNEDITED) == unedited]
            waiting = {job.remote(make, plan.folder.name): plan for plan in cells}
            while waiting:
                (done, *_), _ = ray.wait(list(waiting))
                plan = waiting.pop(done)
                bench.observer.cell(plan.cell.label(), len(cells) - len(waiting), len(cells))
                try:
                    ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    lost.append(Failure(plan.cell.label(), f"{type(error.cause).__name__}: {error.cause}", plan.folder))
                except ray.exceptions.RayError as error:
                    told = f"the worker died {RETRIES + 1} times: {error}"
                    lost.append(Failure(plan.cell.label(), told, plan.folder))
    finally:
        if not connected:
            ray.shutdown()
    results = bench.run(lambda plan: False)
    recorded = {failure.folder for failure in results.failures}
    results.failures += [failure for failure in lost if failure.folder not in recorded]
    results.computed, results.found = results.found - found, found
    return results


def _job(make: Callable[[], Bench], name: str) -> None:
    """One cell; what comes of it, a failure too, is left in the cell's folder."""
    make().run(lambda plan: plan.folder.name == name)
