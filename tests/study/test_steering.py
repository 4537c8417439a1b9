"""Passages against the whole model, and theorems 1 and 2 against dense Jacobians."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from errata import Contexts, Decoder
from errata.decoder.site import Prompt
from errata.study import Trial
from errata.study.passage import Passage
from errata.study.trajectory import trajectory
from tests.editing import decoder_of
from tests.models import FAMILIES, RELATIVES, VARIANTS, tiny_facts, tokenizer_of


def bare(decoder: Decoder, facts: int = 4) -> list[Prompt]:
    return decoder.tokens.site(tiny_facts()[:facts], Contexts()).bare


def through_the_model(decoder: Decoder, prompt: Prompt, state: Tensor, first: int, last: int) -> Tensor:
    """Block `last`'s state with block `first`'s replaced, by an ordinary pass over the whole prompt."""
    blocks, seen = decoder.blocks, []

    def replace(_module: object, _args: object, output: Tensor | tuple[Tensor]) -> object:
        hidden = output[0] if isinstance(output, tuple) else output
        new = torch.cat([hidden[:, :-1], state[None, None]], 1)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    def read(_module: object, _args: object, output: Tensor | tuple[Tensor]) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output)[0, -1])

    hooks = blocks[first].register_forward_hook(replace), blocks[last].register_forward_hook(read)
    decoder.model(input_ids=torch.tensor([prompt.ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return seen[0]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2-sliding"])
def test_products_are_those_of_the_dense_jacobian_of_the_whole_model(family: str) -> None:
    decoder = Decoder((FAMILIES | VARIANTS)[family](), tokenizer_of(family))
    prompts = bare(decoder, 2)
    passage = Passage(decoder, prompts, 1, 3)
    torch.testing.assert_close(passage.end(passage.zero), decoder.states(prompts, [3])[3], rtol=1e-5, atol=1e-5)
    v, u = torch.randn(2, 2, decoder.width, dtype=torch.float64)
    forth, back, dense = passage.jvp(v), passage.vjp(u), passage.dense()
    assert not passage.by_difference
    for j, prompt in enumerate(prompts):
        with sdpa_kernel(SDPBackend.MATH):
            jacobian = torch.autograd.functional.jacobian(
                lambda x, p=prompt: through_the_model(decoder, p, x, 1, 3), passage.start[j]
            )
        torch.testing.assert_close(forth[j], jacobian @ v[j], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(back[j], jacobian.T @ u[j], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(dense[j], jacobian, rtol=1e-4, atol=1e-4)


def test_a_model_without_forward_derivative_is_differenced() -> None:
    decoder = Decoder(RELATIVES["bloom"](), tokenizer_of("bloom"))
    passage = Passage(decoder, bare(decoder, 2), 1, 3)
    v, u = torch.randn(2, 2, decoder.width, dtype=torch.float64)
    forth = passage.jvp(v)
    assert passage.by_difference
    torch.testing.assert_close((forth * u).sum(-1), (passage.vjp(u) * v).sum(-1), rtol=1e-3, atol=1e-3)


def test_the_last_layer_before_itself_is_the_identity() -> None:
    decoder = decoder_of("llama")
    passage = Passage(decoder, bare(decoder, 2), 3, 3)
    v = torch.randn(2, decoder.width, dtype=torch.float64)
    torch.testing.assert_close(passage.jvp(v), v)
    torch.testing.assert_close(passage.vjp(v), v)


def test_ends_and_quotients_are_those_of_the_dense_symmetric_part(findings: Callable[[str], Any]) -> None:
    rows = findings("steering").methods["memit"]
    assert [row.layer for row in rows] == [1]
    for row in rows:
        assert [dense.fact for dense in row.dense] == [0]
        for dense in row.dense:
            assert dense.lanczos_error < 1e-4
            assert dense.lowest == dense.spectrum[0] <= dense.spectrum[-1] == dense.highest
            assert dense.negative == sum(value < 0 for value in dense.spectrum)
        for direction in row.directions.values():
            for beta, low, high in zip(direction.quotient.values, row.lowest.values, row.highest.values, strict=True):
                assert low - 1e-4 <= beta <= high + 1e-4
            # The eigen-residual is the sine of the angle whose cosine is beside it.
            for c, s in zip(direction.cosine.values, direction.eigen_residual.values, strict=True):
                assert c**2 + s**2 == pytest.approx(1, abs=1e-6)


def test_the_observed_step_is_a_pass_that_holds_the_moved_state(short: Trial, findings: Callable[[str], Any]) -> None:
    path, decoder, prompts = trajectory(short, "memit"), short.decoder, short.site.bare
    shift = path.states[1][1] - path.states[0][1]
    held = decoder.states(prompts, [3], holding=(1, path.states[0][1] + shift))[3]
    expected = torch.nn.functional.cosine_similarity(held - path.states[0][3], shift, dim=-1)
    found = findings("steering").methods["memit"][0].directions["achieved"].observed
    assert found.values == pytest.approx(expected.tolist(), abs=1e-4)
    assert not decoder.is_edited
