"""The normal equations dW (K^T K + slack * Cp) = R^T K, by way of the Cholesky factor of Cp. All float64.

Facts are rows. With Cp = U^T U and whitened keys S = K U^-1 [fact, inner] they read
dW U^T (S^T S + slack * I) = R^T S, so that nothing but the identity is ever added to a product of keys:
LeastSquares is slack 1, EqualityConstrained slack gamma (method 7.1, 7.2).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.linalg import solve_triangular

from errata.errors import SingularSystem
from errata.solvers.base import Solution


def factored(matrix: Float[Tensor, "n n"]) -> Float[Tensor, "n n"] | None:
    """Upper U with matrix = U^T U, **in the matrix's own memory**; None if it is singular to working precision.

    LAPACK often goes on where the last pivots are nothing but rounding. Two steps of inverse iteration find that
    out: an eigenvalue of the matrix scaled to a diagonal of ones is noise below n * eps.
    """
    scale = matrix.diagonal().clamp(min=0).sqrt()
    lower, info = matrix.mT, torch.empty((), dtype=torch.int32, device=matrix.device)
    torch.linalg.cholesky_ex(lower, out=(lower, info))
    if int(info):
        return None
    row = torch.randn(1, len(matrix), dtype=matrix.dtype, generator=torch.Generator().manual_seed(0)).to(matrix)
    for _ in range(2):
        row = divided(row / row.norm() * scale, matrix) * scale
    return matrix if float(row.norm()) * _noise(matrix) < 1 else None


def solve(
    keys: Float[Tensor, "fact inner"],
    residuals: Float[Tensor, "fact model"],
    factor: Float[Tensor, "inner inner"],
    *,
    slack: float,
    layer: int,
    advice: str,
) -> Solution:
    """By the smaller of both forms. Raises SingularSystem if the keys are dependent beyond what slack can mend."""
    form = few_facts if len(keys) < len(factor) or slack == 0 else many_facts
    change = form(keys, residuals, factor, slack)
    if change is None:
        whitened = solve_triangular(factor, keys, upper=True, left=False)
        raise singular(whitened @ whitened.T, layer, "the system of the facts' keys", advice)
    return Solution(
        change, relative_residual(change, keys, residuals, lambda rows: slack * (rows @ factor.mT) @ factor)
    )


def few_facts(
    keys: Float[Tensor, "fact inner"], residuals: Float[Tensor, "fact model"], factor: Tensor, slack: float
) -> Float[Tensor, "model inner"] | None:
    """dW = R^T (S S^T + slack * I)^-1 S U^-T by a system of facts x facts."""
    whitened = solve_triangular(factor, keys, upper=True, left=False)
    gram = whitened @ whitened.T
    gram.diagonal().add_(slack)
    if (root := factored(gram)) is None:
        return None
    shares = divided(residuals.T, root)
    if len(keys) < len(shares):
        return shares @ solve_triangular(factor.mT, whitened, upper=False, left=False)
    return solve_triangular(factor.mT, shares @ whitened, upper=False, left=False)


def many_facts(
    keys: Float[Tensor, "fact inner"], residuals: Float[Tensor, "fact model"], factor: Tensor, slack: float
) -> Float[Tensor, "model inner"] | None:
    """dW = R^T S (S^T S + slack * I)^-1 U^-T by a system of inner x inner."""
    whitened = solve_triangular(factor, keys, upper=True, left=False)
    gram = whitened.T @ whitened
    gram.diagonal().add_(slack)
    if (root := factored(gram)) is None:
        return None
    return solve_triangular(factor.mT, divided(residuals.T @ whitened, root), upper=False, left=False)


def divided(rows: Float[Tensor, "row n"], factor: Float[Tensor, "n n"]) -> Float[Tensor, "row n"]:
    """rows (U^T U)^-1."""
    halfway = solve_triangular(factor, rows, upper=True, left=False)
    return solve_triangular(factor.mT, halfway, upper=False, left=False)


PROBES = 32
"""Random combinations of a matrix's rows on which its residual is measured, at a small part of the solve's own cost."""


def relative_residual(
    change: Float[Tensor, "model inner"],
    keys: Float[Tensor, "fact inner"],
    residuals: Float[Tensor, "fact model"],
    preserved: Callable[[Float[Tensor, "row inner"]], Float[Tensor, "row inner"]],
) -> float:
    """|dW K^T K + preserved(dW) - R^T K| / |R^T K| (method 5.11), estimated on Gaussian combinations of the rows."""
    draws = torch.randn(PROBES, len(change), dtype=change.dtype, generator=torch.Generator().manual_seed(0))
    draws = draws.to(change.device)
    rows, wanted = draws @ change, (draws @ residuals.T) @ keys
    size = float(wanted.norm())
    return float((wanted - preserved(rows) - (rows @ keys.T) @ keys).norm()) / size if size else 0.0


def singular(matrix: Shaped[Tensor, "n n"], layer: int | None, what: str, advice: str) -> SingularSystem:
    """The error for a symmetric matrix without a factor: layer, rank, condition and what to try."""
    values = torch.linalg.eigvalsh(matrix)
    rank = int((values > _noise(matrix) * values[-1].clamp(min=0)).sum())
    condition = float(values[-1] / values[0]) if values[0] > 0 else float("inf")
    return SingularSystem(
        f"{at_layer(layer)}: {what} has rank {rank} of {len(matrix)} (condition {condition:.1e}),"
        f" so it has no single solution. {advice}"
    )


def at_layer(layer: int | None) -> str:
    return "a layer" if layer is None else f"layer {layer}"


def _noise(matrix: Tensor) -> float:
    return len(matrix) * torch.finfo(matrix.dtype).eps
