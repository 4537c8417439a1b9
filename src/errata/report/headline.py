"""What was edited and what changed: in words, a card per method, and the first facts as an errata slip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from errata.record.cell import UNEDITED
from errata.report import frontier
from errata.report.facts import AGREES, holds
from errata.report.markup import heading, listed, note, percent, strip
from errata.report.material import Material
from errata.report.summary import Row, Spread, section_title, settings_told, short, told, varied

PARAPHRASES = "generalisation_accuracy"
ON_CARDS = (
    ("efficacy_accuracy", "edited prompts"),
    (PARAPHRASES, "paraphrases"),
    ("novel_accuracy", "new wordings"),
    ("efficacy_stop", "said, then stopped"),
    ("specificity_top1", "neighbours unchanged"),
)
SLIPS = 5


def headline(material: Material) -> str:
    """Of every section of the runs: sentences, cards, slips."""
    sections = list(frontier.by_section(material.rows()))
    return "\n".join(
        heading(section_title(rows), len(sections) > 1)
        + "".join(f"<p class=lead>{text}</p>" for text in sentences(rows, material))
        + cards(rows)
        + slips(rows, material)
        for rows in sections
        if chosen(rows)
    )


def chosen(rows: Sequence[Row]) -> list[Row]:
    """One row per edited method: of several settings the one that carries furthest over to paraphrases."""
    found: dict[str, Row] = {}
    for row in rows:
        if row.method != UNEDITED:
            found[row.method] = max(found.get(row.method, row), row, key=_reached)
    return list(found.values())


def sentences(rows: Sequence[Row], material: Material) -> list[str]:
    """What was done, what the unedited model did, and which method stands where; escaped."""
    methods = chosen(rows)
    first, seeds = methods[0], max(len(row.seeds) for row in methods)
    layers = dict.fromkeys(_layers(material.of(row)[0].ledger) for row in methods)
    where = f", layers {next(iter(layers))}," if len(layers) == 1 and all(layers) else ""
    by = listed([row.method for row in methods])
    model = first.model.rstrip("/").rsplit("/", 1)[-1] or "the model"
    done = f"<b>{first.edits:,} facts</b> were edited into <b>{escape(model)}</b>{where} by {escape(by)}"
    done += f", {seeds} seeds each." if seeds > 1 else "."
    swept = {path: [dict(r.settings)[path] for r in rows if path in dict(r.settings)] for path in varied(rows)}
    if swept:
        ranges = [f"{short(path)} {_range(values)}" for path, values in swept.items()]
        done += f" Each method was tried at several settings: {escape(listed(ranges))}."
    before = next((row.scores.get("efficacy_accuracy") for row in rows if row.method == UNEDITED), None)
    if before:
        done += f" Before, the model gave the new answer to {_share_of(before.mean)} of the edited prompts."
    return [text for text in (done, _standing(rows)) if text]


def cards(rows: Sequence[Row]) -> str:
    """A card per method with its shares as bars and its D_KL."""
    shown = chosen(rows)
    parts = []
    for row in shown:
        mine = [other for other in rows if other.method == row.method]
        setting = ", ".join(settings_told((p, v) for p, v in row.settings if p in varied(mine)))
        under = f"<small>{escape(setting)}</small>" if setting else ""
        lines = "".join(_bar(label, row.scores[key]) for key, label in ON_CARDS if key in row.scores)
        kl = row.scores.get(frontier.KL)
        drift = (
            f"<div class=drift><span>D<sub>KL</sub> on neighbours</span><span><b>{kl.mean:.3f}</b> nats</span></div>"
            if kl
            else ""
        )
        parts.append(f"<article><h4>{escape(row.method)}{under}</h4>{lines}{drift}</article>")
    kept = "Neighbours unchanged: their most likely next token is still the same. "
    words = kept if any("specificity_top1" in row.scores for row in shown) else ""
    several = any(len([r for r in rows if r.method == row.method]) > 1 for row in shown)
    words += "Each method at the setting that carries furthest over to paraphrases." if several else ""
    return f'<div class="cards">{"".join(parts)}</div>{note(words) if words else ""}'


def slips(rows: Sequence[Row], material: Material) -> str:
    """The first facts the best method changed: for what the model said, read what it says now."""
    best = max(chosen(rows), key=_reached)
    trial = material.of(best)[0]
    lines = []
    for case in trial.cases:
        after = (case.said or {}).get(best.method, "")
        if case.before and after and holds(after, case.wanted) and case.before != after:
            lines.append(
                f"<li><span>{escape(case.prompt)}</span> for <del>{escape(case.before)}</del> "
                f"read <ins>{escape(after)}</ins></li>"
            )
    if not lines:
        return ""
    return (
        f'<div class="slip"><h4>Errata <small>{escape(best.method)}</small></h4><ul>{"".join(lines[:SLIPS])}</ul></div>'
    )


def _standing(rows: Sequence[Row]) -> str:
    """Who carries over best: at equal drift where settings were swept, else at the one setting there is."""
    drawn = [curve for curve in frontier.curves(rows, PARAPHRASES) if len(curve.points) > 1]
    shared = frontier.common_range(drawn)
    if shared is not None:
        return _at_equal_drift(drawn, frontier.levels(*shared)[frontier.LEVELS // 2])
    ranked = sorted((row for row in chosen(rows) if PARAPHRASES in row.scores), key=_reached, reverse=True)
    return _as_it_is(ranked) if ranked else ""


def _at_equal_drift(drawn: Sequence[frontier.Curve], kl: float) -> str:
    ranked = sorted(((y, curve.name) for curve in drawn if (y := curve.at(kl)) is not None), reverse=True)
    (top, leader), *rest = ranked
    text = (
        f"Where all disturb their neighbours equally (D<sub>KL</sub> {kl:.2g} nats), <b>{escape(leader)}</b> "
        f"carries over to paraphrases best: <b>{percent(top)}</b>"
    )
    if not rest:
        return f"{text}."
    text += f", against {escape(listed([f'{percent(y)} for {name}' for y, name in rest]))}"
    by_seed = {c.name: [y for seed in c.seeds if (y := seed.at(kl)) is not None] for c in drawn}
    close = min(by_seed[leader], default=0.0) <= max(by_seed[rest[0][1]], default=1.0)
    return f"{text}; over the seeds the first two overlap." if close else f"{text}."


def _as_it_is(ranked: Sequence[Row]) -> str:
    leader, *others = ranked
    mine = leader.scores[PARAPHRASES]
    share, name = percent(mine.mean), escape(leader.method)
    text = f"Afterwards <b>{share}</b> of paraphrases give the new answer with <b>{name}</b>"
    if others:
        text += f", {escape(listed([f'{percent(r.scores[PARAPHRASES].mean)} with {r.method}' for r in others]))}"
        if others[0].scores[PARAPHRASES].high >= mine.low:
            text += "; the first two intervals overlap"
    quiet = sorted((r for r in ranked if frontier.KL in r.scores), key=lambda r: r.scores[frontier.KL].mean)
    if len(quiet) > 1:
        least, second = (row.scores[frontier.KL] for row in quiet[:2])
        close = f", not clearly less than {quiet[1].method}" if second.low <= least.high else ""
        text += f". Neighbours drift least with <b>{escape(quiet[0].method)}</b>{escape(close)} "
        text += f"(D<sub>KL</sub> {least.mean:.3f} nats)"
    return text + "."


def _bar(label: str, score: Spread) -> str:
    value = percent(score.mean)
    return f"<div class=bar><span>{label}</span><b>{value}</b>{strip(score.mean, score.low, score.high)}</div>"


def _reached(row: Row) -> float:
    found = next((row.scores[key] for key in (PARAPHRASES, *AGREES["prompt"]) if key in row.scores), None)
    return found.mean if found else 0.0


def _layers(ledger: Mapping[str, Any]) -> str:
    layers = sorted({row["edit"] for row in ledger.get("rows", [])})
    if len(layers) > 2 and layers == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}–{layers[-1]}"
    return listed([str(layer) for layer in layers])


def _range(values: Sequence[Any]) -> str:
    distinct = list(dict.fromkeys(values))
    if len(distinct) > 3 and all(isinstance(v, int | float) for v in distinct):
        return f"{told(min(distinct))} to {told(max(distinct))}"
    return listed([told(v) for v in distinct])


def _share_of(share: float) -> str:
    return "none" if share == 0 else percent(share)
