"""The outlook of an edit: what the model says now, what is special about the facts, what the edit will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from errata.cli.console import lines, say, show
from errata.decoder.decoder import Decoder
from errata.decoder.joints import joints
from errata.editor import Editor
from errata.editors.locate_then_edit import LocateThenEdit
from errata.errors import printable
from errata.evaluate.recall import Reading, Recall
from errata.fact import Fact
from errata.record.tables import Table
from errata.record.verdict import shown
from errata.targets import optimise_anchors

SHOWN = 40
"""Facts whose answers are shown."""
FIRST_TOKENS = 5
NAMED = 5
"""Facts that a line names."""
SHORTENED = 34
"""Characters of a prompt that the table shows: its end."""
EVALUATED = 2
"""Evaluations of the first fact's anchor that are timed."""
PROBED = 512
"""Tokens read to find out how fast statistics are gathered."""
_SINK = (
    "the decisive token is the first of the text, where models keep an outlying state (an attention sink), and edits "
)
_SINK += "there often fail: put a word before the subject, as in 'The city of {}'"


def foretell(editor: Editor, facts: Sequence[Fact], output: Path | None, checkpoint: Path | None) -> None:
    """Print what the model says now, what deserves attention, and what the edit will take and write."""
    decoder = editor.decoder
    readings = Recall.ask(decoder, [Recall(fact.text, fact.target_new, fact.form) for fact in facts])
    show(answers_now(decoder, facts[:SHOWN], readings), "what the model says now")
    if len(facts) > SHOWN:
        say(f"... and {len(facts) - SHOWN} more facts")
    for warning in warnings_about(editor, facts, readings):
        say(warning, "yellow")
    lines([*estimates(editor, facts), *places(editor, output, checkpoint)])


def answers_now(decoder: Decoder, facts: Sequence[Fact], readings: Sequence[Reading]) -> Table:
    """Row per fact: prompt, what it shall say, what it says, and the probability of the target."""
    rows = [decoder.token_ids(fact.text, fact.form) for fact in facts]
    said = [decoder.decode(ids) for ids in decoder.generate(rows, FIRST_TOKENS, decoder.ends)]
    cells = [
        [_end_of(fact.text), shown(fact.continuation), shown(text), f"{reading.probability:.4f}"]
        for fact, text, reading in zip(facts, said, readings, strict=False)
    ]
    return Table.plain(["prompt", "shall say", "says now", "P(target)"], cells, 3)


def _end_of(text: str) -> str:
    line = shown(text)
    return line if len(line) <= SHORTENED else "…" + line[1 - SHORTENED :]


def warnings_about(editor: Editor, facts: Sequence[Fact], readings: Sequence[Reading]) -> list[str]:
    """What deserves attention before this is done, each with the facts it is about."""
    told = []
    if believed := [fact for fact, reading in zip(facts, readings, strict=True) if reading.exact]:
        told.append(f"already believed, so nothing has to change: {_named(believed)}")
    if isinstance(editor.pipeline, LocateThenEdit):
        site = editor.decoder.tokens.site(facts, editor.supplies.contexts)
        if site.at_start:
            told.append(f"{_named([facts[i] for i in site.at_start])}: {_SINK}")
    return [*told, *joints(editor.decoder.tokens, facts)]


def _named(facts: Sequence[Fact]) -> str:
    texts = [f"{printable(fact.text[-60:])} + {printable(fact.continuation)}" for fact in facts[:NAMED]]
    return ", ".join(texts) + f" and {len(facts) - NAMED} more" * (len(facts) > NAMED)


def estimates(editor: Editor, facts: Sequence[Fact]) -> list[tuple[str, object]]:
    """The time that anchors (if none are stored) and statistics take, from a short trial of each."""
    pipeline = editor.pipeline
    if not isinstance(pipeline, LocateThenEdit):
        return []
    anchors = seconds_per_anchor(editor, facts) * len(facts) * len(pipeline.construction.anchored(pipeline.window))
    parts = {"anchors": anchors}
    if "statistics" in pipeline.needs:
        parts["statistics"] = seconds_of_statistics(editor)
    each = ", ".join(f"{name} {_minutes(seconds)}" for name, seconds in parts.items() if seconds)
    return [("time", f"about {_minutes(sum(parts.values()))} ({each}): an estimate, from a short trial just now")]


def seconds_per_anchor(editor: Editor, facts: Sequence[Fact]) -> float:
    """Seconds that the first fact's anchor takes, if it makes every evaluation that it may."""
    pipeline, supplies = editor.pipeline, editor.supplies
    assert isinstance(pipeline, LocateThenEdit)
    site = editor.decoder.tokens.site(facts[:1], supplies.contexts)
    layer = pipeline.construction.anchored(pipeline.window)[0]
    short = replace(pipeline.anchor, steps=EVALUATED + 1, stop_loss=0.0)
    started = perf_counter()
    for _ in optimise_anchors(editor.decoder, site, layer, short, packed=False):
        pass
    return (perf_counter() - started) / EVALUATED * max(1, pipeline.anchor.steps - 1)


def seconds_of_statistics(editor: Editor) -> float:
    """Seconds that gathering takes, by the rate of a short text; 0 if all are stored."""
    decoder, supplies = editor.decoder, editor.supplies
    layers = sorted(set(editor.pipeline.edited))
    stored = supplies.stored_statistics(layers)
    missing = [layer for layer in layers if layer not in stored]
    if not missing:
        return 0.0
    tokens = supplies.source(layers).tokens
    length = min(PROBED, decoder.positions or PROBED)
    row = (decoder.token_ids("The") * length)[:length]
    started = perf_counter()
    for keys in decoder.key_batches([row], missing):
        for layer in missing:
            keys[layer].T @ keys[layer]
    return (perf_counter() - started) / length * tokens


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def places(editor: Editor, output: Path | None, checkpoint: Path | None) -> list[tuple[str, object]]:
    """What would be written, and where."""
    root = editor.supplies.store.root
    return [
        ("edit", f"written to {output}" if output else "not saved: give -o FOLDER"),
        *([("checkpoint", f"written to {checkpoint}")] if checkpoint else []),
        ("store", f"anchors and statistics kept in {root}" if root else "nothing kept on disk"),
        ("model", "its files are not changed"),
    ]
