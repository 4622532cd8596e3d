"""NEARL and other methods of adaptation behind one interface, one file per method."""

from nearl.methods.base import Card, Method
from nearl.methods.frozen import Frozen, Task
from nearl.methods.registry import METHODS, card, make, names, recipe, title
from nearl.methods.restoring import restore

__all__ = ["METHODS", "Card", "Frozen", "Method", "Task", "card", "make", "names", "recipe", "restore", "title"]
