"""The verdict on an edit, asked of the edited model: facts, other wordings, neighbours, held-out text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice
from math import exp
from random import Random
from typing import Any

from errata.decoder.contexts import generate_texts
from errata.decoder.corpus import longest
from errata.decoder.decoder import Decoder
from errata.editors.base import Ledger, Outcome
from errata.editors.guard import Guard, Watch
from errata.editors.supplies import Supplies
from errata.evaluate import Case, Question, Recall
from errata.evaluate.specificity import NextToken
from errata.fact import Fact
from errata.form import AS_WRITTEN, Form
from errata.record.verdict import SLIP, FactVerdict, Neighbour, Verdict

NEIGHBOURS = 60
"""Prompts about other things that are asked at most."""
SAID = 6
"""Tokens with which a prompt is continued in words."""
TEXTS = 8
"""Held-out texts of which the perplexity is measured."""
SHORTEST = 200
"""Characters: shorter texts, such as headings, are no measure of perplexity."""
UNREACHED = 0.7
"""Nats: an anchor whose NLL stays above this does not make the model say its target."""


def asked(decoder: Decoder, questions: Sequence[Question]) -> list[Any]:
    """The answers of the model as it is now, in the order of the questions; equal questions are asked once."""
    by_reader: dict[type[Question], dict[Question, None]] = defaultdict(dict)
    for question in questions:
        by_reader[question.reader(decoder)][question] = None
    answers: dict[Question, Any] = {}
    for reader, own in by_reader.items():
        answers |= zip(own, reader.ask(decoder, list(own)), strict=True)
    return [answers[question] for question in questions]


def of_fact(fact: Fact) -> Recall:
    """Whether the model says a fact."""
    return Recall(fact.text, fact.target_new, fact.form)


def form_of(facts: Sequence[Fact]) -> Form:
    """How prompts beside facts are put to a model: as the facts are, if all are put alike."""
    forms = {fact.form for fact in facts}
    return next(iter(forms)) if len(forms) == 1 else AS_WRITTEN


def verdict(
    outcome: Outcome, supplies: Supplies, cases: Sequence[Case] = (), neighbours: Sequence[str] = (), wanted: int = 0
) -> Verdict:
    """What an edit did, which is on its model now.

    A fact holds if every token of its target is the model's first choice. Paraphrases are those of `cases`. Neighbours
    are those given, else those of the cases, else the half of those that errata writes which no choice was made on.
    wanted: facts that were asked for, if they are more than were edited. Of a fleet the leading rank asks.
    """
    return Verdict.from_json(
        supplies.fleet.tell(lambda: _verdict(outcome, supplies, cases, neighbours, wanted).to_json())
    )


def _verdict(
    outcome: Outcome, supplies: Supplies, cases: Sequence[Case], neighbours: Sequence[str], wanted: int
) -> Verdict:
    facts = list(outcome.facts)
    mine = [case for case in cases if case.fact in set(facts)]
    wordings = [Recall(text, case.fact.target_new, case.fact.form) for case in mine for text in case.paraphrases]
    near, origin = reported_neighbours(supplies, facts, mine, neighbours)
    form = form_of(facts)
    questions: list[Question] = [*map(of_fact, facts), *wordings, *(NextToken(prompt, form) for prompt in near)]
    answers = asked(outcome.decoder, questions)
    readings, answers = answers[: len(facts)], answers[len(facts) :]
    reworded, shifts = answers[: len(wordings)], answers[len(wordings) :]
    perplexity, text = perplexities(outcome.decoder, supplies)
    return Verdict(
        facts=_facts(outcome, supplies, readings),
        wanted=max(wanted, len(facts)),
        paraphrases=(sum(reading.exact for reading in reworded), len(reworded)) if reworded else None,
        neighbours=_neighbours(outcome.decoder, near, form, [shift.top1 == 1 for shift in shifts]),
        neighbours_from=origin,
        divergence=sum(shift.kl for shift in shifts) / len(shifts) if shifts else None,
        perplexity=perplexity,
        held_out=text,
    )


def reported_neighbours(
    supplies: Supplies, facts: Sequence[Fact], cases: Sequence[Case], given: Sequence[str]
) -> tuple[list[str], str]:
    """The prompts that a verdict is on, and where they are from."""
    if given:
        prompts, origin = list(dict.fromkeys(given)), "given"
    elif own := list(dict.fromkeys(prompt for case in cases for prompt in case.neighbourhood)):
        prompts, origin = own, "of the records"
    else:
        prompts, origin = supplies.neighbours(facts)[1::2], "written by errata, not those that a point was chosen by"
    if len(prompts) > NEIGHBOURS:
        origin = f"{NEIGHBOURS} of {len(prompts)} {origin}"
        prompts = Random(supplies.recipe.context_seed).sample(prompts, NEIGHBOURS)
    return prompts, origin


def _neighbours(decoder: Decoder, prompts: Sequence[str], form: Form, same: Sequence[bool]) -> tuple[Neighbour, ...]:
    """Each neighbour; the first few of either kind in words."""
    shown = [i for kind in (False, True) for i in [k for k, one in enumerate(same) if one is kind][:SLIP]]
    before, after = _said(decoder, [prompts[i] for i in shown], form)
    words = dict(zip(shown, zip(before, after, strict=True), strict=True))
    return tuple(
        Neighbour(prompt, *words.get(i, ("", "")), kept)
        for i, (prompt, kept) in enumerate(zip(prompts, same, strict=True))
    )


def _said(decoder: Decoder, prompts: Sequence[str], form: Form) -> tuple[list[str], list[str]]:
    """How the unedited model and the edited one go on."""
    rows = [decoder.token_ids(prompt, form) for prompt in prompts]
    after = decoder.generate(rows, SAID, decoder.ends)
    with decoder.unedited():
        before = decoder.generate(rows, SAID, decoder.ends)
    return [decoder.decode(ids) for ids in before], [decoder.decode(ids) for ids in after]


def _facts(outcome: Outcome, supplies: Supplies, readings: Sequence[Any]) -> tuple[FactVerdict, ...]:
    facts, decoder = list(outcome.facts), outcome.decoder
    with decoder.unedited():
        first = asked(decoder, list(map(of_fact, facts)))
    missed = [i for i, reading in enumerate(readings) if not reading.exact]
    advice = _advice(facts, missed, supplies, outcome.ledger) if missed else {}
    said = outcome.answers(facts, SAID, spaces=True)
    return tuple(
        FactVerdict(
            fact.text, fact.continuation, before, after, now.exact, was.exact, now.probability, advice.get(i, "")
        )
        for i, ((fact, before, after), now, was) in enumerate(zip(said, readings, first, strict=True))
    )


def _advice(facts: Sequence[Fact], missed: Sequence[int], supplies: Supplies, ledger: Ledger) -> Mapping[int, str]:
    """Of each missed fact, the first reason that applies, and what to try."""
    site = supplies.decoder.tokens.site(facts, supplies.contexts)
    stems = defaultdict(list)
    for i, prompt in enumerate(site.bare):
        stems[tuple(prompt.ids)].append(i)
    searched = [nll for nll in ledger.anchor_nll.values() if len(nll) == len(facts)]
    reasons = {}
    for i in missed:
        others = [j for j in stems[tuple(site.bare[i].ids)] if j != i]
        if i in site.at_start:
            reasons[i] = (
                "its subject is the very first token, an attention sink; put a word before the subject, such as 'The'"
            )
        elif others:
            reasons[i] = (
                "it begins as another fact does, up to the subject's end, so one state has to say both; reword one"
            )
        elif any(nll[i] > UNREACHED for nll in searched):
            reasons[i] = "no state was found that says it; check the target's spelling and spaces, or try other layers"
        else:
            reasons[i] = (
                "its anchor says it, but the weights were moved too little; ask for more: --aim 1, or a smaller "
                "solvers weight with --set"
            )
    return reasons


def perplexities(decoder: Decoder, supplies: Supplies) -> tuple[tuple[float, float] | None, str]:
    """Of held-out text, by the unedited and by the edited model; and where the text is from."""
    texts, origin = held_out(decoder, supplies)
    watch = Watch(Guard(tuple(texts)), decoder)
    if not watch.rows:
        return None, origin
    _, loss = watch.read()
    return (exp(min(watch.loss, 700.0)), exp(min(loss, 700.0))), origin


def held_out(decoder: Decoder, supplies: Supplies) -> tuple[list[str], str]:
    """The last long texts of a corpus at hand that its statistics were not gathered from, else text of the model's."""
    corpus = supplies.corpus
    if corpus is not None and corpus.at_hand:
        texts = list(corpus.texts())
        last = [i for i, text in enumerate(texts) if len(text) >= SHORTEST][-TEXTS:]
        if len(last) == TEXTS and _is_unread(decoder, supplies, texts[: last[0]]):
            return [texts[i] for i in last], "the last texts of the corpus"
    seed = supplies.recipe.context_seed + 1
    with decoder.unedited():
        return generate_texts(decoder, TEXTS, seed, tokens=48), f"text that the unedited model wrote (seed {seed})"


def _is_unread(decoder: Decoder, supplies: Supplies, before: Sequence[str]) -> bool:
    """Whether the texts before some place are more than the statistics were gathered from."""
    read = supplies.sampled_tokens
    if read is None:
        return False
    count, limit, texts = 0, supplies.recipe.statistics.max_length or longest(decoder), iter(before)
    while chunk := list(islice(texts, 64)):
        count += sum(min(len(ids), limit) for ids in decoder.tokens.prompts(chunk))
        if count > read:
            return True
    return False
