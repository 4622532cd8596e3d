"""A plugin with a map of its own, and the method and the file format of two other plugins; each is one line.

``NEARL_PLUGINS=tests.support.toy`` makes the command line, the page and their worker processes know all three.
"""

from __future__ import annotations

import numpy as np

from nearl.explain.card import MapCard
from nearl.explain.registry import MAPS
from nearl.explain.score import Score
from nearl.explain.trace import Trace
from tests.support import toy_format, toy_method  # noqa: F401  register their format and method


def energy(trace: Trace, score: Score, layer: int | None, head: int | None) -> np.ndarray:
    """Squared length of every patch token, float32 [B, grid height, grid width]."""
    patches = trace.tokens.detach()[:, trace.tower.prefix_tokens :].float()
    return patches.square().sum(-1).unflatten(1, trace.tower.grid).cpu().numpy()


ENERGY = MapCard(
    "toy-energy",
    "Toy energy",
    energy,
    "Shows how long the token of each patch is.",
    "It does not depend on the class.",
    "squared length",
    by_class=False,
)
MAPS.register("toy-energy", ENERGY)
