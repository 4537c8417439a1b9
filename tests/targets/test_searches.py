"""Anchors sought otherwise: padded in front, told the fact in context, or of a down-projection alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import isfinite
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from errata import Contexts, Decoder, Fact, Store
from errata.decoder.contexts import STARTS, generate_contexts, generate_flat_contexts
from errata.editors import anchors
from errata.errors import WindowOutside
from errata.method import Pair
from errata.solvers import LeastSquares
from errata.targets import (
    AnchorSettings,
    BackwardSpreading,
    BoundaryLayers,
    ForwardReplay,
    Imagined,
    Search,
    SingleLayer,
    TargetConstruction,
    optimise_anchors,
)
from tests.editing import BOTH, CONTEXTS, decoder_of, editor_of
from tests.models import FAMILIES, VARIANTS, tiny_facts, tokenizer_of

both = pytest.mark.parametrize("family", BOTH)
FACTS = [tiny_facts()[i] for i in (1, 5)]
SETTINGS = AnchorSettings(learning_rate=0.3, steps=4, clamp=0.5)
LAYER = 1
SEARCHES = {
    "left": Search(padding="left"),
    "in context": Search(objective=Imagined(output_factor=0.7, middle_factor=0.4)),
    "down-projection": Search("mlp", alone=True),
    "all of them": Search("mlp", alone=True, padding="left", objective=Imagined(middle=3, nll_factor=0.8)),
}


def anchors_of(decoder: Decoder, search: Search, **how: Any) -> Tensor:
    site = decoder.tokens.site(FACTS, CONTEXTS)
    found = dict(optimise_anchors(decoder, site, LAYER, SETTINGS, search=search, **how))
    return torch.stack([found[i].state for i in range(len(site))])


@contextmanager
def output(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    handle = module.register_forward_hook(
        lambda _m, _a, out: (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)
    )
    yield
    handle.remove()


def plain(decoder: Decoder, fact: Fact, search: Search) -> Tensor:
    """z of one fact by the whole model, literal padding, autograd through all (method 1.5, 2.1, 2.10, 2.13)."""
    tokens, model = decoder.tokens, decoder.model
    target = tokens.answer(fact.target_new)
    prompts = [template.replace("{}", fact.prompt) for template in CONTEXTS.templates]
    located = [tokens.locate(text, fact.subject) for text in [*prompts, "{} is a"]]
    rows = [[*p.ids, *(target[:-1] if i < len(prompts) else [])] for i, p in enumerate(located)]
    longest = max(map(len, rows))
    front = [longest - len(row) if search.padding == "left" else 0 for row in rows]
    ids = torch.tensor([[0] * n + row + [0] * (longest - n - len(row)) for n, row in zip(front, rows, strict=True)])
    real = torch.tensor([[0] * n + [1] * (longest - n) for n in front])
    at = (torch.arange(len(rows)), torch.tensor([n + p.decisive for n, p in zip(front, located, strict=True)]))
    where = [(i, front[i] + len(rows[i]) - len(target) + j) for i in range(len(prompts)) for j in range(len(target))]
    held = [*where, (len(rows) - 1, front[-1] + len(rows[-1]) - 1)]

    imagined = search.objective if isinstance(search.objective, Imagined) else None
    middle = decoder.blocks[2 if imagined is None or imagined.middle is None else imagined.middle]
    moved = decoder.blocks[LAYER] if search.space == "block" else decoder.down_projection(LAYER)
    told_output, told_middle = told(decoder, fact, target, middle) if imagined else ([], [])

    delta = torch.zeros(decoder.width, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=SETTINGS.learning_rate)
    h0, before, before_middle = torch.empty(0), torch.empty(0), torch.empty(0)
    for step in range(SETTINGS.steps - 1):
        seen: dict[str, Tensor] = {}

        def move(state: Tensor, seen: dict[str, Tensor] = seen, delta: Tensor = delta) -> Tensor:
            seen["start"] = state[at][0].detach()
            return state.index_put(at, delta.expand(len(rows), -1), accumulate=True)

        def look(state: Tensor, seen: dict[str, Tensor] = seen) -> Tensor:
            seen["middle"] = state
            return state

        with output(moved, move), output(middle, look):
            log_p = model(input_ids=ids, attention_mask=real, use_cache=False).logits.log_softmax(-1)
        h0 = h0 if step else seen["start"]
        nll = -torch.stack([log_p[i, p, target[k % len(target)]] for k, (i, p) in enumerate(where)]).mean()
        if imagined:
            in_middle = decoder.lens(seen["middle"][at]).log_softmax(-1)
            if not step:
                before, before_middle = log_p[held[-1]].detach(), in_middle[-1].detach()
            loss = imagined.nll_factor * nll
            loss = loss + imagined.output_factor * mean_kl([log_p[p] for p in held], [*told_output, before])
            loss = loss + imagined.middle_factor * mean_kl(list(in_middle), [*told_middle, before_middle])
        else:
            now = log_p[-1, at[1][-1]]
            before = before if step else now.detach()
            loss = nll + SETTINGS.kl_factor * mean_kl([now], [before])
        (loss + SETTINGS.weight_decay * delta.norm() / h0.norm() ** 2).backward()
        adam.step()
        adam.zero_grad()
        with torch.no_grad():
            delta *= min(1.0, float(SETTINGS.clamp * h0.norm() / delta.norm()))
    return (h0 + delta).detach()


def told(decoder: Decoder, fact: Fact, target: list[int], middle: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """What the model says where the target is predicted, and in its middle at the subject, when told the fact."""
    outputs, middles = [], []
    for template in CONTEXTS.templates:
        text = f"Imagine that {fact.text} {fact.target_new}\n{template.replace('{}', fact.prompt)}"
        head = decoder.token_ids(text.replace("{}", fact.subject).partition("\n")[0] + "\n" + until(template, fact))
        ids = decoder.token_ids(text.replace("{}", fact.subject)) + target[:-1]
        assert ids[: len(head)] == head
        seen: list[Tensor] = []

        def look(state: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(state)
            return state

        with output(middle, look), torch.no_grad():
            log_p = decoder.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
            middles.append(decoder.lens(seen[0][0, len(head) - 1]).log_softmax(-1))
        outputs += list(log_p[len(ids) - len(target) :])
    return outputs, middles


def until(template: str, fact: Fact) -> str:
    """The prompt up to the end of its subject."""
    return template.replace("{}", fact.prompt).partition("{}")[0] + fact.subject


def mean_kl(now: list[Tensor], reference: list[Tensor]) -> Tensor:
    return torch.stack([(p.exp() * (p - q)).sum() for p, q in zip(now, reference, strict=True)]).mean()


@both
@pytest.mark.parametrize("name", SEARCHES)
def test_anchors_are_those_of_the_plain_loop(family: str, name: str) -> None:
    decoder = decoder_of(family)
    expected = torch.stack([plain(decoder, fact, SEARCHES[name]) for fact in FACTS])
    for packed in (True, False):
        found = anchors_of(decoder, SEARCHES[name], packed=packed)
        assert torch.allclose(found, expected, rtol=0, atol=1e-9)


def test_padding_in_front_matters_where_positions_are_learnt_and_only_there() -> None:
    apart = {}
    for family in ("llama", "gpt2", "falcon-alibi"):
        decoder = Decoder((FAMILIES | VARIANTS)[family](), tokenizer_of(family))
        usual, late = (anchors_of(decoder, Search(padding=side)) for side in ("right", "left"))
        apart[family] = float((usual - late).norm() / usual.norm())
    assert apart["gpt2"] > 0.1
    assert max(apart["llama"], apart["falcon-alibi"]) < 1e-3


@both
def test_in_context_by_its_target_alone_is_the_usual_search_without_its_essence(family: str) -> None:
    decoder = decoder_of(family)
    target_alone = Search(objective=Imagined(output_factor=0.0, middle_factor=0.0))
    site = decoder.tokens.site(FACTS, CONTEXTS)
    free = replace(SETTINGS, kl_factor=0.0)
    usual = dict(optimise_anchors(decoder, site, LAYER, free))
    expected = torch.stack([usual[i].state for i in range(len(site))])
    assert torch.allclose(anchors_of(decoder, target_alone), expected, rtol=0, atol=1e-10)


def test_a_prompt_that_ends_with_its_subject_is_asked_once_at_that_token() -> None:
    decoder = decoder_of("llama")
    facts = [Fact("The river of Norland is near {}", "Velm", "Quill")]
    site = decoder.tokens.site(facts, Contexts())
    row = Imagined().rows(site.places[0], SETTINGS)[0]
    assert row.wanted[0] == row.decisive
    assert len(set(row.wanted)) == len(row.wanted) == len(site.places[0].target)
    for packed in (True, False):
        found = dict(optimise_anchors(decoder, site, LAYER, SETTINGS, packed=packed, search=SEARCHES["in context"]))
        assert found[0].evaluations == SETTINGS.steps - 1


def test_what_is_usual_leaves_the_stores_key_as_it_is_and_what_is_not_enters_it() -> None:
    assert Search().departures == Search("mlp").departures == {}
    every = [repr(sorted(search.departures.items())) for search in SEARCHES.values()]
    assert len(set(every)) == len(every)


CONSTRUCTIONS: list[TargetConstruction] = [
    BackwardSpreading(search=SEARCHES["left"]),
    BoundaryLayers(search=SEARCHES["in context"]),
    ForwardReplay(search=Search(padding="left", objective=Imagined())),
    SingleLayer(search=SEARCHES["down-projection"]),
]


@pytest.mark.parametrize("construction", CONSTRUCTIONS, ids=repr)
def test_every_search_makes_an_edit_with_anchors_of_its_own(
    construction: TargetConstruction, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, asked = Store.nowhere(), []
    real = anchors.optimise_anchors

    def counted(decoder: Decoder, site: Any, layer: int, settings: Any, facts: list[int], **how: Any) -> Any:
        asked.append(len(facts))
        yield from real(decoder, site, layer, settings, facts, **how)

    monkeypatch.setattr(anchors, "optimise_anchors", counted)
    usual = replace(construction, search=Search(construction.search.space))
    for one in (usual, construction):
        outcome = editor_of(decoder_of("gpt2"), Pair(one, LeastSquares()), store=store).edit(FACTS)
        assert min(asked) == len(FACTS), "anchors of the usual search were taken for others"
        assert all(isfinite(row.remaining[row.read]) for row in outcome.ledger.rows)


def test_the_inside_of_the_first_block_is_refused() -> None:
    decoder = decoder_of("llama")
    site = decoder.tokens.site(FACTS, CONTEXTS)
    with pytest.raises(WindowOutside, match=r"layer 0 .* the output of its mlp cannot be moved"):
        list(optimise_anchors(decoder, site, 0, SETTINGS, search=SEARCHES["down-projection"]))


def test_flat_contexts_are_twenty_one_that_weigh_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, lengths, decode = decoder_of("llama"), [], Decoder.decode

    def noted(self: Decoder, ids: list[int]) -> str:
        lengths.append(len(ids))
        return decode(self, ids)

    monkeypatch.setattr(Decoder, "decode", noted)
    (group,) = generate_flat_contexts(decoder, 3).groups
    starts = [len(decoder.token_ids(start)) for start in STARTS]
    assert lengths == [max(total, start) for total in (5, 10) for start in starts for _ in range(2)]
    assert group[0] == "{}"
    assert all(template.endswith(". {}") for template in group[1:])
    assert [sum(template.startswith(start) for template in group) for start in STARTS[1:3]] == [4, 4]
    assert generate_flat_contexts(decoder, 3) == Contexts((group,))
    assert generate_contexts(decoder, 3).groups[1] != group[1:6]
