"""Every value of a model's weights enters its fingerprint."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from errata import WeightDelta
from errata.decoder.fingerprint import fingerprint
from errata.errors import WrongModel
from tests.editing import decoder_of


def of(*weights: Tensor) -> str:
    return fingerprint("tiny", ((str(i), weight) for i, weight in enumerate(weights)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8], ids=str)
@pytest.mark.parametrize("shape", [(1,), (48,), (48, 80), (2050, 2049)], ids=str)
def test_a_change_of_any_single_value_is_seen(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight = (8 * torch.randn(shape)).to(dtype)
    before, flat = of(weight), weight.view(-1)
    for at in {0, len(flat) // 3, len(flat) - 1}:
        kept, flat[at] = flat[at].clone(), 9.03125 if dtype.is_floating_point else 99
        assert of(weight) != before
        flat[at] = kept
    assert of(weight) == before


@pytest.mark.parametrize(
    "altered",
    [lambda w: w.T, lambda w: w.flip(0), lambda w: w.flip(1), lambda w: w.view(20, 192), lambda w: -w],
    ids=["transposed", "upside down", "mirrored", "of another shape", "negated"],
)
def test_the_same_values_elsewhere_are_other_weights(altered: Callable[[Tensor], Tensor]) -> None:
    weight = torch.randn(48, 80)
    assert of(altered(weight)) != of(weight)


def test_names_order_and_kind_count() -> None:
    one, other = torch.ones(3), torch.zeros(3)
    assert len({of(one, other), of(other, one), of(one), fingerprint("big", [("0", one)])}) == 4


@pytest.mark.parametrize("shape", [(7,), (48, 80), (2050, 2049)], ids=str)
def test_bf16_weights_are_the_same_in_a_wider_dtype(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape).bfloat16()
    assert of(weight) == of(weight.float()) == of(weight.double())
    assert of(weight) != of(weight.float() * (1 + 2**-20))


def test_an_edit_is_refused_by_weights_that_differ_in_one_value() -> None:
    decoder, other = decoder_of("llama"), decoder_of("llama")
    edit = WeightDelta(decoder.fingerprint, {decoder.parameter_name(1): torch.ones_like(decoder.weight(1))})
    other.model.get_parameter(other.parameter_name(3)).data[17, 31] += 1e-3
    with pytest.raises(WrongModel, match=r"made for weights .* Nothing was changed"):
        other.put_on(edit)
