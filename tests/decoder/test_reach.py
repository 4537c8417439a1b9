"""Reach: how each family's down-projection reaches the stream is found by moving it, whatever the family is called."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from errata import Decoder
from errata.decoder.reach import PLAIN, SHORTEST, Reach
from errata.errors import UnsupportedModel
from tests.editing import decoder_of
from tests.models import FAMILIES, RELATIVES, VARIANTS, tokenizer_of

NORMED = ("gemma2", "gemma3_text", "olmo2", "gemma3", "olmo3")
EVERY = FAMILIES | VARIANTS | RELATIVES
ELSE = ("granite", "glm4", "exaone4", "gemma4", "gemma4_text", "opt-post-norm")
OTHERS = [name for name in EVERY if not {name, name.partition("-")[0]} & {*NORMED, *ELSE}]


def reached(family: str, dtype: torch.dtype) -> dict[int, Reach]:
    decoder = Decoder(EVERY[family](dtype=dtype), tokenizer_of(family))
    return decoder.reach(range(decoder.depth))


@pytest.mark.parametrize("family", OTHERS)
def test_most_families_add_the_output_as_it_is(family: str) -> None:
    assert all(reach.is_plain for reach in reached(family, torch.float32).values())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", NORMED)
def test_a_norm_behind_the_output_is_found_with_its_gain(family: str, dtype: torch.dtype) -> None:
    decoder = Decoder(EVERY[family](dtype=dtype), tokenizer_of(family))
    for layer, reach in decoder.reach(range(decoder.depth)).items():
        weight = decoder.blocks[layer].post_feedforward_layernorm.weight.to(decoder.precision)  # type: ignore[union-attr]
        gain = weight + 1 if "gemma" in family else weight
        assert reach.name == "post_feedforward_layernorm"
        assert reach.scale == 1.0
        assert torch.allclose(reach.gain, gain, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4)  # type: ignore[arg-type]


def test_a_constant_behind_the_output_is_found() -> None:
    scales = [reach.scale for reach in reached("granite", torch.float32).values()]
    assert scales == pytest.approx([0.5] * 5, rel=1e-5)
    assert all(reach.norm is None for reach in reached("granite", torch.bfloat16).values())


def test_a_norm_of_the_whole_stream_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"layer 0 .* Nothing was changed. .* rome-original"):
        reached("opt-post-norm", torch.float64)


def changed(make: Callable[[nn.Module, nn.Module], Callable[[Tensor], Tensor]]) -> Decoder:
    """A Llama whose MLPs give something else, made of the MLP."""
    decoder = decoder_of("llama")
    for block in decoder.blocks:
        mlp: Any = block.mlp
        mlp.forward = make(mlp, SimpleNamespace(forward=mlp.forward))  # type: ignore[arg-type]
    return decoder


def test_made_up_blocks_are_told_apart() -> None:
    def through(behind: nn.Module) -> Callable[[Any, Any], Callable[[Tensor], Tensor]]:
        def make(mlp: Any, old: Any) -> Callable[[Tensor], Tensor]:
            mlp.add_module("behind", behind)
            return lambda state: 3 * behind(old.forward(state))

        return make

    norm = nn.RMSNorm(48, dtype=torch.float64)
    assert changed(through(norm)).reach([2])[2].name == "mlp.behind"
    assert changed(through(norm)).reach([2])[2].scale == pytest.approx(3.0)
    assert changed(through(nn.Identity())).reach([2])[2].scale == pytest.approx(3.0)
    for other in (nn.LayerNorm(48, dtype=torch.float64), nn.Tanh()):
        with pytest.raises(UnsupportedModel, match="neither as it is, nor times a constant"):
            changed(through(other)).reach([2])


def test_it_is_measured_once() -> None:
    decoder = decoder_of("gemma2")
    first = decoder.reach([1, 2])
    assert decoder.reach([2])[2] is first[2]
    decoder.accept_weights()
    assert decoder.reach([2])[2] is not first[2]


NORM = nn.RMSNorm(6, eps=0.0, dtype=torch.float64)
NORM.weight.data = torch.tensor([2.0, -1.0, 0.5, 3.0, 0.0, 1.0], dtype=torch.float64)
REACH = Reach(0.5, NORM, NORM.weight.data, "norm")


def test_what_is_asked_of_the_output_is_the_nearest_that_leads_to_the_same_state() -> None:
    draw = torch.Generator().manual_seed(0)
    outputs = torch.randn(4, 6, generator=draw, dtype=torch.float64)
    residuals = 0.2 * torch.randn(4, 6, generator=draw, dtype=torch.float64)
    moves = REACH.asked(residuals, outputs)
    wanted = outputs + moves
    nearer = wanted / wanted.norm(dim=1, keepdim=True) * outputs.norm(dim=1, keepdim=True)
    assert (moves.norm(dim=1) <= (nearer - outputs).norm(dim=1) + 1e-12).all()
    assert torch.allclose(REACH.contribution(wanted), REACH.contribution(nearer))
    assert (moves * wanted).sum(1).abs().max() < 1e-12


def test_a_state_that_the_norm_can_give_is_given_in_full() -> None:
    draw = torch.Generator().manual_seed(1)
    outputs, others = torch.randn(2, 4, 6, generator=draw, dtype=torch.float64)
    others[:, 4] = outputs[:, 4] * (
        others.norm(dim=1) / outputs.norm(dim=1)
    )  # where the gain is 0, nothing can be asked
    others = others / others.square().mean(1, keepdim=True).sqrt()
    others[:, 4] = outputs[:, 4] / outputs.square().mean(1).sqrt()
    others[:, 5] = others[:, 5].sign() * (6 - others[:, :5].square().sum(1)).clamp_min(0).sqrt()
    residuals = REACH.contribution(others) - REACH.contribution(outputs)
    fits = others.square().mean(1).sub(1).abs() < 1e-9
    assert fits.any()
    assert REACH.swallowed(REACH.asked(residuals, outputs)[fits], residuals[fits], outputs[fits]) < 1e-9


def test_an_output_that_has_to_turn_round_keeps_a_tenth_of_its_length() -> None:
    outputs = torch.tensor([[1.0, 1, 1, 1, 0, 0]], dtype=torch.float64)
    residuals = REACH.contribution(-3 * outputs) * 5
    wanted = outputs + REACH.asked(residuals, outputs)
    assert REACH.turned(residuals, outputs).all()
    assert float(wanted.norm() / outputs.norm()) == pytest.approx(SHORTEST)
    assert float(wanted[0, 0]) < 0
    assert not REACH.turned(0.1 * residuals, outputs).any()


def test_a_residual_is_divided_by_a_constant_and_left_as_it_is_without_one() -> None:
    residuals = torch.ones(2, 6)
    assert torch.equal(Reach(0.25).asked(residuals, None), 4 * residuals)
    assert PLAIN.asked(residuals, None) is residuals
