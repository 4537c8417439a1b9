"""The path of an edit: solving for the same facts from gentle to strong until a goal is reached (method 2.19)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log
from statistics import fmean
from time import perf_counter

from torch import Tensor

from errata.editors.base import Pipeline, WeightEdit
from errata.editors.locate_then_edit import LocateThenEdit
from errata.editors.schedule import Schedule
from errata.editors.supplies import Supplies
from errata.errors import NotFinite, SolveError
from errata.evaluate.specificity import NextToken
from errata.fact import Fact
from errata.method import Method, nested, solver_name
from errata.recipe import Recipe
from errata.record.path import EditPath, Goal, Point, chosen
from errata.solvers import Preservation
from errata.verdict import asked, form_of, of_fact

SHARES = (1.0, 0.5)
"""What every step writes of its share of the residual: partial writes are often ahead of full ones."""
RUNGS = 4
"""Values of the solver's setting, evenly spaced in their logarithm, before the path is refined where it turns."""
HALVINGS = 2
"""How often the stretch between the last value that does not reach the goal and the first that does is halved."""

Measure = Callable[[float | None, float], Point]
"""Solve with this value of the setting and this share, and score."""


@dataclass(frozen=True)
class Knob:
    """The setting that a path of one pipeline runs over: the solver's name as in recipes, and its range."""

    solver: str
    preservation: Preservation

    @property
    def place(self) -> str:
        return f"solvers.{self.solver}.{self.preservation.setting}"

    def set_by(self, recipe: Recipe) -> bool:
        """Whether a recipe gives the setting itself."""
        return self.preservation.setting in recipe.solvers.get(self.solver, {})

    def rungs(self) -> list[float]:
        """From gentle to strong, evenly in the logarithm."""
        gentle, strong = self.preservation.gentle, self.preservation.strong
        return [rounded(gentle * (strong / gentle) ** (i / (RUNGS - 1))) for i in range(RUNGS)]


def knob_of(pipeline: Pipeline) -> Knob | None:
    """The setting of its solver, or of the one that this wraps; None if there is none."""
    solvers = nested(pipeline.solver) if isinstance(pipeline, LocateThenEdit) else iter(())
    return next((Knob(solver_name(s), s.preservation) for s in solvers if s.preservation), None)


def obstacle(pipeline: Pipeline, schedule: Schedule, goes_on: bool) -> str | None:
    """Why an edit can have no path; None if it can."""
    if not isinstance(pipeline, LocateThenEdit):
        return "this method trains, so every point would cost as much as the whole edit"
    if schedule.batch is not None:
        return "facts are edited in batches, and every batch after the first seeks anchors on what the last one did"
    if goes_on:
        return "the edit goes on from an earlier one, whose settings it takes"
    if any(step.anew for step in pipeline.steps):
        return "this method seeks anchors anew while it edits, so every point would need its own"
    return None


def at_point(recipe: Recipe, knob: Knob | None, value: float | None, share: float) -> Recipe:
    """The recipe of a point."""
    source = {"share": "from the path of the edit"}
    if knob is None or value is None:
        return recipe.with_share(share, source)
    source[knob.place] = "from the path of the edit"
    return recipe.with_solver(knob.solver, **{knob.preservation.setting: value}).with_share(share, source)


def walk(measure: Measure, rungs: Sequence[float], goal: Goal) -> Iterator[Point]:
    """The points of a path in the order in which they are tried, each share from gentle to strong.

    A share's walk ends where a stronger edit has nothing to add to the goal; that place is then closed in on. A
    smaller share needs a stronger value, so its walk begins at the rung at which the last one ended.
    """
    if not rungs:
        yield from (measure(None, share) for share in SHARES)
        return
    first = 0
    for share in SHARES:
        low = rungs[first - 1] if first else None
        for i in range(first, len(rungs)):
            first, point = i, measure(rungs[i], share)
            yield point
            if goal.passed_by(point):
                yield from _closing_in(measure, low, point, goal)
                break
            low = rungs[i]


def _closing_in(measure: Measure, low: float | None, high: Point, goal: Goal) -> Iterator[Point]:
    """Between a value that is not enough and a point that is."""
    for _ in range(HALVINGS if low is not None else 0):
        assert low is not None
        assert high.value is not None
        point = measure(rounded(exp((log(low) + log(high.value)) / 2)), high.share)
        yield point
        if goal.passed_by(point):
            high = point
        else:
            low = point.value


def added(seconds: Mapping[str, float], more: Mapping[str, float]) -> dict[str, float]:
    """Stage -> seconds, of two runs together."""
    return {stage: seconds.get(stage, 0.0) + more.get(stage, 0.0) for stage in {**seconds, **more}}


def rounded(value: float) -> float:
    """To two digits, so that a value can be said and typed."""
    return float(f"{value:.2g}")


class Walker:
    """Facts of one method, solved for along a path; anchors are sought once, by the first point.

    neighbours: the prompts on which points are scored.
    """

    def __init__(
        self, method: Method, recipe: Recipe, supplies: Supplies, facts: Sequence[Fact], neighbours: Sequence[str]
    ) -> None:
        self.method, self.recipe, self.facts, self.neighbours = method, recipe, facts, neighbours
        self.supplies, self.decoder = supplies, supplies.decoder
        self.knob = knob_of(method.pipeline(recipe, self.decoder.depth))
        self.anchors: Mapping[str, Tensor] = supplies.anchors
        self.seconds: dict[str, float] = {}
        """Stage -> seconds of all points together."""
        self._tried = 0

    def path(self, goal: Goal) -> EditPath:
        """Raises SolveError if no point can be used."""
        unedited = self.supplies.fleet.tell(self._held)
        points = []
        for point in walk(self.measured, self.knob.rungs() if self.knob else [], goal):
            points.append(point)
            self.supplies.tell("points of the path", len(points), 0)
        best = chosen(points, goal)
        if best is None:
            raise SolveError(f"no point of the path can be used; the last one: {points[-1].problem}")
        place = self.knob.place if self.knob else None
        return EditPath(place, tuple(points), best.number, goal, len(self.facts), len(self.neighbours), unedited)

    def measured(self, value: float | None, share: float) -> Point:
        """Edit, score, and take the edit off again."""
        self._tried += 1
        started, number = perf_counter(), self._tried
        recipe = at_point(self.recipe, self.knob, value, share)
        supplies = self.supplies.under(recipe).unguarded().with_anchors(self.anchors)
        try:
            outcome = self.method.pipeline(recipe, self.decoder.depth).edit(self.facts, supplies)
            if isinstance(outcome.edit, WeightEdit):
                self.anchors = outcome.edit.anchors
            self.seconds = added(self.seconds, outcome.ledger.seconds)
            scores = self.supplies.fleet.tell(self._scores)
        except (SolveError, NotFinite) as error:
            return Point(number, value, share, problem=str(error))
        finally:
            self.decoder.restore()
        if not all(map(isfinite, scores.values())):
            return Point(number, value, share, problem="the model no longer gives finite numbers")
        return Point(number, value, share, **scores, seconds=perf_counter() - started)

    def _held(self) -> float:
        readings = asked(self.decoder, list(map(of_fact, self.facts)))
        return sum(reading.exact for reading in readings) / len(readings)

    def _scores(self) -> dict[str, float]:
        """Of the edited model, in one pass."""
        form = form_of(self.facts)
        near = [NextToken(prompt, form) for prompt in self.neighbours]
        answers = asked(self.decoder, [*map(of_fact, self.facts), *near])
        readings, shifts = answers[: len(self.facts)], answers[len(self.facts) :]
        return {
            "held": fmean(reading.exact for reading in readings),
            "probability": fmean(reading.probability for reading in readings),
            "divergence": fmean(shift.kl for shift in shifts) if shifts else 0.0,
            "same": fmean(shift.top1 for shift in shifts) if shifts else 1.0,
        }
