"""Left padding: another construction's anchors, sought with a fact's rows padded in front (NAMET, method 2.10)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from errata.targets.search import Search
from errata.targets.wrapper import Wrapper


@dataclass(frozen=True)
class LeftPadded(Wrapper):
    """Anchors find the model reading each prompt as many positions late as the fact's longest row is longer.

    That includes h0, so z = h0 + delta starts from the bare prompt's state at the late positions. Keys, current
    states and replays are at the usual ones. Where positions enter as distances alone (rotary, ALiBi) nothing
    changes but rounding; where they are learnt (GPT-2) it is the noise that the method is named after.
    Source: NAMET after the FE repository's reading of it.
    """

    def altered(self, search: Search) -> Search:
        return replace(search, padding="left")
