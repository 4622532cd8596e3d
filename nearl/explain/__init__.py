"""Where the model looked and what teaching added: one file per map, one registry, and how a map is drawn and
checked."""

from nearl.explain.heatmap import Heatmap, difference
from nearl.explain.maps.cam import gradcam
from nearl.explain.registry import METHODS, available, draw, explain
from nearl.explain.render import heat_layer, overlay
from nearl.explain.score import ALONE, OTHERS, Score, Scorer, randomised
from nearl.explain.trace import Trace

__all__ = [
    "ALONE",
    "METHODS",
    "OTHERS",
    "Heatmap",
    "Score",
    "Scorer",
    "Trace",
    "available",
    "difference",
    "draw",
    "explain",
    "gradcam",
    "heat_layer",
    "overlay",
    "randomised",
]
