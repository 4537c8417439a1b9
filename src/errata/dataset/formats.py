"""How files of facts write their records. A new format is one function and one row of `FORMATS`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

from errata.dataset.case import OPTIONAL_CHECKS, OPTIONAL_LISTS, OPTIONAL_TEXT, Case, Check
from errata.dataset.record import Record
from errata.dataset.references import Topic
from errata.errors import BadRecord, UnknownName, printable

_MOST_FIELDS = 12
_NO_ANSWER = "<|endoftext|>"  # what the nested ZsRE files say where there is no true answer


@dataclass(frozen=True)
class RecordFormat:
    """`fields` are those a record is recognised by; "a|b" means either.

    `read` gives the case of each of a record's facts. `questions` are those whose answers rest on all of its facts
    together. `topics` are what reference texts are kept under, one for each fact; None: these records do not say.
    `optional` are the other fields of a format that has no fields besides.
    """

    name: str
    fields: tuple[str, ...]
    read: Callable[[Record], Case | list[Case]]
    source: str
    questions: Callable[[Record], tuple[Check, ...]] | None = None
    topics: Callable[[Record], list[Topic]] | None = None
    optional: tuple[str, ...] = ()

    def lacks(self, row: dict[str, object]) -> list[str]:
        """The fields that a record does not have."""
        return [field for field in self.fields if all(row.get(name) is None for name in field.split("|"))]


def _errata(record: Record) -> Case:
    """A plain fact, or one with the prompts that examine it. The prompt has `{}`, or the subject itself.

    Texts stay as they are written. `messages` in place of `prompt`: a chat, whose last turn is the prompt.
    """
    turns = record.turns()
    prompt = record.written("prompt") if turns is None else turns[-1][1]
    fact = record.fact_inside(prompt, record.text("subject"), record.written("target_new"), record.form())
    lists: dict[str, Any] = {name: record.texts(name, blanks=name.endswith("answers")) for name in OPTIONAL_LISTS}
    checks: dict[str, Any] = {
        name: tuple(
            Check(entry.text("kind"), entry.text("prompt"), entry.maybe("answer"), entry.texts("aliases"))
            for entry in record.parts(f"{name}_checks")
        )
        for name in OPTIONAL_CHECKS
    }
    return Case(fact, record.id, record.maybe("target_true") or None, **lists, **checks)


def _flattened(record: Record) -> Case:
    """FE's files. `target_true` is "" in ZsRE, whose neighbour prompts end in "?" already."""
    return Case(
        record.fact(record.text("prompt"), record.text("subject"), record.text("target_new")),
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


def _topics(record: Record) -> list[Topic]:
    """The relation and the new target of each rewrite."""
    rewrites = record.parts("requested_rewrite")
    return [(rewrite.text("relation_id"), rewrite.part("target_new").text("id")) for rewrite in rewrites]


def _one_hop(record: Record) -> tuple[Check, ...]:
    """What EasyEdit's extended files of ZsRE and CounterFact add to a record."""
    if not isinstance(record.row.get("portability"), dict):
        return ()
    hop = record.part("portability")
    return (Check("one_hop", hop.text("New Question"), hop.text("New Answer")),)


def _nested(record: Record) -> Case:
    """CounterFact and its multi-edit subset."""
    return _rewrite(record, record.part("requested_rewrite"), record.texts("paraphrase_prompts"))


def _multi_hop(record: Record) -> list[Case]:
    """MQuAKE: every rewrite is a fact, its single-hop question another wording of it.

    The id of fact k of record R is `R.k` if the record has several, else `R`.
    """
    rewrites = record.parts("requested_rewrite")
    if not rewrites:
        raise record.wrong("requested_rewrite", "expected at least one rewrite", "[]")
    cases = [_rewrite(record, rewrite, rewrite.texts("question")) for rewrite in rewrites]
    if len(cases) == 1:
        return cases
    return [replace(case, id=f"{record.id}.{k}") for k, case in enumerate(cases, start=1)]


def _multi_hop_questions(record: Record) -> tuple[Check, ...]:
    """Questions over several hops, with the answer they have once all rewrites of the record are made."""
    asked = record.texts("questions")
    if not asked:
        return ()
    answer, aliases = record.text("new_answer"), record.texts("new_answer_alias")
    return tuple(Check("multi_hop", question, answer, aliases) for question in asked)


def _fastedit(record: Record) -> Case:
    """FastEdit: a plain fact; its queries ask for the same target in other words."""
    subject = record.text("subject")
    return Case(
        record.fact_inside(record.text("prompt"), subject, record.text("target")),
        record.id,
        paraphrases=tuple(query.replace("{}", subject) for query in record.texts("queries")),
    )


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
    """EasyEdit's CounterFact, its like of WikiBigEdit, and its requests: the subject stands in the prompt."""
    near = record.texts("locality_prompt")
    answers = record.texts("locality_ground_truth", blanks=True)
    pairs = zip(near, answers, strict=False) if answers else ()  # a Case refuses lists of unlike length
    local = (*(Check("neighborhood", *pair) for pair in pairs), *record.checks("locality_inputs"))
    if not near:
        near, answers = tuple(check.prompt for check in local), tuple(check.answer for check in local) or answers
    return Case(
        record.fact_inside(record.text("prompt"), record.text("subject"), record.text("target_new")),
        record.id,
        record.maybe("ground_truth") or None,
        paraphrases=record.texts("rephrase_prompt", "rephrase"),
        neighbourhood=near,
        neighbourhood_answers=answers,
        portability=record.checks("portability_inputs"),
        locality=local,
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

_OPTIONAL = (
    "id",
    "case_id",
    "join",
    "end",
    *OPTIONAL_TEXT,
    *OPTIONAL_LISTS,
    *(f"{name}_checks" for name in OPTIONAL_CHECKS),
)
_EASYEDIT = "rephrase_prompt|rephrase|locality_prompt|locality_inputs|portability_inputs|ground_truth"

FORMATS: tuple[RecordFormat, ...] = (  # the first that fits is taken: special ones stand before general ones
    RecordFormat(
        "mquake", ("requested_rewrite", "questions"), _multi_hop, "evaluation 5.6", _multi_hop_questions, _topics
    ),
    RecordFormat("rome", ("requested_rewrite",), _nested, "evaluation 5.1", topics=_topics),
    RecordFormat("mend", ("src", "subject", "answers", "loc"), _mend, "evaluation 5.2"),
    RecordFormat("fe", (*_FACT, "paraphrase_prompts"), _flattened, "evaluation 5.3"),
    RecordFormat(
        "knowedit",
        ("prompt|text", "subject|concept", "target_new|labels", "locality|portability"),
        _knowedit,
        "evaluation 5.4",
    ),
    RecordFormat("easyedit", (*_FACT, _EASYEDIT), _easyedit, "evaluation 5.4"),
    RecordFormat(
        "wikibigedit", ("update", "subject", "ans"), _wikibigedit, "huggingface.co/datasets/lukasthede/WikiBigEdit"
    ),
    RecordFormat("fastedit", ("prompt", "subject", "target"), _fastedit, "github.com/hiyouga/FastEdit"),
    RecordFormat("errata", ("prompt|messages", "subject", "target_new"), _errata, "Case.to_json", optional=_OPTIONAL),
)


def format_named(name: str) -> RecordFormat:
    """A row of the table. Raises UnknownName."""
    by_name = {row.name: row for row in FORMATS}
    if name not in by_name:
        raise UnknownName("record format", name, by_name)
    return by_name[name]


def format_of(where: str, row: dict[str, object]) -> RecordFormat:
    """The first format that a record has all fields of. Raises BadRecord naming the nearest ones."""
    for each in FORMATS:
        if not each.lacks(row):
            return each
    nearest = min(reversed(FORMATS), key=lambda each: len(each.lacks(row)) / len(each.fields))
    fields = ", ".join(map(printable, list(row)[:_MOST_FIELDS])) + ", ..." * (len(row) > _MOST_FIELDS)
    lacking = " and ".join(
        f"{' or '.join(map(repr, field.split('|')))}{_instead(field, row)}" for field in nearest.lacks(row)
    )
    others = ", ".join(each.name for each in FORMATS if each is not nearest)
    raise BadRecord(
        f"{where}: fields {fields or 'none'} fit no format. Nearest is {nearest.name!r}, which also needs {lacking}. "
        f"Others: {others}"
    )


def misspelt(format: RecordFormat, names: Iterable[str]) -> dict[str, str]:
    """Fields that the format does not have, each with the field that is nearly written so."""
    fields = [name for field in format.fields for name in field.split("|")]
    known = [*fields, *format.optional] if format.optional else []
    near = {name: get_close_matches(name, known, n=1, cutoff=0.8) for name in names if name not in known}
    return {name: close[0] for name, close in near.items() if close}


def _instead(field: str, row: dict[str, object]) -> str:
    """The name in the record that was perhaps meant to be this one."""
    close = get_close_matches(field, [name for name in row if name not in _FACT], n=1, cutoff=0.6)
    return f" (is it {printable(close[0])}?)" if close else ""
