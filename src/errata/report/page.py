"""The page: one HTML file with everything in it, which asks nothing of the network and lets no other script run.

Templates write it, and escape everything that a record says.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import jinja2
from markupsafe import Markup, escape

from errata.record.cell import UNEDITED
from errata.record.run import Run
from errata.record.study import StudyRecord
from errata.record.tables import Table
from errata.report.blocks import (
    Block,
    Command,
    FactSearch,
    Failures,
    Figures,
    Heading,
    Note,
    Pairs,
    Section,
    SortedTable,
    folded,
)
from errata.report.charts import frontier_blocks, residual_blocks
from errata.report.drawing import Drawing
from errata.report.facts import fact_data
from errata.report.frontier import by_section
from errata.report.headline import chosen, headline
from errata.report.material import Material, flat
from errata.report.scored import ability_blocks, cost_blocks, paper_blocks, score_blocks

_NOT_SHOWN = ("identity", "records", "retokenised", "contexts", "cell")
NO_FACTS: Mapping[str, Any] = {"groups": []}


def page(material: Material, title: str = "") -> str:
    """The report of runs and studies."""
    rows = material.rows()
    shown = [row for mine in by_section(rows) for row in chosen(mine)]
    data = fact_data(material, shown)
    failures = [Failures(material.failures)] if material.failures else []
    sections = [
        Section("changed", "What was edited, and what changed", [*failures, *headline(material)]),
        Section("scores", "Scores", score_blocks(material)),
        Section("paper", "Beside the paper", paper_blocks(material)),
        Section("ability", "General ability", ability_blocks(material)),
        Section("residuals", "On the way through the layers", residual_blocks(material)),
        Section("frontiers", "Frontiers", frontier_blocks(rows)),
        Section("studies", "Studies", study_blocks(material.studies)),
        Section("by-fact", "Fact by fact", [FactSearch()] if data["groups"] else []),
        Section("costs", "Cost", cost_blocks(material)),
        Section("settings", "Settings and versions", _settings(material)),
    ]
    command = next(iter(_commands([*material.runs.values(), *material.studies])), "")
    return rendered(title or _title(material), sections, "report", _under(material), command, data)


def rendered(
    title: str,
    sections: Sequence[Section],
    kicker: str,
    under: str = "",
    command: str = "",
    facts: Mapping[str, Any] = NO_FACTS,
) -> str:
    """A page of sections. Its script is allowed by its hash, and no other."""
    script, style = (_read(name) for name in ("page.js", "page.css"))
    return (
        _templates()
        .get_template("page.html")
        .render(
            title=title,
            kicker=kicker,
            under=under,
            command=command,
            sections=[section for section in sections if section.blocks],
            script=Markup(script),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            style=Markup(style),
            data=embedded(facts),
        )
    )


def embedded(data: Any) -> Markup:
    """JSON that can stand inside a script element: no `<`, `>` or `&` in it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def study_blocks(studies: Sequence[StudyRecord]) -> list[Block]:
    """Every study with its charts and tables."""
    blocks: list[Block] = []
    for study in studies:
        tables = [b for title, table in study.tables.items() for b in (Heading(title), SortedTable.of(table, title))]
        blocks += [Heading(study.title), *([Note(study.note)] if study.note else [])]
        blocks += [Figures([(chart, "") for chart in study.charts])] if study.charts else []
        blocks += folded("Tables", tables) if study.charts else tables
    return blocks


@cache
def _templates() -> jinja2.Environment:
    loader = jinja2.PackageLoader("errata.report")
    made = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters |= {"lowered": lowered, "lowered_in_svg": _lowered_in_svg}
    made.globals["drawing"] = Drawing.of
    return made


def _read(name: str) -> str:
    environment = _templates()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def lowered(text: str) -> Markup:
    """Escaped, with the index of D_KL set below."""
    return escape(text).replace("D_KL", Markup("D<sub>KL</sub>"))


def _lowered_in_svg(text: str) -> Markup:
    index = Markup('D<tspan dy="3" font-size="9">KL</tspan><tspan dy="-3">\u200b</tspan>')
    return escape(text).replace("D_KL", index)


def _title(material: Material) -> str:
    runs = list(material.runs.values())
    if not runs:
        return material.studies[0].title if len(material.studies) == 1 else f"{len(material.studies)} studies"
    if len(runs) == 1:
        return runs[0].title
    records = [state.record for state in material.states]
    methods = {record.method for record in records if record.method != UNEDITED}
    models = dict.fromkeys(record.model.rstrip("/").rsplit("/", 1)[-1] for record in records)
    counts = " and ".join(f"{n:,}" for n in sorted({record.edits for record in records}))
    return f"{len(methods)} method{'s' * (len(methods) != 1)} on {', '.join(models)}, {counts} edits"


def _under(material: Material) -> str:
    """When, and how many runs."""
    days = sorted({run.started[:10] for run in material.runs.values()})
    parts = [" to ".join(dict.fromkeys((days[0], days[-1])))] if days else []
    return " · ".join([*parts, *([f"{len(material.runs)} runs"] if len(material.runs) > 1 else [])])


def _commands(made: Sequence[Run | StudyRecord]) -> list[str]:
    return list(dict.fromkeys(one.command for one in made if one.command))


def _settings(material: Material) -> list[Block]:
    """Of the runs, and of the studies."""
    runs = {folder.name: run for folder, run in material.runs.items()}
    studies = {study.what: study for study in material.studies}
    heading = [Heading("Studies")] if runs and studies else []
    return [*_made_with(runs), *heading, *_made_with(studies)]


def _made_with(made: Mapping[str, Run | StudyRecord]) -> list[Block]:
    """Commands; what all share; in what they differ; versions."""
    if not made:
        return []
    settings = {name: _settings_of(one.settings) for name, one in made.items()}
    paths = list(dict.fromkeys(path for mine in settings.values() for path in mine))
    shared = [p for p in paths if len({mine.get(p) for mine in settings.values()}) == 1]
    differ = {name: {p: v for p, v in mine.items() if p not in shared} for name, mine in settings.items()}
    first = next(iter(settings.values()))
    versions = sorted({f"{name} {number}" for one in made.values() for name, number in one.versions.items()})
    blocks: list[Block] = []
    if commands := _commands(list(made.values())):
        blocks += [Heading("Command" if len(commands) == 1 else "Commands"), *map(Command, commands)]
    if shared:
        title = "Settings" if len(made) == 1 else "Settings they share"
        blocks += [Heading(title), Pairs({path: first[path] for path in shared})]
    if len(made) > 1:
        blocks += folded(f"In what the {len(made)} differ", [SortedTable.of(_differences(differ), "Runs")])
    return [*blocks, *([Heading("Versions"), Note(", ".join(versions))] if versions else [])]


def _differences(settings: Mapping[str, Mapping[str, str]]) -> Table:
    """Row per run, a column per setting in which they differ."""
    paths = list(dict.fromkeys(path for mine in settings.values() for path in mine))
    rows = [[name, *(mine.get(p, "") for p in paths)] for name, mine in settings.items()]
    return Table.plain(["run", *paths], rows, 1 + len(paths))


def _settings_of(settings: Mapping[str, Any]) -> dict[str, str]:
    cell = settings.get("cell")
    cell = {k: v for k, v in cell.items() if k != "settings"} if isinstance(cell, Mapping) else {}
    rest = {k: v for k, v in settings.items() if k not in _NOT_SHOWN}
    return {path: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for path, v in flat({**cell, **rest})}
