"""Bench: models x datasets x methods x edits x seeds x settings, one folder per cell, finished cells kept."""

from errata.bench.grid import Cell, Grid, read_grid
from errata.bench.planning import Dataset
from errata.bench.running import Bench, Failure, Observer, Reckoning, Results

__all__ = ["Bench", "Cell", "Dataset", "Failure", "Grid", "Observer", "Reckoning", "Results", "read_grid"]
