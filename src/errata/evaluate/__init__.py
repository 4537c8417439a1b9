"""Axis 3: what changed? A Probe asks about Cases, a Score is what it answered."""

from errata.dataset import Case, Check, read_references
from errata.evaluate.base import Probe, Progress, Question, evaluate
from errata.evaluate.belief import Accuracy, AmongSubjects, Difference, Success
from errata.evaluate.continuation import Continuation
from errata.evaluate.fluency import Consistency, Fluency
from errata.evaluate.generation import Spoken, SpokenAndStopped
from errata.evaluate.neighbourhood import NeighbourhoodAccuracy, NeighbourhoodDifference, NeighbourhoodSuccess
from errata.evaluate.probes import PROBES, probes
from errata.evaluate.recall import Recall, retokenised
from errata.evaluate.references import TfIdf
from errata.evaluate.ripple import Locality, Portability
from errata.evaluate.score import Score, Scores
from errata.evaluate.specificity import Specificity

__all__ = [
    "PROBES",
    "Accuracy",
    "AmongSubjects",
    "Case",
    "Check",
    "Consistency",
    "Continuation",
    "Difference",
    "Fluency",
    "Locality",
    "NeighbourhoodAccuracy",
    "NeighbourhoodDifference",
    "NeighbourhoodSuccess",
    "Portability",
    "Probe",
    "Progress",
    "Question",
    "Recall",
    "Score",
    "Scores",
    "Specificity",
    "Spoken",
    "SpokenAndStopped",
    "Success",
    "TfIdf",
    "evaluate",
    "probes",
    "read_references",
    "retokenised",
]
