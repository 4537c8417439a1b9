"""Axis 1: what state should each edited layer reach?"""

from errata.targets.anchor import Anchor, optimise_anchors
from errata.targets.base import Step, TargetConstruction, Targets, UpdateNorm
from errata.targets.forward_replay import ForwardReplay
from errata.targets.graduated_replay import GraduatedReplay
from errata.targets.imagined import Imagined
from errata.targets.search import AnchorSettings, Objective, Search
from errata.targets.tableaux import BackwardSpreading, BoundaryLayers, EveryLayer, SingleLayer

__all__ = [
    "Anchor",
    "AnchorSettings",
    "BackwardSpreading",
    "BoundaryLayers",
    "EveryLayer",
    "ForwardReplay",
    "GraduatedReplay",
    "Imagined",
    "Objective",
    "Search",
    "SingleLayer",
    "Step",
    "TargetConstruction",
    "Targets",
    "UpdateNorm",
    "optimise_anchors",
]
