"""What doctor tells of a model."""

from __future__ import annotations

import pytest

from errata import Decoder
from errata.cli.work.plan import findings
from errata.recipe import recipe_for
from tests.models import FAMILIES, tokenizer_of


@pytest.mark.parametrize("family", ["gemma2", "olmo2"])
def test_doctor_says_where_a_change_does_not_move_the_state_as_reckoned(family: str) -> None:
    decoder = Decoder(FAMILIES[family](), tokenizer_of(family))
    told = dict(findings(decoder, recipe_for(decoder)))
    assert "does not move the block's output by D k" in str(told["note"])
