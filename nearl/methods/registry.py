"""All methods by name. A new one is a file and a line here, or `METHODS.register` in a plugin (`nearl.registry`)."""

from __future__ import annotations

from nearl.methods.alta import Alta, AltaVision
from nearl.methods.base import Card, Method
from nearl.methods.bridge import Bridge
from nearl.methods.clip_adapter import ClipAdapter
from nearl.methods.coop import CoOp
from nearl.methods.frozen import Task
from nearl.methods.linear_probe import LinearProbe
from nearl.methods.lora import LoRA
from nearl.methods.maple import MaPLe
from nearl.methods.nearl.ablations import ABLATIONS
from nearl.methods.nearl.method import Nearl
from nearl.methods.prolip import ProLIP
from nearl.methods.text_probe import TextProbe
from nearl.methods.tip_adapter import TipAdapter, TipAdapterF
from nearl.methods.zero_shot import ZeroShot
from nearl.registry import Registry
from nearl.train.recipe import Recipe

METHODS: Registry[type[Method]] = Registry("method")
for method in (
    ZeroShot, LinearProbe, TextProbe, TipAdapter, TipAdapterF, ClipAdapter, CoOp, ProLIP, LoRA, Alta, AltaVision, MaPLe,
    Bridge, Nearl, *ABLATIONS,
):  # fmt: skip
    METHODS.register(method.card.name, method)


def names() -> list[str]:
    """The names of all methods, ablations last."""
    return sorted(METHODS, key=lambda name: bool(METHODS[name].card.ablates))


def card(name: str) -> Card:
    """The card of a method. NearlError for a missing name."""
    return METHODS[name].card


def title(name: str) -> str:
    """The title of a method as people read it; the name itself where no such method is registered."""
    return METHODS[name].card.title if name in METHODS else name


def recipe(name: str, **changes) -> Recipe:
    """The default recipe of a method, with changes. NearlError for a missing name or an invalid value."""
    return METHODS[name].recipe(**changes)


def make(name: str, task: Task, **options) -> Method:
    """A method, not yet fitted; ``options`` are its own settings. NearlError for a missing name, or a missing package
    that the method needs."""
    return METHODS[name](task, **options)
