"""Anchors of many facts at once. That they equal a plain one-by-one loop is shown per family in tests/decoder."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from errata import Contexts
from errata.decoder import tails
from errata.errors import NotFinite
from errata.targets import Anchor, anchor, optimise_anchors
from tests.editing import ANCHOR, BOTH, CONTEXTS, decoder_of
from tests.models import tiny_facts

both = pytest.mark.parametrize("family", BOTH)


def anchors_of(family: str, settings: anchor.AnchorSettings = ANCHOR, layer: int = 1, **how: object) -> list[Anchor]:
    decoder = decoder_of(family)
    site = decoder.tokens.site(tiny_facts(), CONTEXTS)
    found = dict(optimise_anchors(decoder, site, layer, settings, **how))  # type: ignore[arg-type]
    assert sorted(found) == list(range(len(site)))
    return [found[i] for i in range(len(site))]


def states(found: list[Anchor]) -> torch.Tensor:
    return torch.stack([a.state for a in found])


@both
def test_company_in_the_batch_does_not_matter(family: str) -> None:
    alone, three, all_at_once = (states(anchors_of(family, at_once=n)) for n in (1, 3, 16))
    assert torch.allclose(alone, three, rtol=0, atol=1e-10)
    assert torch.allclose(alone, all_at_once, rtol=0, atol=1e-10)


@both
def test_packed_tails_give_what_whole_rows_give(family: str) -> None:
    packed, whole = (states(anchors_of(family, packed=packed)) for packed in (True, False))
    assert torch.allclose(packed, whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_had_whatever_mode_the_caller_is_in(mode: type[torch.no_grad]) -> None:
    decoder = decoder_of("llama")
    site = decoder.tokens.site(tiny_facts(), CONTEXTS)
    with mode():
        inside = dict(optimise_anchors(decoder, site, 1, ANCHOR))
        assert not torch.is_grad_enabled()
    assert torch.equal(states([inside[i] for i in range(len(site))]), states(anchors_of("llama")))


def test_every_fact_stops_for_itself() -> None:
    losses = [a.loss for a in anchors_of("llama", replace(ANCHOR, steps=2))]
    between = sum(sorted(losses)[3:5]) / 2
    found = anchors_of("llama", replace(ANCHOR, stop_loss=between))
    first = [a.evaluations == 1 for a in found]
    assert first == [loss < between for loss in losses]
    assert all(torch.equal(a.state, a.start) for a, stopped in zip(found, first, strict=True) if stopped)


def test_delta_stays_inside_its_ball() -> None:
    for a in anchors_of("gpt2", replace(ANCHOR, clamp=0.1, learning_rate=5.0)):
        assert float((a.state - a.start).norm()) == pytest.approx(0.1 * float(a.start.norm()))


def test_one_step_changes_nothing_and_s_steps_make_s_minus_one_updates() -> None:
    assert all(torch.equal(a.state, a.start) for a in anchors_of("llama", replace(ANCHOR, steps=1)))
    assert all(a.evaluations == 5 for a in anchors_of("llama", replace(ANCHOR, steps=6, stop_loss=0.0)))


def test_anchors_lower_the_loss() -> None:
    before = [a.loss for a in anchors_of("llama", replace(ANCHOR, steps=2))]
    after = [a.loss for a in anchors_of("llama", replace(ANCHOR, steps=15))]
    assert sum(after) < sum(before) - 1


def test_the_loss_may_be_read_at_an_earlier_block() -> None:
    last = decoder_of("llama").depth - 1
    own, at_last, earlier = (
        states(anchors_of("llama", replace(ANCHOR, loss_layer=at))) for at in (None, last, last - 1)
    )
    assert torch.allclose(own, at_last, rtol=0, atol=1e-9)
    assert not torch.allclose(own, earlier, rtol=0, atol=1e-3)


def test_kl_may_be_read_at_the_end_of_the_essence_prompt() -> None:
    subject, last = (
        states(anchors_of("llama", replace(ANCHOR, kl_position=at, kl_factor=1.0), packed=packed))
        for at, packed in (("subject", True), ("last", True))
    )
    assert not torch.allclose(subject, last, rtol=0, atol=1e-3)


def test_running_out_of_memory_halves_the_batch_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = states(anchors_of("llama"))
    real, sizes = tails.Tails.logits, []

    def small(self: tails.Tails, stack: tails.Stack, *args: object) -> object:
        sizes.append(len(stack.ids))
        if len(sizes) > 2 and len(stack.ids) > 2:
            raise torch.OutOfMemoryError("no more")
        return real(self, stack, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(tails.Tails, "logits", small)
    found = states(anchors_of("llama", packed=True, at_once=8))
    assert sizes[0] == 8
    assert sizes[-1] <= 2
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)


def test_a_family_that_cannot_be_packed_falls_back_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = states(anchors_of("llama"))
    monkeypatch.setattr(tails.Sequence_, "allowed", lambda self, p, n: torch.ones(n, n, dtype=torch.bool))
    decoder = decoder_of("llama")
    site = decoder.tokens.site(tiny_facts(), CONTEXTS)
    assert not anchor.packing_holds(decoder, 1, [anchor.rows_of(place, ANCHOR) for place in site])
    assert torch.allclose(states(anchors_of("llama")), expected, rtol=0, atol=1e-10)


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    decoder = decoder_of("llama")
    decoder.down_projection(3).weight.data[0, 0] = float("nan")  # type: ignore[index,union-attr]
    site = decoder.tokens.site(tiny_facts(), CONTEXTS)
    with pytest.raises(NotFinite, match="loss is not finite at layer 1"):
        list(optimise_anchors(decoder, site, 1, ANCHOR, packed=True))


@both
def test_bare_prompts_first_is_a_descent_of_their_own_and_then_one_from_where_it_ends(family: str) -> None:
    decoder = decoder_of(family)
    site = decoder.tokens.site(tiny_facts(), CONTEXTS)
    alone = decoder.tokens.site(tiny_facts(), Contexts((("{}",),)))
    few = replace(ANCHOR, steps=4)
    begun = dict(optimise_anchors(decoder, alone, 1, replace(ANCHOR, steps=6)))
    then = dict(optimise_anchors(decoder, site, 1, few, begin=begun))
    both = dict(optimise_anchors(decoder, site, 1, replace(few, bare_steps=5)))
    rows = len(CONTEXTS.templates) + 1
    for i, anchor_ in both.items():
        assert torch.equal(anchor_.state, then[i].state)
        assert anchor_.evaluations == 3 + 5 * 2 / rows


def test_a_descent_that_begins_elsewhere_is_held_to_what_the_unmoved_model_says() -> None:
    decoder = decoder_of("llama")
    site = decoder.tokens.site(tiny_facts(), CONTEXTS)
    begun = dict(optimise_anchors(decoder, site, 1, replace(ANCHOR, steps=4)))
    once = dict(optimise_anchors(decoder, site, 1, replace(ANCHOR, steps=2), begin=begun))
    fourth = dict(optimise_anchors(decoder, site, 1, replace(ANCHOR, steps=5)))
    assert all(once[i].kl == pytest.approx(fourth[i].kl, rel=1e-9) for i in once)
    assert min(one.kl for one in once.values()) > 0
