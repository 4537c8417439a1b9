"""Locate-then-edit: targets, then a sweep over the window that solves for them layer by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from errata.decoder.corpus import TOKENS_PER_DIMENSION
from errata.decoder.decoder import Decoder
from errata.decoder.memory import HEAP, ROOM, USUAL, Peak, anchor_peak, free_memory, gathering_peak, pass_peak
from errata.decoder.reach import Reach
from errata.delta import WeightDelta
from errata.description import description
from errata.editors.anchors import Anchors, from_tensors, to_tensors
from errata.editors.base import Edit, Ledger, Outcome, Pipeline, WeightEdit, weights_of
from errata.editors.batches import Batches
from errata.editors.layer_solver import LayerSolver
from errata.editors.schedule import AT_ONCE, Schedule
from errata.editors.supplies import Supplies
from errata.editors.sweep import Sweep
from errata.fact import Fact, check_facts
from errata.solvers import Solver
from errata.statistics import KeyStatistics
from errata.targets import AnchorSettings, Step, TargetConstruction, Targets


@dataclass(frozen=True)
class LocateThenEdit(Pipeline):
    """One method on one model: construction x solver, over a window, with the anchors' settings."""

    needs = frozenset({"contexts", "statistics"})
    shared = True

    construction: TargetConstruction
    solver: Solver
    window: Sequence[int]
    anchor: AnchorSettings
    share: float = 1.0
    """What every step writes of its share of the residual (method 2.19)."""

    @property
    def steps(self) -> list[Step]:
        """The rows of the tableau, as they are worked off."""
        return [step.partly(self.share) for step in self.construction.steps(self.window)]

    @property
    def edited(self) -> list[int]:
        """The layers whose weights change, hence whose statistics are needed."""
        return [step.edit for step in self.steps]

    def describe(self) -> dict[str, Any]:
        """Both axes, the window and the anchors' settings."""
        return {
            "construction": description(self.construction),
            "solver": description(self.solver),
            "window": list(self.window),
            "anchor": asdict(self.anchor),
            "share": self.share,
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
        solve = self.solver.memory(inner, width, facts, apart)
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

    def edit(
        self, facts: Sequence[Fact], supplies: Supplies, schedule: Schedule = AT_ONCE, past: Edit | None = None
    ) -> Outcome:
        """See Pipeline. Where a batch crosses a limit of the guard, the run ends with the batch before it.

        The ranks of a fleet share anchors, replay and keys; the leading one, which alone has statistics, solves;
        all end with the same weights. Anchors are stored as they are optimised and batches as they are done: an
        interrupted run loses no more than the anchors of one batch, and in batches ends at the very same weights
        (unless it was seeking targets "original" of all facts at once, which it loses none of). An anchor's last bits
        depend on the facts it was optimised beside: a run that takes anchors from the store which an earlier run made
        in other portions, or was killed over, all facts at once, agrees with one from an empty store but for these.

        Raises UnusableFacts, WindowOutside, AlreadyEdited, WrongEdit or StatisticsError before any weight changes,
        Collapsed if the first batch crosses a limit.
        """
        decoder, earlier, ledger = supplies.decoder, weights_of(past, "locate-then-edit"), Ledger()
        check_facts([*(earlier.facts if earlier else []), *facts])
        decoder.check_window(self.window)
        with decoder.editing(earlier.delta if earlier else None):
            with ledger.timed("statistics"):
                contexts, statistics = supplies.contexts, supplies.statistics(self.edited)
                ledger.notes += filter(None, [supplies.source(sorted(set(self.edited))).note])
            site = decoder.tokens.site(facts, contexts)
            again = len(schedule.portions(len(facts))) > 1
            sweep = self._sweep(supplies, statistics, ledger, remember=schedule.remember, again=again)
            moments = {str(layer): one.moment for layer, one in statistics.items()}
            made_of = {"method": description(self), "statistics": WeightDelta("", moments).digest if again else None}
            if earlier is not None:
                sweep.anchors.kept = from_tensors(earlier.anchors)
                changes = {name: change.to(decoder.device) for name, change in earlier.delta.changes.items()}
                sweep.total, sweep.solver.keys = WeightDelta(decoder.fingerprint, changes), dict(earlier.keys)
                decoder.set_change(sweep.total)
            edited = Batches(sweep, site, schedule, self.edited, made_of).run()
            decoder.set_change(sweep.total)
        made = WeightEdit(sweep.total, keys=sweep.solver.keys, anchors=to_tensors(sweep.anchors.kept))
        return Outcome(made, ledger, decoder, tuple(facts[:edited]), sweep.targets)

    def reach(self, decoder: Decoder) -> dict[int, Reach]:
        """Layer -> how its output reaches the stream; none where targets are outputs. Raises UnsupportedModel."""
        if self.construction.search.space == "mlp":
            return {}
        return decoder.reach([*self.edited, *self.construction.anchored(self.window)])

    def targets(self, facts: Sequence[Fact], supplies: Supplies) -> Targets:
        """The targets on the model as it is; nothing is edited.

        Statistics are not asked for: constructions that weigh updates against each other cannot be asked this way.
        """
        sweep = self._sweep(supplies, {}, Ledger())
        return sweep.targets_of(supplies.decoder.tokens.site(facts, supplies.contexts))

    def _sweep(
        self,
        supplies: Supplies,
        statistics: Mapping[int, KeyStatistics],
        ledger: Ledger,
        *,
        remember: bool = True,
        again: bool = False,
    ) -> Sweep:
        decoder, search, reach = supplies.decoder, self.construction.search, self.reach(supplies.decoder)
        anchors = Anchors(self.anchor, search, supplies, ledger, reach)
        kept = {"remember": remember, "again": again}
        solver = LayerSolver(self.solver, decoder, statistics, supplies.fleet, reach=reach, **kept)
        total = WeightDelta(decoder.fingerprint)
        return Sweep(self.construction, self.window, anchors, solver, supplies, ledger, total, self.share)
