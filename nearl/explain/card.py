"""What a map is: how it is drawn, what it says in one sentence, what it cannot say, and what it needs of a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nearl.backbones import Backbone
from nearl.explain.score import Score
from nearl.explain.trace import Trace
from nearl.methods.shows import Shows


@dataclass(frozen=True)
class MapCard:
    """One map; add it with one line in `nearl.explain.registry`, or from outside with `MAPS.register`."""

    key: str  # name in the registry, the command line and the API
    name: str  # name on the page
    draw: Callable[[Trace, Score, int | None, int | None], np.ndarray]
    """(trace, score, layer, head) -> raw values, float32 [B, grid height, grid width]."""
    sentence: str  # what it shows
    limit: str  # what it cannot tell
    units: str  # of its values
    gradient: bool = False  # needs a trace with gradients
    layers: bool = False  # takes the number of a block; None is the map's own choice
    heads: bool = False  # takes the number of an attention head; None is the mean over heads
    by_class: bool = True  # depends on the class
    signed: bool = False  # below zero means against the class
    same_units: bool = False  # values before and after teaching may be subtracted as they are
    slow: bool = False  # takes tens of forward passes
    needs: frozenset[Shows] = frozenset()  # what the method must show beside the image tower's tokens
    unfit: Callable[[Backbone], str] = lambda backbone: ""  # "", or why no map can be drawn of a backbone

    @property
    def adapter(self) -> bool:
        """Whether it exists for an adapted model only."""
        return Shows.UPDATES in self.needs
