"""Locate-then-edit: targets, then a sweep over the window that solves for them layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

from errata.decoder.corpus import TOKENS_PER_DIMENSION
from errata.decoder.decoder import Decoder
from errata.decoder.memory import HEAP, ROOM, USUAL, Peak, anchor_peak, free_memory, gathering_peak, pass_peak
from errata.decoder.site import Contexts
from errata.editors.base import Edit, Outcome, Pipeline, Progress, Supplies, WeightEdit, weights_of
from errata.editors.guard import Guard
from errata.editors.schedule import AT_ONCE, Schedule
from errata.editors.sweep import Sweeps
from errata.errors import StatisticsError
from errata.fact import Fact, check_facts
from errata.fleet import SOLO, Fleet
from errata.solvers import NullSpace, Solver
from errata.solvers.wrapper import Wrapper
from errata.statistics import KeyStatistics
from errata.store import Store
from errata.targets import AnchorSettings, TargetConstruction


@dataclass(frozen=True)
class LocateThenEdit(Pipeline):
    """One method on one model: construction x solver, over a window, with the anchors' settings."""

    needs = frozenset({"contexts", "statistics"})
    shared = True

    construction: TargetConstruction
    solver: Solver
    window: Sequence[int]
    anchor: AnchorSettings

    @property
    def edited(self) -> list[int]:
        """The layers whose weights change, hence whose statistics are needed."""
        return [step.edit for step in self.construction.steps(self.window)]

    def describe(self) -> dict[str, Any]:
        """Both axes, the window and the anchors' settings."""
        return {
            "construction": repr(self.construction),
            "solver": repr(self.solver),
            "window": list(self.window),
            "anchor": asdict(self.anchor),
        }

    def memory(self, decoder: Decoder, facts: int, free: int | None = None) -> dict[str, Peak]:
        """See Pipeline. In batches a solve holds one matrix [inner, inner] more, and main memory a basis or factor of
        each layer for solvers that use it again; what a wrapper does is left out.

        The statistics stay in main memory from when they are gathered; read back from the store they are mapped, so
        that the system may drop what it needs the room for. Factors are made and dropped layer by layer.
        """
        layers, apart = sorted(set(self.edited)), decoder.device.type != "cpu"
        inner, width = max(decoder.inner(layer) for layer in layers), decoder.width
        size, precision, stems = decoder.dtype.itemsize, decoder.precision.itemsize, facts * USUAL.prompts * USUAL.stem
        moments, sums = len(layers) * inner**2 * 8, gathering_peak(decoder, layers, TOKENS_PER_DIMENSION * inner, free)
        stored = moments + inner**2 * 8  # one is copied while it is written
        sweep = stems * width * size + facts * (2 * USUAL.prompts * inner + len(layers) * width) * precision
        changes = len(layers) * inner * width * (size + precision)
        solve = self.solve_peak(inner, width, facts, apart)
        free = free_memory(decoder.device) if free is None else free
        inside = apart and solve + changes + sweep <= ROOM * free
        swapped = 3 * inner * width * precision
        anchored = self.construction.anchored(self.window)
        peaks = {
            "statistics": Peak(sums, stored) if apart else Peak(max(sums, stored)),
            "anchors": Peak(max(anchor_peak(decoder, layer, facts, free) for layer in anchored), moments),
            "keys": Peak(sweep + changes + pass_peak(decoder, stems, free), moments),
            "solve": Peak(sweep + changes + max(swapped, solve * inside), moments + solve * (not inside)),
        }
        return {stage: Peak(peak.device, peak.host + HEAP) for stage, peak in peaks.items()}

    def solve_peak(self, inner: int, width: int, facts: int, apart: bool = True) -> int:
        """Bytes that factor and solve of one layer hold at most; `apart`: with a copy of its statistics."""
        solver = self.solver
        while isinstance(solver, Wrapper):
            solver = solver.solver
        factoring, kept = (3, 2) if isinstance(solver, NullSpace) else (1, 1)
        answers = 4 * inner * width + 4 * facts * inner + (facts >= inner) * inner**2
        return 8 * max((factoring + apart) * inner**2, kept * inner**2 + answers)

    def run(
        self, decoder: Decoder, facts: Sequence[Fact], supplies: Supplies, schedule: Schedule, past: Edit | None
    ) -> Outcome:
        """`edit`, with what is at hand; gathering statistics counts as a stage."""
        earlier, started = weights_of(past, "locate-then-edit"), perf_counter()
        contexts, statistics = supplies.contexts, supplies.statistics()
        prepared, store, progress = {"statistics": perf_counter() - started}, supplies.store, supplies.progress
        wanted = (schedule, earlier, supplies.guard, supplies.fleet)
        outcome = self.edit(decoder, facts, contexts, statistics, store, progress, *wanted)
        outcome.ledger.seconds = prepared | outcome.ledger.seconds
        return outcome

    def edit(
        self,
        decoder: Decoder,
        facts: Sequence[Fact],
        contexts: Contexts,
        statistics: Mapping[int, KeyStatistics],
        store: Store,
        progress: Progress | None = None,
        schedule: Schedule = AT_ONCE,
        past: WeightEdit | None = None,
        guard: Guard | None = None,
        fleet: Fleet = SOLO,
    ) -> Outcome:
        """Edit the decoder, going on from `past` if given. On any failure or interrupt it is left as it was.

        Where a batch crosses a limit of `guard`, the run ends with the batch before it, and the outcome says so.
        The ranks of a `fleet` share anchors, replay and keys; the leading one, which alone needs `statistics`, solves;
        all end with the same weights.

        Raises UnusableFacts, WindowOutside, AlreadyEdited or StatisticsError before any weight changes, Collapsed
        if the first batch crosses a limit. Anchors are stored as they are found and batches as they are done: an
        interrupted run loses no more than the anchors of one batch, and in batches ends at the very same weights
        (unless it was seeking targets "original" of all facts at once, which it loses none of).
        """
        check_facts([*(past.facts if past else []), *facts])
        decoder.check_window(self.window)
        if fleet.leads:
            check_statistics(decoder, statistics, self.edited)
        site = decoder.tokens.site(facts, contexts)
        before = decoder.change
        if past is None or (before is not None and before.digest != past.delta.digest):
            decoder.check_unedited()
        sweeps = Sweeps(self, decoder, statistics, store, progress, site, schedule, fleet)
        try:
            if past is not None:
                past.put_on(decoder)
                sweeps.total, sweeps.kept = past.delta, dict(past.keys)
            edited = sweeps.over(guard)
        except BaseException:
            decoder.restore() if before is None else decoder.put_on(before)
            raise
        return Outcome(WeightEdit(sweeps.total, keys=sweeps.kept), sweeps.ledger, decoder, tuple(facts[:edited]))


def check_statistics(decoder: Decoder, statistics: Mapping[int, KeyStatistics], layers: Sequence[int]) -> None:
    """Raises StatisticsError unless there are statistics of the right width for every layer."""
    missing = [layer for layer in layers if layer not in statistics]
    if missing:
        raise StatisticsError(f"no key statistics for layers {missing}; gather them with `errata statistics`")
    for layer in layers:
        statistics[layer].expect(decoder.inner(layer))
