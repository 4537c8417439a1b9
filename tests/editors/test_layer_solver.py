"""A solution that does nothing, or is beyond what can be written, is refused with the reason."""

from __future__ import annotations

import pytest
import torch

from errata import Decoder
from errata.editors.layer_solver import check_change
from errata.errors import NotFinite, SolveError
from errata.solvers import LinearSystem
from tests.editing import RECIPE, editor_of
from tests.models import FAMILIES, tiny_facts, tokenizer_of


def test_a_preservation_weight_that_leaves_nothing_of_the_edit_is_refused() -> None:
    decoder = Decoder(FAMILIES["llama"](dtype=torch.float32), tokenizer_of("llama"))
    before = {name: value.clone() for name, value in decoder.model.state_dict().items()}
    recipe = RECIPE.with_solver("least_squares", weight=1e300)
    with pytest.raises(SolveError, match=r"layer 1: the solution is 0 everywhere.*lower it in the recipe's solver"):
        editor_of(decoder, "memit", recipe=recipe).edit(tiny_facts()[:2])
    assert not decoder.is_edited
    assert all(torch.equal(value, before[name]) for name, value in decoder.model.state_dict().items())


def test_a_solution_of_0_for_facts_at_their_targets_is_right() -> None:
    system = LinearSystem(torch.ones(2, 3), torch.zeros(2, 4), torch.ones(4, 3), 1)
    check_change(torch.zeros(4, 3), system)


def test_a_solution_beyond_all_numbers_is_refused() -> None:
    system = LinearSystem(torch.ones(2, 3), torch.ones(2, 4), torch.ones(4, 3), 1)
    with pytest.raises(NotFinite, match="layer 1: the solution holds values beyond"):
        check_change(torch.full((4, 3), torch.inf), system)
