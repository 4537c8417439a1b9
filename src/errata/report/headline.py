"""What was edited and what changed: in words, a card per method, and the first facts as an errata slip.

The words rank methods only where the numbers carry it: where seeds, or with one seed the 95 % intervals over facts, do
not overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from errata.record.cell import UNEDITED
from errata.report import frontier
from errata.report.blocks import Bar, Block, Card, Cards, Heading, Lead, Note, Slip, listed, percent
from errata.report.facts import AGREES, holds
from errata.report.material import Material
from errata.report.summary import Spread, Summary, section_title, setting_texts, short, value_text, varied

PARAPHRASES = "generalisation_accuracy"
ON_CARDS = (
    ("efficacy_accuracy", "edited prompts"),
    (PARAPHRASES, "paraphrases"),
    ("novel_accuracy", "new wordings"),
    ("efficacy_stop", "said, then stopped"),
    ("specificity_top1", "neighbours unchanged"),
)
SLIPS = 5


def headline(material: Material) -> list[Block]:
    """Of every section of the runs: sentences, cards, a slip."""
    sections = [rows for rows in frontier.by_section(material.rows()) if chosen(rows)]
    blocks: list[Block] = []
    for rows in sections:
        blocks += [Heading(section_title(rows))] if len(sections) > 1 else []
        blocks += [Lead(_done(rows, material)), *map(Lead, standing(rows))]
        blocks += [*_cards(rows), *_slips(rows, material)]
    return blocks


def chosen(rows: Sequence[Summary]) -> list[Summary]:
    """One row per edited method: of several settings the one that carries furthest over to paraphrases."""
    best: dict[str, Summary] = {}
    for row in rows:
        if row.method != UNEDITED:
            best[row.method] = max(best.get(row.method, row), row, key=_reached)
    return list(best.values())


def standing(rows: Sequence[Summary]) -> list[Markup]:
    """How the methods stand: at equal drift where settings were swept, else at the one setting there is."""
    curves = [curve for curve in frontier.curves(rows, PARAPHRASES) if len(curve.points) > 1]
    shared = frontier.common_range(curves)
    if shared is not None:
        return [_at_equal_drift(curves, frontier.levels(*shared)[frontier.LEVELS // 2])]
    methods = chosen(rows)
    return [text for text in (_paraphrases(methods), _drift(methods)) if text]


def apart(leader: Spread, other: Spread, facts: int) -> bool:
    """Whether a difference is more than the numbers can owe to chance: their ranges have nothing in common.

    Over several seeds the range is from lowest to highest. Of one seed it is the 95 % interval over facts; where all
    facts agree, and resampling them shows no spread, 3 / n of them may still be otherwise (the rule of three).
    """
    low, high = sorted((_range(leader, facts), _range(other, facts)))
    return low[1] < high[0]


def _range(score: Spread, facts: int) -> tuple[float, float]:
    unsure = 3 / max(facts, 1) if len(score.values) == 1 and score.low == score.high else 0.0
    return score.low - unsure, score.high + unsure


def _done(rows: Sequence[Summary], material: Material) -> Markup:
    """What was done, and what the unedited model did."""
    methods = chosen(rows)
    first, seeds = methods[0], max(len(row.seeds) for row in methods)
    layers = list(dict.fromkeys(_layers(material.of(row)[0].ledger) for row in methods))
    where = f", layers {layers[0]}," if len(layers) == 1 and layers[0] else ""
    model = first.model.rstrip("/").rsplit("/", 1)[-1] or "the model"
    by, each = listed([row.method for row in methods]), f"{seeds} seeds each" if seeds > 1 else "one seed"
    facts = f"{first.edits:,} fact{'s were' if first.edits != 1 else ' was'}"
    text = Markup("<b>{}</b> edited into <b>{}</b>{} by {}, {}.").format(facts, model, where, by, each)
    swept = {path: [dict(r.settings)[path] for r in rows if path in dict(r.settings)] for path in varied(rows)}
    if swept:
        ranges = [f"{short(path)} {_values(values)}" for path, values in swept.items()]
        text += Markup(" Each method was tried at several settings: {}.").format(listed(ranges))
    before = next((row.scores.get("efficacy_accuracy") for row in rows if row.method == UNEDITED), None)
    if before:
        share = "none" if before.mean == 0 else percent(before.mean)
        text += f" Before, the model gave the new answer to {share} of the edited prompts."
    return text


def _at_equal_drift(curves: Sequence[frontier.Curve], kl: float) -> Markup:
    """Shares of paraphrases where all methods disturb their neighbours equally, read off their curves."""
    ranked = sorted(((y, curve) for curve in curves if (y := curve.at(kl)) is not None), key=lambda at: -at[0])
    shares = _of_paraphrases([(y, curve.name) for y, curve in ranked])
    where = Markup("Where all disturb their neighbours equally (D<sub>KL</sub> {} nats)").format(f"{kl:.2g}")
    text = Markup("{}, the model gives the new answer {}").format(where, shares)
    if len(ranked) < 2:
        return text + "."
    (_, leader), (_, second), *_ = ranked
    by_seed = [[y for seed in curve.seeds if (y := seed.at(kl)) is not None] for curve in (leader, second)]
    seeds = min(map(len, by_seed))
    if seeds < 2:
        return text + ". One seed does not carry a ranking."
    if min(by_seed[0]) <= max(by_seed[1]):
        return text + ". The seeds of the first two overlap, so none is ahead."
    return text + Markup(": <b>{}</b> is ahead in each of {} seeds.").format(leader.name, seeds)


def _of_paraphrases(shares: Sequence[tuple[float, str]]) -> str:
    """`to 96 % of paraphrases with memit and 71 % with blue`."""
    (share, name), *others = shares
    first = f"{percent(share)} of paraphrases with {name}"
    return f"to {listed([first, *(f'{percent(share)} with {name}' for share, name in others)])}"


def _paraphrases(methods: Sequence[Summary]) -> Markup | None:
    """Shares of paraphrases that give the new answer, and who is ahead if anyone is."""
    ranked = sorted((row for row in methods if PARAPHRASES in row.scores), key=_reached, reverse=True)
    if not ranked:
        return None
    shares = _of_paraphrases([(row.scores[PARAPHRASES].mean, row.method) for row in ranked])
    text = Markup("Afterwards the model gives the new answer {}").format(shares)
    return text + _verdict(ranked, PARAPHRASES, "is ahead")


def _drift(methods: Sequence[Summary]) -> Markup | None:
    """How far each method moves the neighbours, and which moves them least if any does."""
    ranked = sorted((r for r in methods if frontier.KL in r.scores), key=lambda r: r.scores[frontier.KL].mean)
    if not ranked:
        return None
    drifts = [f"{row.scores[frontier.KL].mean:.3f} nats with {row.method}" for row in ranked]
    text = Markup("Neighbours drift by D<sub>KL</sub> {}").format(listed(drifts))
    return text + _verdict(ranked, frontier.KL, "disturbs them least")


def _verdict(ranked: Sequence[Summary], score: str, says: str) -> Markup:
    """The end of a sentence about methods, best first: a ranking only if the first two are apart."""
    if len(ranked) < 2:
        return Markup(".")
    first, second = ranked[:2]
    seeds = min(len(first.seeds), len(second.seeds))
    if apart(first.scores[score], second.scores[score], min(first.edits, second.edits)):
        when = f"in each of {seeds} seeds" if seeds > 1 else "on the facts of this one seed"
        return Markup(": <b>{}</b> {} {}.").format(first.method, says, when)
    facts = f"{first.edits:,} fact{'s' * (first.edits != 1)}"
    where = "the seeds of the first two overlap" if seeds > 1 else f"with one seed of {facts} that may be chance"
    return Markup("; {}, so none is ahead.").format(where)


def _cards(rows: Sequence[Summary]) -> list[Block]:
    """A card per method with its shares as bars and its D_KL."""
    shown, cards = chosen(rows), []
    for row in shown:
        mine = [other for other in rows if other.method == row.method]
        setting = ", ".join(setting_texts((p, v) for p, v in row.settings if p in varied(mine)))
        scores = [(label, row.scores[key]) for key, label in ON_CARDS if key in row.scores]
        shares = [(label, percent(s.mean), Bar.of(s.mean, s.low, s.high)) for label, s in scores]
        drift = f"{row.scores[frontier.KL].mean:.3f}" if frontier.KL in row.scores else ""
        cards.append(Card(row.method, setting, shares, drift))
    kept = "Neighbours unchanged: their most likely next token is still the same. "
    words = kept if any("specificity_top1" in row.scores for row in shown) else ""
    several = any(len([r for r in rows if r.method == row.method]) > 1 for row in shown)
    words += "Each method at the setting that carries furthest over to paraphrases." if several else ""
    return [Cards(cards), *([Note(words)] if words else [])]


def _slips(rows: Sequence[Summary], material: Material) -> list[Block]:
    """The first facts that one method changed: for what the model said, read what it says now."""
    best = max(chosen(rows), key=_reached)
    lines = []
    for fact in material.of(best)[0].facts:
        after = (fact.said or {}).get(best.method, "")
        if fact.before and after and holds(after, fact.wanted) and fact.before != after:
            lines.append((fact.prompt, fact.before, after))
    return [Slip(best.method, lines[:SLIPS])] if lines else []


def _reached(row: Summary) -> float:
    score = next((row.scores[key] for key in (PARAPHRASES, *AGREES["prompt"]) if key in row.scores), None)
    return score.mean if score else 0.0


def _layers(ledger: Mapping[str, Any]) -> str:
    layers = sorted({row["edit"] for row in ledger.get("rows", [])})
    if len(layers) > 2 and layers == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}–{layers[-1]}"
    return listed([str(layer) for layer in layers])


def _values(values: Sequence[Any]) -> str:
    distinct = list(dict.fromkeys(values))
    if len(distinct) > 3 and all(isinstance(v, int | float) for v in distinct):
        return f"{value_text(min(distinct))} to {value_text(max(distinct))}"
    return listed([value_text(v) for v in distinct])
