"""A second tree of modules over a backbone's own tensors, which may be rebuilt while the backbone stays as it is.

Methods that put modules inside the towers (LoRA, bottleneck adapters) work on a shadow: the backbone keeps its modules,
hooks and flags and can predict meanwhile. No tensor is copied.
"""

from __future__ import annotations

import copy
from dataclasses import replace

from nearl.backbones.registry import Backbone
from nearl.backbones.towers import text_tower, vision_tower


def shadow(backbone: Backbone) -> Backbone:
    """The same model with modules of its own; parameters, buffers and the lock are shared."""
    with backbone.lock:
        tensors = {id(t): t for t in (*backbone.model.parameters(), *backbone.model.buffers())}
        model = copy.deepcopy(backbone.model, tensors)
    return replace(backbone, model=model, vision=vision_tower(model), text=text_tower(model))
