"""What doctor tells of a model."""

from __future__ import annotations

import pytest

from errata import Decoder
from errata.cli.work.plan import findings
from errata.recipe import recipe_for
from tests.models import FAMILIES, tokenizer_of


@pytest.mark.parametrize("family", ["gemma2", "olmo2"])
def test_doctor_says_where_an_edit_is_solved_for_in_front_of_a_norm(family: str) -> None:
    decoder = Decoder(FAMILIES[family](), tokenizer_of(family))
    told = dict(findings(decoder, recipe_for(decoder)))
    assert told["MLP output"] == "through post_feedforward_layernorm, an RMS norm; solved for in front of it"
