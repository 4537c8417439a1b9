"""The probes by family: the rows a run picks from. A new probe is a file and a row here."""

from __future__ import annotations

from errata.errors import UnknownName
from errata.evaluate.base import Probe
from errata.evaluate.belief import Accuracy, AmongSubjects, Difference, Success
from errata.evaluate.fluency import Consistency, Fluency
from errata.evaluate.generation import Spoken, SpokenAndStopped
from errata.evaluate.neighbourhood import NeighbourhoodAccuracy, NeighbourhoodDifference, NeighbourhoodSuccess
from errata.evaluate.ripple import LOCALITY, PORTABILITY, Locality, Portability
from errata.evaluate.specificity import Specificity

_KINDS = ("efficacy", "generalisation", "novel")

PROBES: dict[str, tuple[Probe, ...]] = {
    "belief": tuple(probe(kind) for kind in _KINDS for probe in (Success, Accuracy, Difference)),
    "subjects": tuple(
        AmongSubjects(probe("efficacy"), repeated) for probe in (Success, Accuracy) for repeated in (False, True)
    ),
    "neighbourhood": (NeighbourhoodSuccess(), NeighbourhoodAccuracy(), NeighbourhoodDifference()),
    "specificity": tuple(
        Specificity(measure, where)
        for where in ("specificity", "far")
        for measure in ("kl", "js", "top1", "top5", "top10", "entropy")
    ),
    "free": tuple(probe(kind) for kind in _KINDS for probe in (Spoken, SpokenAndStopped)),
    "portability": tuple(Portability(kind) for kind in (None, *PORTABILITY)),
    "locality": tuple(Locality(kind) for kind in (None, *LOCALITY)),
    "text": (Fluency(), Consistency()),
}

ASKED_FOR = ("text",)
"""Families that run only when named: a hundred drawn tokens for each of ten prompts cost more than all the rest."""


def probes(*families: str) -> tuple[Probe, ...]:
    """The probes of these families; without any named, of all but those of `ASKED_FOR`. Raises UnknownName."""
    if unknown := [family for family in families if family not in PROBES]:
        raise UnknownName("family of probes", unknown[0], PROBES)
    return tuple(probe for family in families or [f for f in PROBES if f not in ASKED_FOR] for probe in PROBES[family])
