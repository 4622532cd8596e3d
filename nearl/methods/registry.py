"""All methods by name, NEARL's ablations among them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from nearl.errors import NearlError
from nearl.methods.alta import Alta
from nearl.methods.base import Card, Method
from nearl.methods.clip_adapter import ClipAdapter
from nearl.methods.coop import CoOp
from nearl.methods.frozen import Task
from nearl.methods.linear_probe import LinearProbe
from nearl.methods.lora import LoRA
from nearl.methods.maple import MaPLe
from nearl.methods.nearl.finetune import Recipe
from nearl.methods.nearl.method import Nearl
from nearl.methods.prolip import ProLIP
from nearl.methods.text_probe import TextProbe
from nearl.methods.tip_adapter import TipAdapter, TipAdapterF
from nearl.methods.zero_shot import ZeroShot

METHODS: dict[str, type[Method]] = {
    method.card.name: method
    for method in (
        ZeroShot, LinearProbe, TextProbe, TipAdapter, TipAdapterF, ClipAdapter, CoOp, ProLIP, LoRA, Alta, MaPLe,
        Nearl,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Ablation:
    """NEARL without one of its parts: the question it answers, and the changes to ``NearlConfig`` and ``Recipe``."""

    title: str
    idea: str
    changes: dict
    recipe: dict = field(default_factory=dict)


ABLATIONS: dict[str, Ablation] = {
    "no-orthogonality": Ablation(
        "NEARL, whole update",
        "The adapters add their whole update. The difference to NEARL is what taking out the parallel part buys.",
        {"orthogonal": False},
    ),
    "static-queries": Ablation(
        "NEARL, static queries",
        "Queries learned for each depth stand in the USEformer's place and read neither image nor words. The "
        "difference to NEARL is what the exchange between the towers buys.",
        {"synergy": "static"},
    ),
    "vision-only": Ablation(
        "NEARL, image side",
        "Only the image tower is adapted. The words are the frozen model's.",
        {"text_layers": ()},
    ),
    "text-only": Ablation(
        "NEARL, text side",
        "Only the text tower is adapted. The image features are the frozen model's.",
        {"vision_layers": ()},
    ),
    "no-anchor": Ablation(
        "NEARL, not held back",
        "Nothing pulls the adapted model towards what the frozen one says. The difference to NEARL is what that pull "
        "buys.",
        {},
        {"pull": 0.0},
    ),
    "image-context": Ablation(
        "NEARL, words by image",
        "Every image conditions the words anew, as the paper draws it. This costs a pass of the text tower for every "
        "image and prompt.",
        {"text_context": "image"},
    ),
}


def names() -> list[str]:
    """Every method's name, ablations as ``nearl:<ablation>``."""
    return [*METHODS, *(f"nearl:{name}" for name in ABLATIONS)]


def card(name: str) -> Card:
    """The card of a method or ablation. NearlError for a name that is not there."""
    check_name(name)
    base, _, ablation = name.partition(":")
    if not ablation:
        return METHODS[base].card
    found = ABLATIONS[ablation]
    return replace(METHODS[base].card, name=name, title=found.title, idea=found.idea)


def recipe(name: str, **changes) -> Recipe:
    """The default recipe of a method or ablation, with changes. NearlError for a name or value that is not there."""
    check_name(name)
    base, _, ablation = name.partition(":")
    return METHODS[base].recipe(**{**(ABLATIONS[ablation].recipe if ablation else {}), **changes})


def make(name: str, task: Task) -> Method:
    """A method, not yet fitted. NearlError for a name that is not there, or where it needs what is not installed."""
    check_name(name)
    base, _, ablation = name.partition(":")
    return METHODS[base](task, **(ABLATIONS[ablation].changes if ablation else {}))


def check_name(name: str) -> None:
    """Raises NearlError for a name that is not there."""
    base, _, ablation = name.partition(":")
    if name not in METHODS and (base != "nearl" or ablation not in ABLATIONS):
        raise NearlError(f"There is no method called '{name:.40}'; choose among {', '.join(names())}.")
