"""The table of methods: its rows, and rows put together from others."""

from __future__ import annotations

import pytest

from errata.errors import UnfitParts, UnknownMethod
from errata.method import Pair
from errata.methods import ERRATA, METHODS, method
from errata.solvers import EqualityConstrained, NullSpace, RankOne, Restrained, Sparsified
from errata.targets import BoundaryLayers, ForwardReplay
from tests.editing import BOTH, decoder_of, editor_of
from tests.models import tiny_facts


def pair(name: str) -> Pair:
    row = method(name)
    assert isinstance(row, Pair)
    return row


def test_two_names_are_the_targets_of_one_and_the_solver_of_the_other() -> None:
    assert pair("memit+fe:alphaedit").construction == ForwardReplay()
    assert pair("memit+fe:alphaedit").solver == NullSpace()
    assert pair("alphaedit:memit") == Pair(pair("memit").construction, pair("memit").solver, ERRATA)


def test_names_between_wrap_the_solver_of_the_last() -> None:
    row = pair("blue:prune:rect:emmet")
    assert row.construction == BoundaryLayers()
    assert row.solver == Restrained(Sparsified(EqualityConstrained()))


def test_a_solver_for_one_fact_at_a_time_stays_so() -> None:
    assert pair("memit+fe:rome").batch == 1
    assert pair("memit+fe:rome").solver == RankOne()
    assert pair("rome:memit").batch is None


@pytest.mark.parametrize("family", BOTH)
def test_the_published_pair_and_the_one_put_together_change_weights_alike(family: str) -> None:
    changes = []
    for name in ("prune+fe", "memit+fe:prune", "memit+fe:prune:memit"):
        outcome = editor_of(decoder_of(family), name).edit(tiny_facts()[:2])
        changes.append(outcome.edit.delta.changes)
    for other in changes[1:]:
        assert all(other[name].equal(change) for name, change in changes[0].items())


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UnfitParts, match=r"'wise:memit': only rows that are a pair"):
        method("wise:memit")
    with pytest.raises(UnfitParts, match=r"NullSpace wraps no other solver. Write targets:solver"):
        method("memit:alphaedit:emmet")
    with pytest.raises(UnknownMethod, match=r"'alphedit'. Did you mean 'alphaedit'"):
        method("memit:alphedit")


def test_a_name_of_the_table_is_its_row() -> None:
    assert all(method(name) is row for name, row in METHODS.items())
