"""What a map is called, what it says in one sentence, and what it cannot say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nearl.backbones import Backbone
from nearl.methods.shows import Shows


@dataclass(frozen=True)
class Method:
    """One map. ``draw(trace, score, layer, head)`` gives raw values, float32 [B, grid height, grid width].

    ``sentence`` says what it shows, ``limit`` what it cannot tell; ``units`` of its values. ``gradient``: needs a trace
    with gradients. ``layers`` / ``heads``: takes the number of a block / of a head; None then means the method's own
    choice. ``by_class``: depends on the class. ``adapter``: exists for an adapted model only. ``signed``: below zero
    means against the class. ``same_units``: values before and after teaching may be subtracted as they are. ``slow``:
    takes tens of forward passes. ``fits``: whether a backbone has what it takes.
    """

    key: str
    name: str
    draw: Callable
    sentence: str
    limit: str
    units: str
    gradient: bool = False
    layers: bool = False
    heads: bool = False
    by_class: bool = True
    adapter: bool = False
    signed: bool = False
    same_units: bool = False
    slow: bool = False
    fits: Callable[[Backbone], bool] = lambda backbone: True
    needs: tuple[Shows, ...] = ()
