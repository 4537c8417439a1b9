from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from errata.errors import SolveError
from errata.solvers import LeastSquares, Restrained
from tests.solvers.systems import moment, normal, relative, system

C = moment()
HOST = LeastSquares(0.01)
SMALL = replace(system(), weight=0.35 * system().weight)


def dense_svd(change: torch.Tensor, weight: torch.Tensor, how: str, base: float = math.e) -> torch.Tensor:
    """Method 2.9 with a whole singular value decomposition."""
    u, s, vh = torch.linalg.svd(change, full_matrices=False)
    limit = torch.linalg.svdvals(weight)[0]
    drawn = (s + limit) / 2 if how == "linear" else (s.log() - limit.log()) / math.log(base) + limit
    return u @ torch.diag(torch.where(s < limit, s, drawn)) @ vh


@pytest.mark.parametrize(("how", "base"), [("log", math.e), ("log", 2.0), ("log", 10.0), ("linear", math.e)])
def test_the_change_is_that_of_the_whole_decomposition(how: str, base: float) -> None:
    solver = Restrained(HOST, how, base)  # type: ignore[arg-type]
    prepared = solver.prepare(C)
    full = HOST.solve(SMALL, prepared).change
    values, limit = torch.linalg.svdvals(full), torch.linalg.svdvals(SMALL.weight)[0]
    assert values[0] > limit > values[-1]
    found = solver.solve(SMALL, prepared).change
    assert relative(found, dense_svd(full, SMALL.weight, how, base)) < 1e-12
    assert torch.linalg.svdvals(found)[0] < values[0]


def test_the_published_logarithm_enlarges_where_the_weight_is_below_its_bend() -> None:
    """d/ds log(s / s_max) = 1 / s: a change barely beyond s_max < 1 grows. Kept as published, and said."""
    total, weight = torch.diag(torch.tensor([0.6, 0.1])).double(), torch.diag(torch.tensor([0.5, 0.5])).double()
    found = Restrained(HOST, when="on_total").finish(total, weight)
    assert found[0, 0] == pytest.approx(math.log(0.6 / 0.5) + 0.5)
    assert found[0, 0] > 0.6


@pytest.mark.parametrize("when", ["per_batch", "on_total"])
def test_a_change_smaller_than_the_weight_passes_as_it_is(when: str) -> None:
    """Method 7.8."""
    solver = Restrained(HOST, when=when)  # type: ignore[arg-type]
    large = replace(SMALL, weight=1e3 * SMALL.weight)
    full = HOST.solve(large, HOST.prepare(C)).change
    assert torch.equal(solver.solve(large, solver.prepare(C)).change, full)
    assert torch.equal(solver.finish(full, large.weight), full)


def test_on_the_total_the_batches_are_dense_and_the_end_is_restrained_against_the_original() -> None:
    solver = Restrained(HOST, when="on_total")
    full = HOST.solve(SMALL, HOST.prepare(C)).change
    assert torch.equal(solver.solve(SMALL, solver.prepare(C)).change, full)
    total = normal(4, 12, seed=3)
    assert relative(solver.finish(total, SMALL.weight), dense_svd(total, SMALL.weight, "log")) < 1e-12


def test_on_the_total_no_change_is_ever_added_twice() -> None:
    """The published script leaves W + D + f(D); here it is W + f(D) (method 2.9)."""
    solver, weight = Restrained(HOST, when="on_total"), SMALL.weight
    first, second = normal(4, 12, seed=3), normal(4, 12, seed=4)
    edited = weight + first + second
    finished = weight + solver.finish(edited - weight, weight)
    assert relative(finished - weight, dense_svd(first + second, weight, "log")) < 1e-12
    assert torch.linalg.matrix_norm(finished - weight, 2) < torch.linalg.matrix_norm(edited - weight, 2)
    assert relative(weight + solver.finish(0.001 * first, weight), weight + 0.001 * first) < 1e-15


def test_per_batch_nothing_is_left_for_the_end() -> None:
    total = normal(4, 12, seed=3)
    assert Restrained(HOST).finish(total, SMALL.weight) is total


def test_the_dtype_of_a_total_is_kept() -> None:
    total = normal(4, 12, seed=3)
    found = Restrained(HOST, when="on_total").finish(total.float(), SMALL.weight.bfloat16())
    assert found.dtype == torch.float32
    assert relative(found.double(), dense_svd(total, SMALL.weight.bfloat16().double(), "log")) < 1e-6


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"how": "root"}, "how = 'root', expected log or linear"), ({"base": 1.0}, "base = 1"),
     ({"when": "now"}, "per_batch or on_total")],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(settings: dict, message: str) -> None:
    with pytest.raises(SolveError, match=f"restrained.*{message}"):
        Restrained(HOST, **settings)
