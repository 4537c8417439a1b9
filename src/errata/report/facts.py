"""Facts one by one: what each was changed to, what the model said, how every method scored it; failures first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from errata.record.cell import UNEDITED
from errata.record.tables import SCORE_COLUMNS
from errata.report.frontier import by_section
from errata.report.material import Material, ModelState
from errata.report.summary import Summary, named_apart, section_title

AGREES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("efficacy_accuracy", "efficacy_success"),
    "wordings": ("generalisation_accuracy", "generalisation_success"),
}
"""The scores that say whether the edited prompt holds, and whether its paraphrases do; the first a record has."""
MISSED, IN_PART, HELD = 0, 1, 2
SIDE_BY_SIDE = 6


def holds(said: str, wanted: str) -> bool:
    """Whether what was said begins with what was wanted."""
    return bool(wanted) and said.strip().casefold().startswith(wanted.strip().casefold())


def fact_data(material: Material, shown: Sequence[Summary] = ()) -> dict[str, Any]:
    """What the page's script makes the table of.

    groups    one per section of the runs: its facts [seed, prompt, wanted, before], its views
    views     one per row (method, settings): per fact a verdict, what was said, a value per score; null if unknown
    """
    groups = [group for rows in by_section(material.rows()) if (group := _group(rows, material))["views"]]
    scores = [[key, title, higher] for key, title, higher in SCORE_COLUMNS]
    best = {named_apart(row, rows) for rows in by_section(material.rows()) for row in shown if row in rows}
    for group in groups:
        names = [view["name"] for view in group["views"]]
        first = next((i for i, name in enumerate(names) if name in best), 0)
        group["first"] = -1 if 1 < len(names) <= SIDE_BY_SIDE else first
    return {"scores": scores, "groups": groups, "verdicts": ["missed", "in part", "held"]}


def verdict(values: Mapping[str, float | None]) -> int | None:
    """Missed: the edited prompt does not hold. In part: a paraphrase does not."""
    prompt, wordings = (next((values[n] for n in AGREES[kind] if values.get(n) is not None), None) for kind in AGREES)
    if prompt is None:
        return None
    if prompt < 1:
        return MISSED
    return IN_PART if wordings is not None and wordings < 1 else HELD


def _group(rows: Sequence[Summary], material: Material) -> dict[str, Any]:
    edited = [row for row in rows if row.method != UNEDITED]
    facts: list[list[Any]] = []
    places: dict[int, range] = {}
    for state in [state for row in edited for state in material.of(row)]:
        seed, size = state.record.seed, len(state.facts)
        if seed not in places:
            places[seed] = range(len(facts), len(facts) + size)
            facts += [[seed, fact.prompt, fact.wanted, fact.before] for fact in state.facts]
        for place, fact in zip(places[seed], state.facts, strict=False):
            if fact.wanted and not facts[place][2]:
                facts[place] = [seed, fact.prompt, fact.wanted, fact.before]
    views = [_view(row, rows, material.of(row), places, len(facts)) for row in edited]
    views = [view for view in views if view["values"]]
    return {"name": section_title(rows), "seeds": len(places), "facts": facts, "views": views}


def _view(
    row: Summary, rows: Sequence[Summary], states: Sequence[ModelState], places: Mapping[int, range], size: int
) -> dict[str, Any]:
    shown = {key for key, _, _ in SCORE_COLUMNS}
    values: dict[str, list[float | None]] = {}
    said: list[str | None] = [None] * size
    for state in states:
        mine = places[state.record.seed]
        for score in state.scores:
            if score["name"] in shown and score["per_case"]:
                column = values.setdefault(score["name"], [None] * size)
                for place, value in zip(mine, score["per_case"], strict=False):
                    column[place] = None if value is None else round(value, 4)
        for place, fact in zip(mine, state.facts, strict=False):
            said[place] = (fact.said or {}).get(row.method)
    verdicts = [verdict({name: column[i] for name, column in values.items()}) for i in range(size)]
    known = said if any(text is not None for text in said) else None
    return {"name": named_apart(row, rows), "verdict": verdicts, "said": known, "values": values}
