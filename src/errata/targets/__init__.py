"""Axis 1: what state should each edited layer reach?"""

from errata.targets.anchor import Anchor, optimise_anchors
from errata.targets.backward_spreading import BackwardSpreading
from errata.targets.base import Step, TargetConstruction, Targets, UpdateNorm
from errata.targets.boundary_layers import BoundaryLayers
from errata.targets.every_layer import EveryLayer
from errata.targets.forward_replay import ForwardReplay
from errata.targets.graduated_replay import GraduatedReplay
from errata.targets.in_context import Imagined, InContext
from errata.targets.left_padded import LeftPadded
from errata.targets.search import AnchorSettings, Objective, Search
from errata.targets.single_layer import SingleLayer
from errata.targets.single_projection import SingleProjection

__all__ = [
    "Anchor",
    "AnchorSettings",
    "BackwardSpreading",
    "BoundaryLayers",
    "EveryLayer",
    "ForwardReplay",
    "GraduatedReplay",
    "Imagined",
    "InContext",
    "LeftPadded",
    "Objective",
    "Search",
    "SingleLayer",
    "SingleProjection",
    "Step",
    "TargetConstruction",
    "Targets",
    "UpdateNorm",
    "optimise_anchors",
]
