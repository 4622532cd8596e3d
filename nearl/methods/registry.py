"""All methods by name, NEARL's ablations among them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from nearl.backbones import Backbone
from nearl.classifier import build
from nearl.errors import NearlError
from nearl.methods.alta import Alta
from nearl.methods.base import Card, Method
from nearl.methods.clip_adapter import ClipAdapter
from nearl.methods.coop import CoOp
from nearl.methods.frozen import Task
from nearl.methods.linear_probe import LinearProbe
from nearl.methods.lora import LoRA
from nearl.methods.nearl_clip import Nearl
from nearl.methods.prolip import ProLIP
from nearl.methods.text_probe import TextProbe
from nearl.methods.tip_adapter import TipAdapter, TipAdapterF
from nearl.methods.zero_shot import ZeroShot
from nearl.prompts import PromptSet
from nearl.store import Adapter

METHODS: dict[str, type[Method]] = {
    method.card.name: method
    for method in (
        ZeroShot, LinearProbe, TextProbe, TipAdapter, TipAdapterF, ClipAdapter, CoOp, ProLIP, LoRA, Alta, Nearl,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Ablation:
    """NEARL without one of its parts: the question it answers, and the changes to ``NearlConfig``."""

    title: str
    idea: str
    changes: dict


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
    _check(name)
    base, _, ablation = name.partition(":")
    if not ablation:
        return METHODS[base].card
    found = ABLATIONS[ablation]
    return replace(METHODS[base].card, name=name, title=found.title, idea=found.idea)


def make(name: str, task: Task) -> Method:
    """A method, not yet fitted. NearlError for a name that is not there, or where it needs what is not installed."""
    _check(name)
    base, _, ablation = name.partition(":")
    return METHODS[base](task, **(ABLATIONS[ablation].changes if ablation else {}))


def restore(backbone: Backbone, adapter: Adapter) -> Method:
    """The fitted method of an adapter, ready to predict. NearlError if it does not fit the backbone or is damaged."""
    adapter.check_backbone(backbone.identity)
    name = adapter.meta["method"]
    _check(name)
    base = name.partition(":")[0]
    if base == "nearl":
        with torch.random.fork_rng():
            build(backbone, adapter)  # refuses what does not fit before anything of its size is made
    try:
        options = adapter.config if base == "nearl" else _options(adapter)
        method = METHODS[base](Task(backbone, PromptSet.from_dict(adapter.meta["prompts"])), **options)
        method.restore(adapter)
    except NearlError:
        raise
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError, RuntimeError) as error:
        raise NearlError("The adapter's tensors do not fit its own configuration; teach it anew.") from error
    return method


def _options(adapter: Adapter) -> dict[str, float]:
    """The options in an adapter, which may come from anybody: numbers no larger than its own tensors are long."""
    options = adapter.config["options"]
    longest = max((size for tensor in adapter.state.values() for size in tensor.shape), default=0)
    if any(isinstance(v, bool) or not 0 <= v <= max(longest, 16) for v in options.values()):
        raise ValueError("an option that does not fit")
    return options


def _check(name: str) -> None:
    base, _, ablation = name.partition(":")
    if name not in METHODS and (base != "nearl" or ablation not in ABLATIONS):
        raise NearlError(f"There is no method called '{name}'; choose among {', '.join(names())}.")
