"""NEARL-CLIP on frozen open_clip models. For teaching and research. Not for diagnosis.

The names in ``__all__`` are the public API. Each is imported from its module when it is first used, so that
``import nearl`` and ``nearl --help`` do not wait for torch.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nearl.adapters.store import load_adapter, save_adapter
    from nearl.backbones import load_backbone
    from nearl.data.images import decode as load_images
    from nearl.data.phantoms.kinds import write_phantom_folder
    from nearl.data.sets.labelled import resolve_splits as load_set
    from nearl.data.splits import draw_support
    from nearl.errors import NearlError
    from nearl.explain import MAPS, heatmaps, overlay
    from nearl.measure.evaluate import measure as evaluate
    from nearl.methods import METHODS, Task, make, restore
    from nearl.prompts import PromptSet, default_prompts, ready_sets
    from nearl.reading.classifier import Classifier
    from nearl.train.recipe import Recipe

# Read when torch loads. By default its waiting threads spin, and on a busy machine with few cores that makes one image
# take seconds instead of milliseconds.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")  # what a Mac's GPU cannot do yet, its CPU does

__version__ = "0.1.0"
NOTICE = "For teaching and research. Not for diagnosis."

__all__ = [
    "MAPS", "METHODS", "NOTICE", "Classifier", "NearlError", "PromptSet", "Recipe", "Task",
    "default_prompts", "draw_support", "evaluate", "heatmaps", "load_adapter", "load_backbone", "load_images",
    "load_set", "make", "overlay", "ready_sets", "restore", "save_adapter", "write_phantom_folder",
]  # fmt: skip

_HOMES = {
    "MAPS": "nearl.explain:MAPS",
    "METHODS": "nearl.methods:METHODS",
    "Classifier": "nearl.reading.classifier:Classifier",
    "NearlError": "nearl.errors:NearlError",
    "PromptSet": "nearl.prompts:PromptSet",
    "Recipe": "nearl.train.recipe:Recipe",
    "Task": "nearl.methods:Task",
    "default_prompts": "nearl.prompts:default_prompts",
    "draw_support": "nearl.data.splits:draw_support",
    "evaluate": "nearl.measure.evaluate:measure",
    "heatmaps": "nearl.explain:heatmaps",
    "load_adapter": "nearl.adapters.store:load_adapter",
    "load_backbone": "nearl.backbones:load_backbone",
    "load_images": "nearl.data.images:decode",
    "load_set": "nearl.data.sets.labelled:resolve_splits",
    "make": "nearl.methods:make",
    "overlay": "nearl.explain:overlay",
    "ready_sets": "nearl.prompts:ready_sets",
    "restore": "nearl.methods:restore",
    "save_adapter": "nearl.adapters.store:save_adapter",
    "write_phantom_folder": "nearl.data.phantoms.kinds:write_phantom_folder",
}


def __getattr__(name: str) -> object:
    """A public name, from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'nearl' has no attribute '{name}'")
    module, _, attribute = _HOMES[name].partition(":")
    value = globals()[name] = getattr(importlib.import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
