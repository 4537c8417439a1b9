"""A session of fuzzing: inputs by family and number, each made from the seed alone, so that it can be made again."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from tests.fuzz.families import FAMILIES, Door, Family, bench_in
from tests.fuzz.judge import PATIENCE, Bench, Verdict, judged, weights_of

FRESH = 300
"""Inputs after which the store is emptied."""


@dataclass(frozen=True)
class Input:
    """One broken input. `damage` says what was done to which whole one, `door` how it came in."""

    family: str
    number: int
    seed: int
    damage: str
    door: str


class Session:
    """A folder to work in and one family's whole inputs, made once."""

    def __init__(self, root: Path, family: str, seed: int) -> None:
        self.bench: Bench = bench_in(root)
        self.family: Family = FAMILIES[family]
        self.seed = seed

    @cached_property
    def samples(self) -> list[Path]:
        """Whole inputs; a family's own damage is done to a copy of one."""
        folder = self.bench.root / "whole"
        folder.mkdir()
        self.family.whole(self.bench, folder)
        return sorted(folder.iterdir())

    @cached_property
    def original(self) -> dict[str, Tensor]:
        """The weights of the model in memory, before anything was tried."""
        return weights_of(self.bench.decoder)

    def run(self, number: int, patience: int = PATIENCE) -> tuple[Input, Verdict]:
        """Make input `number`, use it, judge it. Afterwards the input still lies at `place`."""
        if number % FRESH == 0:
            _emptied(self.bench.store)
        draw = random.Random(f"{self.family.name} {self.seed} {number}")
        sample, door, damage = draw.choice(self.samples), draw.choice(self.family.doors), ""

        def broken(place: Path) -> None:
            nonlocal damage
            damage = self.family.damage(place, draw)

        verdict = self.use(sample, door, broken, patience)
        return Input(self.family.name, number, self.seed, f"{sample.name}: {damage}", door.__name__), verdict

    def use(
        self,
        sample: Path,
        door: Door,
        broken: Callable[[Path], None] = lambda place: None,
        patience: int = PATIENCE,
    ) -> Verdict:
        """A copy of a sample through a door, judged; the model in memory is whole again afterwards."""
        for folder in (self.place, self.bench.out):
            _emptied(folder)
        place, original = self.place / sample.name, self.original
        (shutil.copytree if sample.is_dir() else shutil.copy)(sample, place)
        broken(place)
        with self._surroundings():
            verdict = judged(self.bench, lambda: door(self.bench, place), original, patience, self.family.places_named)
        if verdict.weights_changed:
            self.bench.decoder.restore()
            for name, weight in self.bench.decoder.model.named_parameters():
                weight.data.copy_(original[name])
        return verdict

    @property
    def place(self) -> Path:
        """Where the input is put."""
        return self.bench.root / "input"

    @contextmanager
    def _surroundings(self) -> Iterator[None]:
        """Home, temporary files, store and working folder inside the session's own folder."""
        root, there = self.bench.root, Path.cwd()
        names = {
            "HOME": "home",
            "TMPDIR": "tmp",
            "ERRATA_STORE": "store",
            "XDG_CACHE_HOME": "home",
            "MPLCONFIGDIR": "store",
        }
        before = {name: os.environ.get(name) for name in names}
        os.environ |= {name: str(root / folder) for name, folder in names.items()}
        os.chdir(root / "work")
        try:
            yield
        finally:
            os.chdir(there)
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _emptied(folder: Path) -> None:
    """Empty a folder, whatever its files were made to be."""
    for path in [folder, *folder.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(folder)
    folder.mkdir()
