"""NEARL and its peers behind one small interface, one file per method."""

from nearl.methods.base import Card, Method
from nearl.methods.frozen import Frozen, Task
from nearl.methods.registry import ABLATIONS, METHODS, card, make, names, restore

__all__ = ["ABLATIONS", "METHODS", "Card", "Frozen", "Method", "Task", "card", "make", "names", "restore"]
