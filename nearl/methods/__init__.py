"""NEARL and its peers behind one small interface, one file per method."""

from nearl.methods.base import Card, Method
from nearl.methods.frozen import Frozen, Task
from nearl.methods.registry import ABLATIONS, METHODS, card, make, names, recipe
from nearl.methods.restoring import build, is_nearl, restore

__all__ = [
    "ABLATIONS", "METHODS", "Card", "Frozen", "Method", "Task", "build", "card", "is_nearl", "make", "names", "recipe",
    "restore",
]  # fmt: skip
