from __future__ import annotations

import pytest
import torch

from errata.errors import SolveError
from errata.solvers import LeastSquares, Sparsified
from tests.solvers.systems import moment, normal, system

C = moment()
HOST = LeastSquares(2.0)


def dense() -> torch.Tensor:
    return HOST.solve(system(), HOST.prepare(C)).change


def sparse(solver: Sparsified) -> torch.Tensor:
    return solver.solve(system(), solver.prepare(C)).change


@pytest.mark.parametrize("criterion", ["absolute", "relative"])
def test_keeping_everything_is_the_identity(criterion: str) -> None:
    """Method 7.8."""
    assert torch.equal(sparse(Sparsified(HOST, 1.0, criterion)), dense())  # type: ignore[arg-type]


@pytest.mark.parametrize(("keep", "zeros"), [(0.6, 19), (0.9, 4), (0.5, 24), (0.7, 14), (0.001, 47)])
def test_exactly_the_smallest_entries_are_zeroed(keep: float, zeros: int) -> None:
    """floor((1 - keep) * 48) of them; the rest is untouched."""
    full, found = dense(), sparse(Sparsified(HOST, keep))
    assert int((found == 0).sum()) == zeros
    kept = found != 0
    assert torch.equal(found[kept], full[kept])
    assert full[~kept].abs().max() <= full[kept].abs().min()


@pytest.mark.parametrize(("keep", "zeros"), [(0.9, 1), (0.7, 3), (0.4, 6), (0.1, 9)])
def test_the_count_is_exact_where_floating_point_would_lose_one(keep: float, zeros: int) -> None:
    assert (
        int((Sparsified(HOST, keep, when="after_all").finish(normal(2, 5, seed=1), torch.ones(2, 5)) == 0).sum())
        == zeros
    )


def test_ties_do_not_change_the_count() -> None:
    found = Sparsified(HOST, 0.6, when="after_all").finish(torch.ones(5, 4), torch.ones(5, 4))
    assert int((found == 0).sum()) == 8


def test_relative_importance_is_that_beside_the_weight() -> None:
    full, found = dense(), sparse(Sparsified(HOST, 0.4, "relative"))
    importance = (full / (system().weight + 1e-8)).abs()
    assert int((found != 0).sum()) == 48 - 28
    assert importance[found == 0].max() <= importance[found != 0].min()


def test_after_all_the_solve_is_dense_and_the_total_is_sparse_beside_the_original() -> None:
    solver = Sparsified(HOST, 0.4, "relative", "after_all")
    total, original = normal(4, 12, seed=3), normal(4, 12, seed=4)
    assert torch.equal(sparse(solver), dense())
    found = solver.finish(total, original)
    importance = (total / (original + 1e-8)).abs()
    assert importance[found == 0].max() <= importance[found != 0].min()


def test_per_layer_nothing_is_left_for_the_end() -> None:
    total = normal(4, 12, seed=3)
    assert torch.equal(Sparsified(HOST, 0.4).finish(total, total), total)


def test_the_total_given_is_not_altered() -> None:
    total = normal(4, 12, seed=3)
    kept = total.clone()
    Sparsified(HOST, 0.4, when="after_all").finish(total, total)
    assert torch.equal(total, kept)


def test_the_ledger_still_sees_the_hosts_residual() -> None:
    assert Sparsified(HOST).solve(system(), HOST.prepare(C)).residual < 1e-12


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"keep": 0.0}, "keep = 0"), ({"keep": 1.5}, "keep = 1.5"), ({"criterion": "size"}, "absolute or relative"),
     ({"when": "now"}, "per_layer or after_all")],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(settings: dict, message: str) -> None:
    with pytest.raises(SolveError, match=f"sparsified.*{message}"):
        Sparsified(HOST, **settings)
