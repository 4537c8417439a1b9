"""The page: one HTML file with everything in it, which asks nothing of the network and lets no other script run."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from errata.record.cell import UNEDITED
from errata.record.run import Run
from errata.report.curves import frontiers, residual_curves, studies
from errata.report.facts import embedded, fact_data
from errata.report.frontier import by_section
from errata.report.headline import chosen, headline
from errata.report.markup import folded, grid_table, heading, section
from errata.report.material import Material, flat
from errata.report.scored import abilities, beside_paper, costs, score_tables, settings_table
from errata.report.study import Study

_NOT_TOLD = ("identity", "records", "retokenised", "contexts", "cell")

FACTS = """\
<p class="note">Failures first. <b>Missed</b>: the edited prompt does not give the new answer. <b>In part</b>: it does,
but not every paraphrase. Scores are those of the single fact.</p>
<div class="tools" role="search">
<input type="search" id="find" placeholder="Search facts and answers" aria-label="Search facts and answers">
<select id="view" aria-label="Which result to show"></select>
<select id="only" aria-label="Which facts to show"></select>
<output id="count" role="status"></output></div>
<div class="scroll" tabindex="0" role="region" aria-label="Facts one by one"><table id="facts"></table></div>
<button type="button" id="more" hidden></button>
<noscript><p class="note">The facts are shown by a script, and scripts are off.</p></noscript>"""


def page(material: Material, title: str = "") -> str:
    """The report. Everything a record says is escaped; the script is allowed by its hash, and no other."""
    title = title or _title(material)
    script, style = _asset("page.js"), _asset("page.css")
    shown = [row for rows in by_section(material.rows()) for row in chosen(rows)]
    data = fact_data(material, shown)
    sections = [
        section("changed", "What was edited, and what changed", _failures(material.failures), headline(material)),
        section("scores", "Scores", score_tables(material)),
        section("paper", "Beside the paper", beside_paper(material)),
        section("ability", "General ability", abilities(material)),
        section("residuals", "On the way through the layers", residual_curves(material)),
        section("frontiers", "Frontiers", frontiers(material)),
        section("studies", "Studies", studies(material.studies)),
        section("by-fact", "Fact by fact", FACTS if data["groups"] else ""),
        section("costs", "Cost", costs(material)),
        section("settings", "Settings and versions", _settings(material)),
    ]
    body = "\n".join(filter(None, sections))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{style}</style></head>
<body>
<header><p class="kicker">errata · report</p><h1>{escape(title)}</h1>{_under(material)}
<nav aria-label="Contents">{_contents(sections)}</nav>
<button type="button" id="theme" aria-label="Colours: as the system has them">◐ auto</button></header>
<main>
{body}
</main>
<script type="application/json" id="data">{embedded(data)}</script>
<script>{script}</script>
</body></html>
"""


def _asset(name: str) -> str:
    return files("errata.report").joinpath(name).read_text(encoding="utf-8")


def _title(material: Material) -> str:
    runs = list(material.runs.values())
    if not runs:
        return material.studies[0].title if len(material.studies) == 1 else f"{len(material.studies)} studies"
    if len(runs) == 1:
        return runs[0].title
    methods = {t.record.method for t in material.trials if t.record.method != UNEDITED}
    where = dict.fromkeys(t.record.model.rstrip("/").rsplit("/", 1)[-1] for t in material.trials)
    edits = sorted({t.record.edits for t in material.trials})
    counts = " and ".join(f"{n:,}" for n in edits)
    return f"{len(methods)} method{'s' * (len(methods) != 1)} on {', '.join(where)}, {counts} edits"


def _under(material: Material) -> str:
    """When, how many, and the first command; all of them stand at the end."""
    days = sorted({run.started[:10] for run in material.runs.values()})
    told = [" to ".join(dict.fromkeys((days[0], days[-1])))] if days else []
    told += [f"{len(material.runs)} runs"] if len(material.runs) > 1 else []
    command = next(iter(_commands(material.runs) or _commands({s.what: s for s in material.studies})), "")
    return f"<p class=under>{escape(' · '.join(told))}</p>" + (f"<code>{escape(command)}</code>" if command else "")


def _commands(runs: Mapping[Any, Run | Study]) -> list[str]:
    return list(dict.fromkeys(run.command for run in runs.values() if run.command))


def _contents(sections: Sequence[str]) -> str:
    links = []
    for text in filter(None, sections):
        key = text.split('id="', 1)[1].split('"', 1)[0]
        name = text.split("<h2>", 1)[1].split("</h2>", 1)[0]
        links.append(f'<a href="#{key}">{name}</a>')
    return "".join(links)


def _failures(failures: Sequence[str]) -> str:
    if not failures:
        return ""
    lines = "".join(f"<li>{escape(text)}</li>" for text in failures)
    return f'<div class="warning"><b>{len(failures)} failed and are not in this report</b><ul>{lines}</ul></div>'


def _settings(material: Material) -> str:
    """Of the runs, and of the studies."""
    runs = {folder.name: run for folder, run in material.runs.items()}
    studied = {study.what: study for study in material.studies}
    return _made_with(runs) + (heading("Studies") if runs and studied else "") + _made_with(studied)


def _made_with(runs: Mapping[str, Run | Study]) -> str:
    """Commands; what all share; in what they differ; versions."""
    if not runs:
        return ""
    told = {name: _told(run.settings) for name, run in runs.items()}
    paths = list(dict.fromkeys(path for mine in told.values() for path in mine))
    shared = [p for p in paths if len({mine.get(p) for mine in told.values()}) == 1]
    differ = [(name, {p: v for p, v in mine.items() if p not in shared}) for name, mine in told.items()]
    first = next(iter(told.values()))
    versions = {f"{name} {number}" for run in runs.values() for name, number in run.versions.items()}
    commands = _commands(runs)
    return (
        heading("Command" if len(commands) == 1 else "Commands", bool(commands))
        + "".join(f"<code>{escape(command)}</code>" for command in commands)
        + heading("Settings" if len(runs) == 1 else "Settings they share", bool(shared))
        + _pairs({path: first[path] for path in shared})
        + (
            folded(f"In what the {len(runs)} differ", grid_table(settings_table(differ), "Runs"))
            if len(runs) > 1
            else ""
        )
        + heading("Versions", bool(versions))
        + (f"<p>{escape(', '.join(sorted(versions)))}</p>" if versions else "")
    )


def _told(settings: Mapping[str, Any]) -> dict[str, str]:
    cell = {k: v for k, v in (settings.get("cell") or {}).items() if k != "settings"}
    rest = {k: v for k, v in settings.items() if k not in _NOT_TOLD}
    return {path: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for path, v in flat({**cell, **rest})}


def _pairs(pairs: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>' for k, v in pairs.items())}</dl>"
