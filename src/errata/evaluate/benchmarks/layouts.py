"""How published benchmarks lay out their records. A new layout is one function and one row of `LAYOUTS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from errata.evaluate.base import OPTIONAL_CHECKS, OPTIONAL_LISTS, Case, Check
from errata.evaluate.benchmarks.record import Record
from errata.evaluate.references import Topic

_NO_ANSWER = "<|endoftext|>"  # what the nested ZsRE files say where there is no true answer


@dataclass(frozen=True)
class RecordLayout:
    """`fields` are those a record is recognised by; "a|b" means either.

    `topic` finds what reference texts are kept under; None: these records do not say.
    """

    name: str
    fields: tuple[str, ...]
    read: Callable[[Record], Case]
    source: str
    topic: Callable[[Record], Topic] | None = None

    def fits(self, row: dict[str, object]) -> bool:
        """Whether a record has all of the fields."""
        return all(any(row.get(name) is not None for name in field.split("|")) for field in self.fields)


def _errata(record: Record) -> Case:
    """A plain fact, or one with the prompts that examine it."""
    fact = record.fact(*(record.text(name) for name in ("prompt", "subject", "target_new")))
    lists: dict[str, Any] = {name: record.texts(name, blanks=name.endswith("answers")) for name in OPTIONAL_LISTS}
    checks: dict[str, Any] = {
        name: tuple(
            Check(entry.text("kind"), entry.text("prompt"), entry.maybe("answer"))
            for entry in record.parts(f"{name}_checks")
        )
        for name in OPTIONAL_CHECKS
    }
    return Case(fact, record.id, record.maybe("target_true") or None, **lists, **checks)


def _flattened(record: Record) -> Case:
    """FE's files. `target_true` is "" in ZsRE, whose neighbour prompts end in "?" already."""
    return Case(
        record.fact(*(record.text(name) for name in ("prompt", "subject", "target_new"))),
        record.id,
        record.maybe("target_true") or None,
        paraphrases=record.texts("paraphrase_prompts"),
        neighbourhood=record.texts("neighborhood_prompts"),
        neighbourhood_answers=record.texts("neighborhood_prompts_answers", blanks=True),
    )


def _rewrite(record: Record, rewrite: Record, paraphrases: tuple[str, ...]) -> Case:
    true = rewrite.part("target_true").maybe("str") if "target_true" in rewrite.row else ""
    new = rewrite.part("target_new").text("str")
    return Case(
        rewrite.fact(rewrite.text("prompt"), rewrite.text("subject"), new),
        record.id,
        true if true not in ("", _NO_ANSWER) else None,
        paraphrases=paraphrases,
        neighbourhood=record.texts("neighborhood_prompts"),
        portability=_one_hop(record),
        generation=record.texts("generation_prompts"),
    )


def _topic(record: Record) -> Topic:
    """The relation and the new target of a case's (first) rewrite."""
    rewrite = record.parts("requested_rewrite")[0]
    return rewrite.text("relation_id"), rewrite.part("target_new").text("id")


def _one_hop(record: Record) -> tuple[Check, ...]:
    """What EasyEdit's extended files of ZsRE and CounterFact add to a record."""
    if not isinstance(record.row.get("portability"), dict):
        return ()
    hop = record.part("portability")
    return (Check("one_hop", hop.text("New Question"), hop.text("New Answer")),)


def _nested(record: Record) -> Case:
    """CounterFact and its multi-edit subset."""
    return _rewrite(record, record.part("requested_rewrite"), record.texts("paraphrase_prompts"))


def _multi_hop(record: Record) -> Case:
    """MQuAKE: the first rewrite of a case, its single-hop question as the other wording."""
    rewrites = record.parts("requested_rewrite")
    if not rewrites:
        raise record.wrong("requested_rewrite", "expected at least one rewrite", [])
    return _rewrite(record, rewrites[0], rewrites[0].texts("question"))


def _mend(record: Record) -> Case:
    """ZsRE as MEND published it; the edit target is the true answer, not `alt` (evaluation 5.2)."""
    return Case(
        record.fact_inside(record.text("src"), record.text("subject"), record.text("answers")),
        record.id,
        paraphrases=record.texts("rephrase"),
        neighbourhood=(_question(record.text("loc")),),
        neighbourhood_answers=record.texts("loc_ans", blanks=True),
        portability=_one_hop(record),
    )


def _easyedit(record: Record) -> Case:
    """EasyEdit's CounterFact, and its like of WikiBigEdit: the subject stands in the prompt."""
    near = record.texts("locality_prompt")
    answers = record.texts("locality_ground_truth", blanks=True)
    local = zip(near, answers, strict=False) if answers else ()  # a Case refuses lists of unlike length
    return Case(
        record.fact_inside(record.text("prompt"), record.text("subject"), record.text("target_new")),
        record.id,
        record.maybe("ground_truth") or None,
        paraphrases=record.texts("rephrase_prompt", "rephrase"),
        neighbourhood=near,
        neighbourhood_answers=answers,
        locality=tuple(Check("neighborhood", prompt, answer) for prompt, answer in local),
    )


def _wikibigedit(record: Record) -> Case:
    """WikiBigEdit as its authors published it; a question put by a persona and one over two hops are portability."""
    new, near, known = record.text("ans"), record.texts("loc"), record.texts("loc_ans", blanks=True)
    asked = (("personas", "personas", new), ("multi_hop", "mhop", record.maybe("mhop_ans")))
    return Case(
        record.fact_inside(record.text("update"), record.text("subject"), new),
        record.id,
        paraphrases=record.texts("rephrase"),
        neighbourhood=near,
        neighbourhood_answers=known,
        portability=tuple(
            Check(kind, prompt, answer) for kind, field, answer in asked if (prompt := record.maybe(field)) and answer
        ),
        locality=tuple(Check("neighborhood", *pair) for pair in zip(near, known, strict=False)),
    )


def _knowedit(record: Record) -> Case:
    """KnowEdit: prompts of locality, of all kinds, are the neighbourhood too."""
    local = record.checks("locality")
    subject = record.text("subject", "concept")
    return Case(
        record.fact_inside(record.text("prompt", "text"), subject, record.text("target_new", "labels")),
        record.id,
        record.maybe("ground_truth") or None,
        paraphrases=record.texts("rephrase", "rephrase_prompt"),
        neighbourhood=tuple(check.prompt for check in local),
        neighbourhood_answers=tuple(check.answer for check in local),
        portability=record.checks("portability"),
        locality=local,
    )


def _question(text: str) -> str:
    """Exactly one "?" at the end (evaluation 5.2, 5.3)."""
    return text.rstrip("? ") + "?"


_FACT = ("prompt", "subject", "target_new")

LAYOUTS: tuple[RecordLayout, ...] = (  # the first that fits is taken: special ones stand before general ones
    RecordLayout("mquake", ("requested_rewrite", "questions"), _multi_hop, "evaluation 5.6", _topic),
    RecordLayout("rome", ("requested_rewrite",), _nested, "evaluation 5.1", _topic),
    RecordLayout("mend", ("src", "subject", "answers", "loc"), _mend, "evaluation 5.2"),
    RecordLayout("fe", (*_FACT, "paraphrase_prompts"), _flattened, "evaluation 5.3"),
    RecordLayout(
        "knowedit",
        ("prompt|text", "subject|concept", "target_new|labels", "locality|portability"),
        _knowedit,
        "evaluation 5.4",
    ),
    RecordLayout("easyedit", (*_FACT, "rephrase_prompt|rephrase|locality_prompt"), _easyedit, "evaluation 5.4"),
    RecordLayout(
        "wikibigedit", ("update", "subject", "ans"), _wikibigedit, "huggingface.co/datasets/lukasthede/WikiBigEdit"
    ),
    RecordLayout("errata", _FACT, _errata, "Case.to_json"),
)
