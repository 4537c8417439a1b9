"""Stability (method 6.4): how far targets depend on the context prefixes, and on the way they are constructed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

from errata.decoder.contexts import generate_contexts
from errata.record.chart import Axis, Chart, Line
from errata.record.tables import Table
from errata.study.finding import EPSILON, Finding, PerFact, cosine, line, norm
from errata.study.trial import Trial
from errata.targets import EveryLayer, ForwardReplay, TargetConstruction, Targets

SEEDS = (0, 42, 123)
COSINES = {"states": "cos(z, z')", "shifts": "cos(z - h, z' - h)"}


@dataclass(frozen=True)
class Alike:
    """Two sets of targets at one layer."""

    layer: int
    states: PerFact
    """cos(z, z')."""
    shifts: PerFact
    """cos(z - h, z' - h): the state itself, which both share, left out."""
    difference: PerFact
    """|z - z'| / (|z| + |z'|)."""


@dataclass(frozen=True)
class Stability(Finding):
    """Targets optimised at each layer, and replayed from the first, under several sets of contexts."""

    seeds: tuple[int, ...]
    replayed: tuple[Alike, ...]
    """Optimised against replayed, first seed, a row per layer."""
    between: dict[str, dict[str, tuple[Alike, ...]]]
    """"optimised" or "replayed" -> "seed/seed" -> a row per layer."""

    name: ClassVar[str] = "stability"
    title: ClassVar[str] = "Stability of targets"

    @property
    def note(self) -> str:
        return (
            f"Targets z under context prefixes sampled with seeds {', '.join(map(str, self.seeds))}; nothing else is "
            "random. Optimised: an anchor at each layer of its own. Replayed: the first layer's anchor, replayed to "
            "the later ones. Cosines of whole states z, as published, and of the shifts z - h, which are what "
            "editing asks for: states share h, so their cosine is high even where the shifts differ."
        )

    def tables(self) -> dict[str, Table]:
        head = ["at layer", *(str(row.layer) for row in self.replayed)]
        found = {
            "Optimised against replayed, one seed": Table.plain(
                head,
                [
                    ["cos(z, z')", *(row.states.text(3) for row in self.replayed)],
                    ["|z - z'| / (|z| + |z'|)", *(row.difference.text(3) for row in self.replayed)],
                    ["cos(z - h, z' - h)", *(row.shifts.text(3) for row in self.replayed)],
                ],
            )
        }
        for key, text in COSINES.items():
            rows = [
                [f"{kind}, seeds {pair}", *(getattr(row, key).text(3) for row in alike)]
                for kind, pairs in self.between.items()
                for pair, alike in pairs.items()
            ]
            found[f"Between seeds, {text}"] = Table.plain(head, rows)
        return found

    def charts(self) -> list[Chart]:
        layers = [row.layer for row in self.replayed]
        return [
            Chart(f"{text} between seeds", Axis.of_layers("layer", layers), Axis("cosine"), self._lines(key))
            for key, text in COSINES.items()
        ]

    def _lines(self, key: str) -> list[Line]:
        alike = {f"{kind}, seeds {pair}": rows for kind, pairs in self.between.items() for pair, rows in pairs.items()}
        alike["optimised against replayed"] = self.replayed
        return [line(name, [(row.layer, getattr(row, key)) for row in rows]) for name, rows in alike.items()]


def stability(trial: Trial, seeds: Sequence[int] = SEEDS) -> Stability:
    """Cosines and normalised differences of targets between seeds and between constructions (method 6.4).

    Anchors at every layer of the window for every seed: the dearest study, window x seeds anchors per fact.
    """
    decoder, window = trial.decoder, trial.window
    states = {layer: state.cpu() for layer, state in decoder.states(trial.site.bare, window).items()}
    kinds: dict[str, TargetConstruction] = {"optimised": EveryLayer(), "replayed": ForwardReplay()}
    found: dict[str, dict[int, Targets]] = {kind: {} for kind in kinds}
    for done, seed in enumerate(seeds):
        here = trial.under(generate_contexts(decoder, seed))
        for kind, construction in kinds.items():
            found[kind][seed] = {layer: z.cpu() for layer, z in here.targets(construction).items()}
        trial.tell("seeds", done + 1, len(seeds))
    first = {kind: by_seed[seeds[0]] for kind, by_seed in found.items()}
    between = {
        kind: {f"{a}/{b}": _alike(by_seed[a], by_seed[b], states) for a, b in combinations(seeds, 2)}
        for kind, by_seed in found.items()
    }
    return Stability(tuple(seeds), _alike(first["optimised"], first["replayed"], states), between)


def _alike(one: Targets, other: Targets, states: Targets) -> tuple[Alike, ...]:
    """A row per layer; where a shift is nothing its cosine is left out."""
    rows = []
    for layer, state in states.items():
        a, b = one[layer], other[layer]
        moved = (norm(a - state) > 0) & (norm(b - state) > 0)
        shifts = PerFact.of(cosine(a - state, b - state), moved)
        difference = PerFact.of(norm(a - b) / (norm(a) + norm(b) + EPSILON))
        rows.append(Alike(layer, PerFact.of(cosine(a, b)), shifts, difference))
    return tuple(rows)
