"""Verbs that are killed at work: what they write is whole, and the next run goes on from what was done."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from benchmarks.soak import soak

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]


def test_a_killed_edit_is_whole_or_absent_and_comes_to_the_same_end(tmp_path: Path) -> None:
    result = soak("save", 2, random.Random(1), tmp_path)
    assert result.good, result.wrong
    assert sum(result.kills.values()) >= 2
    assert result.resumed
