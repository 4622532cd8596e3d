"""Frozen open_clip models by name, and one step-through view of their towers.

The list of names is there at once; what needs torch and open_clip is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from nearl.backbones.catalogue import REGISTRY, Entry

if TYPE_CHECKING:
    from nearl.backbones.registry import Backbone, load_backbone

__all__ = ["REGISTRY", "Backbone", "Entry", "load_backbone"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module("nearl.backbones.registry"), name)
    return value
