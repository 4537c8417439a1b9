"""Every family: the shortcuts give what the model gives when it is run plainly, from first token to last block."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from benchmarks import plain
from benchmarks.plain import PlainModel, plain_anchors
from errata.decoder.decoder import Decoder
from errata.decoder.generation import likeliest
from errata.decoder.layout import discover, known_layouts
from errata.decoder.site import Contexts
from errata.delta import WeightDelta
from errata.errors import UnsupportedModel
from errata.targets.anchor import AnchorSettings, optimise_anchors, packable, rows_of
from errata.targets.search import Search
from tests.models import (
    EXPERTS,
    FAMILIES,
    HYBRIDS,
    LIKE_LLAMA,
    RELATIVES,
    TINY_CONTEXTS,
    VARIANTS,
    tiny_facts,
    tiny_model,
    tiny_tokenizer,
    tokenizer_of,
)

BUILDERS = FAMILIES | VARIANTS | RELATIVES | HYBRIDS | LIKE_LLAMA
NORMED = {"gemma2", "gemma3", "gemma3_text", "gemma4", "gemma4_text", "gemma4_text-small"}  # the MLP's output is
NORMED |= {"olmo2", "olmo3", "glm4", "exaone4", "opt-post-norm"}
NORMED |= {"granite", "granitemoehybrid", "falcon_h1"}  # or multiplied by a constant
GROUPS = (("{}",), TINY_CONTEXTS[:2])
CONTEXTS = Contexts(GROUPS)
# These compute attention's softmax in float32 whatever the model's precision; all others are exact in float64.
COARSE = {"gptj", "gpt_neo", "gpt_neo-sliding", "gemma2", "gemma2-sliding"}
COARSE |= {"gemma4", "gemma4_text", "gemma4_text-small"}  # their norms do, and attention is not scaled down
# Near the end a short window, or keys and values that are those of earlier blocks, keep a change from reaching the
# target, and its gradient is rounding alone.
DEEP = [family for family in VARIANTS if "sliding" not in family and "small" not in family]
SHARED_EXPERTS = {  # and what is said of them
    "granitemoehybrid": "shared_mlp.output_linear in each block: a layout that names it",
    "llama4_text": "feed_forward.shared_expert.down_proj in each block: a layout that names it",
    "qwen2_moe": "shared_expert_gate multiplies .* Use a dense model",
}
every_family = pytest.mark.parametrize("family", BUILDERS)


@cache
def decoder_of(family: str) -> Decoder:
    return Decoder(BUILDERS[family](), tokenizer_of(family))


def plain_of(decoder: Decoder) -> PlainModel:
    layout = decoder.layout
    return PlainModel(decoder.model, decoder.tokenizer, layout.blocks, layout.down_projection)


def rounding(family: str) -> float:
    """How far two ways to compute the same may be apart, relative."""
    return 1e-5 if family in COARSE else 1e-12


def off(found: Tensor, expected: Tensor) -> float:
    """Largest relative distance over rows."""
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


def test_every_known_family_is_built_here() -> None:
    assert set(known_layouts()) == {family.partition("-")[0] for family in BUILDERS}


@every_family
def test_the_layout_leads_to_the_head_and_to_modules_that_exist(family: str) -> None:
    decoder = decoder_of(family)
    layout = decoder.layout
    assert not layout.guessed
    assert decoder.model.get_submodule(layout.head) is decoder.model.get_output_embeddings()
    assert decoder.depth == decoder.model.config.get_text_config().num_hidden_layers
    for inside in (layout.mlp, layout.attention):
        assert inside is None or all(block.get_submodule(inside) for block in decoder.blocks)


@every_family
def test_logits_are_those_of_a_plain_forward(family: str) -> None:
    decoder = decoder_of(family)
    rows = [decoder.token_ids(fact.text) for fact in tiny_facts()]
    wanted = [[len(row) - 1, 0] if i % 2 else [len(row) // 2] for i, row in enumerate(rows)]
    expected = [decoder.model(torch.tensor([row])).logits[0, at] for row, at in zip(rows, wanted, strict=True)]
    seen = 0
    for owner, slot, logits in decoder.logits(rows, wanted):
        assert logits.dtype == torch.float64
        for i, j, found in zip(owner.tolist(), slot.tolist(), logits, strict=True):
            assert off(found, expected[i][j]) < rounding(family)
            seen += 1
    assert seen == sum(map(len, wanted))


@every_family
@torch.no_grad()
def test_the_lens_at_the_last_block_gives_the_models_own_logits(family: str) -> None:
    decoder = decoder_of(family)
    row = decoder.token_ids(tiny_facts()[0].text)
    state = plain_of(decoder).state(row, decoder.depth - 1)
    assert off(decoder.lens(state), decoder.model(torch.tensor([row])).logits[0]) < rounding(family)


@every_family
def test_states_and_keys_are_those_of_a_plain_forward(family: str) -> None:
    decoder, facts = decoder_of(family), tiny_facts()
    lm = plain_of(decoder)
    site = decoder.tokens.site(facts, CONTEXTS)
    layers = (0, 2, decoder.depth - 1)
    states, keys = decoder.states(site.bare, layers), decoder.keys(site.bare, layers)
    for layer in layers:
        assert off(states[layer], lm.states(facts, layer)) < rounding(family)
        assert off(keys[layer], lm.keys(facts, [["{}"]], layer)) < rounding(family)


@every_family
def test_a_change_of_the_matrix_moves_the_state_by_change_times_key(family: str) -> None:
    decoder, layer = decoder_of(family), 2
    bare = decoder.tokens.site(tiny_facts(), CONTEXTS).bare
    before, keys = decoder.states(bare, [layer])[layer], decoder.keys(bare, [layer])[layer]
    change = 0.1 * torch.randn(decoder.width, decoder.inner(layer), dtype=torch.float64)
    decoder.put_on(WeightDelta(decoder.fingerprint, {decoder.parameter_name(layer): change}))
    moved = decoder.states(bare, [layer])[layer] - before
    decoder.restore()
    assert (off(moved, keys @ change.T) < 1e-12) != (family.partition("-sliding")[0] in NORMED)
    assert torch.equal(decoder.states(bare, [layer])[layer], before)


def anchors_of(
    family: str, layer: int, settings: plain.AnchorSettings, **options: bool | int
) -> tuple[Tensor, list[int], plain.Anchors]:
    """errata's anchors [fact, model] and numbers of evaluations, and the plain ones."""
    decoder, facts = decoder_of(family), [tiny_facts()[i] for i in (3, 5, 6)]
    same = AnchorSettings(
        learning_rate=settings.lr,
        steps=settings.evaluations,
        clamp=settings.clamp,
        weight_decay=settings.weight_decay,
        kl_factor=settings.kl_factor,
        stop_loss=settings.stop_below,
    )
    site = decoder.tokens.site(facts, CONTEXTS)
    found = dict(optimise_anchors(decoder, site, layer, same, **options))  # type: ignore[arg-type]
    anchors = [found[i] for i in range(len(facts))]
    expected = plain_anchors(plain_of(decoder), facts, GROUPS, layer, settings)
    return torch.stack([a.state for a in anchors]), [a.evaluations for a in anchors], expected


# Not the last block: the target does not depend on a change made there, so rounding alone decides where it goes.
@pytest.mark.parametrize(
    ("family", "layer"),
    [*((family, 1) for family in BUILDERS if family not in LIKE_LLAMA), *((family, -2) for family in DEEP)],
)
def test_anchors_are_those_of_the_plain_loop(family: str, layer: int) -> None:
    settings = plain.AnchorSettings(lr=0.3, evaluations=5)
    found, evaluations, expected = anchors_of(family, layer % decoder_of(family).depth, settings)
    assert off(found, expected.z) < max(1e-9, rounding(family))
    assert evaluations == [4] * len(found)  # the fifth would not be used


def test_rows_longer_together_than_the_models_positions_are_not_packed() -> None:
    """A fact's packed rows are one sequence, but GPT-Neo's masks end with its positions."""
    decoder, facts = decoder_of("gpt_neo"), tiny_facts()
    site = decoder.tokens.site(facts, Contexts((("{}",), TINY_CONTEXTS)))
    assert max(sum(len(prompt.ids) for prompt in place.prompts) for place in site) > 96
    settings = AnchorSettings(learning_rate=0.3, steps=3)
    found = dict(optimise_anchors(decoder, site, 1, settings))
    whole = dict(optimise_anchors(decoder, site, 1, settings, packed=False))
    assert all(off(found[i].state, whole[i].state) < 1e-5 for i in whole)


def test_one_long_fact_among_short_ones_does_not_keep_them_from_being_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, facts = decoder_of("llama"), tiny_facts()[:4]
    facts[1] = replace(facts[1], prompt="Of all the towns and rivers that this story tells of, " + facts[1].prompt)
    site = decoder.tokens.site(facts, Contexts((("{}",),)))
    settings = AnchorSettings(learning_rate=0.3, steps=3)
    rows = [rows_of(place, settings) for place in site]
    assert packable(decoder, 1, rows) == [0, 1, 2, 3]
    positions = sum(len(row.cut) for row in rows[1]) - 1
    monkeypatch.setattr(decoder.model.config, "max_position_embeddings", positions)
    assert packable(decoder, 1, rows) == [0, 2, 3]
    found = dict(optimise_anchors(decoder, site, 1, settings))
    whole = dict(optimise_anchors(decoder, site, 1, settings, packed=False))
    assert found.keys() == whole.keys() == {0, 1, 2, 3}
    assert all(off(found[i].state, whole[i].state) < 1e-5 for i in whole)


@pytest.mark.parametrize("options", [{}, {"packed": False}, {"at_once": 1}, {"at_once": 2}], ids=str)
@pytest.mark.parametrize(("family", "stop"), [("gpt2", 5.8), ("qwen3", 5.9)])
def test_anchors_that_stop_or_touch_the_clamp_are_those_of_the_plain_loop(
    family: str, stop: float, options: dict[str, bool | int]
) -> None:
    settings = plain.AnchorSettings(lr=0.5, evaluations=10, clamp=0.3, stop_below=stop)
    found, evaluations, expected = anchors_of(family, 1, settings, **options)
    assert off(found, expected.z) < 1e-9
    assert evaluations == [min(n, 9) for n in expected.evaluations]
    assert min(evaluations) < max(evaluations) == 9  # some stopped, some did not


@pytest.mark.parametrize("family", HYBRIDS)
def test_rows_of_a_model_with_a_recurrent_state_are_never_packed(family: str) -> None:
    decoder = decoder_of(family)
    site = decoder.tokens.site(tiny_facts(), CONTEXTS)
    rows = [rows_of(place, AnchorSettings()) for place in site]
    for layer in range(decoder.depth):
        assert packable(decoder, layer, rows) == []


@pytest.mark.parametrize("family", HYBRIDS)
def test_a_recurrent_state_does_not_notice_padding(family: str) -> None:
    decoder = decoder_of(family)
    site = decoder.tokens.site([tiny_facts()[i] for i in (3, 5)], CONTEXTS)
    settings = AnchorSettings(learning_rate=0.3, steps=2)
    sides = (Search(padding=side) for side in ("right", "left"))
    right, left = (dict(optimise_anchors(decoder, site, 1, settings, search=side)) for side in sides)
    assert all(off(left[i].state, right[i].state) < 1e-4 for i in right)  # linear attention is summed in float32


@pytest.mark.parametrize("family", HYBRIDS)
def test_continuations_with_a_recurrent_state_are_those_without_a_cache(family: str) -> None:
    decoder = decoder_of(family)
    row = decoder.token_ids(tiny_facts()[0].text)
    cached, plain = (decoder.continued([row], 5, likeliest, cached=cached) for cached in (True, False))
    assert cached == plain


def test_blocks_whose_keys_and_values_later_ones_read_are_not_skipped() -> None:
    small, large = decoder_of("gemma4_text-small"), decoder_of("gemma4_text")
    assert (small.shortcuts.skip, large.shortcuts.skip) == (False, True)


def test_a_model_that_looks_ahead_is_refused() -> None:
    decoder = Decoder(tiny_model("bert", hidden_size=48, num_hidden_layers=2, num_attention_heads=4), tiny_tokenizer())
    with pytest.raises(UnsupportedModel, match=r"depends on the tokens behind it.*is_decoder=True"):
        decoder.check_causal()


def test_a_model_whose_blocks_run_several_times_is_refused() -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 4, "intermediate_size": 80}
    model = tiny_model("hrm_text", **sizes, num_key_value_heads=2, head_dim=12)
    with pytest.raises(UnsupportedModel, match=r"runs \d+ times in one pass"):
        Decoder(model, tiny_tokenizer()).check_causal()


@pytest.mark.parametrize("family", ["bloom", "mpt"])
def test_an_mlp_that_adds_the_residual_itself_is_not_taken_for_one_by_a_guess(family: str) -> None:
    assert discover(tiny_model(family, hidden_size=48, n_layer=2, n_head=4)).mlp is None


def test_a_mixers_way_out_is_not_taken_for_a_down_projection() -> None:
    for family, builder in HYBRIDS.items():
        layout = discover(builder())
        assert replace(layout, note="", guessed=False, model_types=()) == replace(
            decoder_of(family).layout, note="", model_types=()
        )
    with pytest.raises(UnsupportedModel, match="no linear outside attention and other mixers"):
        discover(tiny_model("mamba", hidden_size=48, num_hidden_layers=2))


@pytest.mark.parametrize("family", EXPERTS)
def test_mixtures_of_experts_are_refused_by_name(family: str) -> None:
    advice = SHARED_EXPERTS.get(family, "Use a dense model")
    with pytest.raises(UnsupportedModel, match=rf"{family}.*mixture of experts.*{advice}"):
        Decoder(EXPERTS[family](), tokenizer_of(family))


def test_a_shared_expert_is_edited_only_where_a_layout_names_it() -> None:
    model = EXPERTS["granitemoehybrid"](dtype=torch.float64)
    layout = known_layouts()["granitemoehybrid"]
    decoder = Decoder(model, tokenizer_of("granitemoehybrid"), layout)
    facts = [tiny_facts()[i] for i in (3, 5)]
    site = decoder.tokens.site(facts, CONTEXTS)
    found = dict(optimise_anchors(decoder, site, 1, AnchorSettings(learning_rate=0.3, steps=5)))
    expected = plain_anchors(plain_of(decoder), facts, GROUPS, 1, plain.AnchorSettings(lr=0.3, evaluations=5))
    assert all(off(found[i].state, expected.z[i]) < 1e-9 for i in found)
    with pytest.raises(UnsupportedModel, match="routed expert"):
        Decoder(model, tokenizer_of("llama"), replace(layout, down_projection="block_sparse_moe.experts.down"))


def test_a_shared_expert_behind_a_gate_of_its_own_is_refused_though_a_layout_names_it() -> None:
    layout = replace(known_layouts()["llama"], down_projection="mlp.shared_expert.down_proj")
    with pytest.raises(UnsupportedModel, match="shared_expert_gate multiplies"):
        Decoder(EXPERTS["qwen2_moe"](), tokenizer_of("qwen2_moe"), layout)
