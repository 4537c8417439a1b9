"""Axis 2: which change of one matrix says it, and leaves the rest alone?"""

from errata.solvers.base import LinearSystem, Prepared, Preservation, Solution, Solver
from errata.solvers.equality_constrained import EqualityConstrained
from errata.solvers.least_squares import LeastSquares
from errata.solvers.null_space import NullSpace
from errata.solvers.rank_one import RankOne
from errata.solvers.restrained import Restrained
from errata.solvers.sparsified import Sparsified
from errata.solvers.truncated import Truncated
from errata.solvers.wrapper import Wrapper

__all__ = [
    "EqualityConstrained",
    "LeastSquares",
    "LinearSystem",
    "NullSpace",
    "Prepared",
    "Preservation",
    "RankOne",
    "Restrained",
    "Solution",
    "Solver",
    "Sparsified",
    "Truncated",
    "Wrapper",
]
