"""Where the model looked and what teaching added: maps behind one registry, how they are drawn and how they are
checked."""

from nearl.explain.card import MapCard
from nearl.explain.drawing import available, draw, explain, gradcam, heatmaps, look, scorer_of
from nearl.explain.heatmap import Heatmap, difference
from nearl.explain.registry import MAPS
from nearl.explain.render import heat_layer, overlay
from nearl.explain.request import MapRequest
from nearl.explain.score import ALONE, OTHERS, Score, Scorer, randomised
from nearl.explain.trace import Trace

__all__ = [
    "ALONE",
    "MAPS",
    "OTHERS",
    "Heatmap",
    "MapCard",
    "MapRequest",
    "Score",
    "Scorer",
    "Trace",
    "available",
    "difference",
    "draw",
    "explain",
    "gradcam",
    "heat_layer",
    "heatmaps",
    "look",
    "overlay",
    "randomised",
    "scorer_of",
]
