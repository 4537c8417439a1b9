"""Path: the same facts solved for at settings from gentle to strong, each point scored, and the one that is taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from errata.errors import StoreError, UnknownName
from errata.record.reading import FiniteOrNone
from errata.record.tables import Table, number

CHART_WIDTH, CHART_HEIGHT = 60, 10
"""Characters of a drawn path, without its axes: it fits a terminal of 80 columns."""
MARKS = "ox+*"
"""How points are drawn, a mark for each share."""


@dataclass(frozen=True)
class Point:
    """One way to solve for the facts, and what came of it.

    value: of the solver's setting that weighs what is preserved; None if it has none. share: what every step writes.
    held: share of the facts that hold. probability: mean probability of the new targets, per token.
    divergence: D_KL(unedited || edited) of the next token in nats, mean over the neighbours; same: share of neighbours
    whose likeliest next token is as before. problem: why the point cannot be used; it then has no numbers.
    """

    number: int
    value: FiniteOrNone
    share: float
    held: FiniteOrNone = None
    probability: FiniteOrNone = None
    divergence: FiniteOrNone = None
    same: FiniteOrNone = None
    seconds: float = 0.0
    problem: str = ""

    @property
    def usable(self) -> bool:
        return self.held is not None and self.divergence is not None


@dataclass(frozen=True)
class Goal:
    """What is asked of an edit. aim: share of the facts that shall hold. budget: nats of D_KL on neighbours at most.

    With an aim, the point that meets it and moves neighbours least is taken; with a budget alone, the point within it
    at which most facts hold; with both, the aim is sought within the budget.
    """

    aim: float | None = None
    budget: float | None = None

    def met_by(self, point: Point) -> bool:
        """Whether the point is all that is asked."""
        if point.held is None or point.divergence is None:
            return False
        return self.within(point) and (self.aim is None or point.held >= self.aim)

    def within(self, point: Point) -> bool:
        """Whether the point keeps within the budget."""
        return self.budget is None or (point.divergence is not None and point.divergence <= self.budget)

    def passed_by(self, point: Point) -> bool:
        """Whether a stronger edit than this one has nothing to add: it reaches the aim, or exceeds the budget."""
        reached = self.aim is not None and point.held is not None and point.held >= self.aim
        return point.usable and (reached or not self.within(point))

    def __str__(self) -> str:
        aim = f"at least {self.aim:.0%} of the facts hold" if self.aim is not None else ""
        budget = f"neighbours move by at most {self.budget:g} nats" if self.budget is not None else ""
        return " and ".join(filter(None, (aim, budget)))


@dataclass(frozen=True)
class EditPath:
    """The points of a path in the order in which they were tried, and the number of the one that is taken.

    setting: the solver's setting that the points differ in, as a recipe names it; None if they differ in share alone.
    unedited: share of the facts that held before. neighbours: how many prompts the points were scored on.
    """

    setting: str | None
    points: tuple[Point, ...]
    taken: int
    goal: Goal
    facts: int
    neighbours: int
    unedited: float

    @property
    def point(self) -> Point:
        """The one that is taken."""
        return self.numbered(self.taken)

    @property
    def reached(self) -> bool:
        """Whether the point that is taken is all that was asked for."""
        return self.goal.met_by(self.point)

    def numbered(self, number: int) -> Point:
        """A point by its number. Raises UnknownName."""
        for point in self.points:
            if point.number == number and point.usable:
                return point
        known = [str(point.number) for point in self.points if point.usable]
        raise UnknownName("point of the path", str(number), known)

    def table(self) -> Table:
        """A row per point, those of each share from gentle to strong; the one taken is marked."""
        name = (self.setting or "").rpartition(".")[2]
        columns = ["point", *([name] if name else []), "share", "facts held", "P(target)", "nb D_KL", "nb as before"]
        rows, best = [], []
        for point in self.ordered():
            value = [number(point.value, ",.5g")] if name else []
            if point.usable:
                held = f"{round((point.held or 0.0) * self.facts)} of {self.facts}"
                scores = [held, number(point.probability, ".2f"), number(point.divergence, ".3f")]
                scores += [number(point.same, ".0%")]
            else:
                scores = ["cannot be used", "-", "-", "-"]
            mark = f"{point.number} *" if point.number == self.taken else f"{point.number}  "
            rows.append([mark, *value, f"{point.share:g}", *scores])
            best.append([point.number == self.taken] * len(columns))
        return Table(columns, rows, best, 0)

    def ordered(self) -> list[Point]:
        """By share, then from gentle to strong."""
        gentle_is_large = self.points[0].value is not None and self.points[0].value > (self.points[-1].value or 0)
        direction = -1 if gentle_is_large else 1
        return sorted(self.points, key=lambda point: (-point.share, direction * (point.value or 0)))

    def chart(self) -> str:
        """Facts held against the neighbours' divergence, in characters; the point taken is drawn as #."""
        points = [point for point in self.points if point.usable]
        most = max((point.divergence or 0.0) for point in points) or 1.0
        grid = [[" "] * CHART_WIDTH for _ in range(CHART_HEIGHT)]
        shares = sorted({point.share for point in self.points}, reverse=True)
        for point in sorted(points, key=lambda point: point.number == self.taken):
            across = round((point.divergence or 0.0) / most * (CHART_WIDTH - 1))
            up = round((point.held or 0.0) * (CHART_HEIGHT - 1))
            mark = "#" if point.number == self.taken else MARKS[shares.index(point.share) % len(MARKS)]
            grid[CHART_HEIGHT - 1 - up][across] = mark
        sides = {0: "100 % |", CHART_HEIGHT - 1: "  0 % |"}
        lines = [sides.get(i, "      |") + "".join(row).rstrip() for i, row in enumerate(grid)]
        legend = ", ".join(f"{MARKS[i % len(MARKS)]} share {share:g}" for i, share in enumerate(shares))
        axis = f"      +{'-' * CHART_WIDTH}"
        scale = f"       0{f'{most:.3g} nats of D_KL on neighbours':>{CHART_WIDTH - 1}}"
        return "\n".join([f"facts held; {legend}, # taken", *lines, axis, scale])

    def __str__(self) -> str:
        point, name = self.point, (self.setting or "").rpartition(".")[2]
        at = " ".join(
            filter(None, [f"{name} {point.value:,.5g}" if point.value is not None else "", f"share {point.share:g}"])
        )
        held = round((point.held or 0.0) * self.facts)
        if self.reached:
            return f"point {point.number} is taken ({at}): the gentlest of those at which {self.goal}"
        return (
            f"no point is all that was asked for ({self.goal}); point {point.number} is taken ({at}), at which "
            f"{held} of {self.facts} facts hold"
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: object) -> EditPath:
        """The inverse of `to_json`. Raises StoreError."""
        try:
            return TypeAdapter(cls).validate_python(row)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
            raise StoreError(f"this is not the path of an edit: {problems}") from None


def chosen(points: Sequence[Point], goal: Goal) -> Point | None:
    """The point that a goal asks for; where none is all of it, the one that comes nearest. None if none is usable."""
    usable = [point for point in points if point.usable]
    meeting = [point for point in usable if goal.met_by(point)]
    if goal.aim is not None and meeting:
        return min(meeting, key=lambda point: (point.divergence, -(point.held or 0.0)))
    pool = [point for point in usable if goal.within(point)] or usable
    if not pool:
        return None
    if goal.within(pool[0]):
        return max(pool, key=lambda point: (point.held, -(point.divergence or 0.0)))
    return min(pool, key=lambda point: (point.divergence, -(point.held or 0.0)))


def path_of(manifest: Mapping[str, Any]) -> EditPath | None:
    """The path that an edit was taken from; None if it was made at given settings. Raises StoreError."""
    row = manifest.get("path")
    return None if row is None else EditPath.from_json(row)
