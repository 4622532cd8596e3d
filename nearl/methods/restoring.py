"""From an adapter, which may come from anybody, back to what was taught; sizes are checked before any is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from nearl.adapters.store import Adapter
from nearl.backbones import Backbone
from nearl.errors import NearlError
from nearl.methods.base import Method
from nearl.methods.frozen import Frozen, Task
from nearl.methods.nearl.network import NearlCLIP, NearlConfig
from nearl.methods.registry import METHODS, check_name
from nearl.prompts import PromptSet

DAMAGED = (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RuntimeError)
META = torch.device("meta")  # sizes without memory


def is_nearl(adapter: Adapter) -> bool:
    """Whether it is NEARL's, or that of one of its ablations (``nearl:...``)."""
    return adapter.meta["method"].partition(":")[0] == "nearl"


def build(backbone: Backbone, adapter: Adapter) -> NearlCLIP:
    """The model of a NEARL adapter, in eval mode with nothing to train.

    Raises NearlError if the adapter belongs to another backbone or method, or its tensors do not fit its own
    configuration; that is found out before anything is allocated.
    """
    adapter.check_backbone(backbone.identity)
    if not is_nearl(adapter):
        raise NearlError(f"This adapter was taught with the method '{adapter.meta['method']:.40}', not with NEARL.")
    try:
        config = NearlConfig(**adapter.config)
        if config.blocks > len(adapter.state):
            raise RuntimeError("more blocks than tensors")
        with torch.random.fork_rng():
            with META:
                sketch = NearlCLIP(replace(backbone, device=META), config)
            _compare(sketch.state_dict(), adapter.state)
            model = NearlCLIP(backbone, config)
        model.load_state_dict(adapter.state, strict=True)
    except NearlError:
        raise
    except DAMAGED as error:
        raise NearlError(
            "The adapter's tensors do not fit the configuration in its adapter.json, so it cannot be used; "
            "ask for the file again or teach it anew."
        ) from error
    return model.eval().requires_grad_(False)


def restore(backbone: Backbone, adapter: Adapter, frozen: Frozen | None = None) -> Method:
    """The fitted method of an adapter, in eval mode with nothing to train, asked about the classes it was taught.

    ``frozen``: features that are kept already. Raises NearlError as ``build`` does, for a method that is not there, and
    where it needs what is not installed.
    """
    adapter.check_backbone(backbone.identity)
    name = adapter.meta["method"]
    check_name(name)
    kind = METHODS[name.partition(":")[0]]
    if is_nearl(adapter):
        build(backbone, adapter)
    try:
        prompt_set = PromptSet.from_dict(adapter.meta["prompts"])
        options = adapter.config if is_nearl(adapter) else _options(adapter)
        if not is_nearl(adapter):
            with torch.random.fork_rng(), META:
                sketch = kind(Task(replace(backbone, device=META), prompt_set), **options)
                sketch.make_room(adapter.state)
            _compare(sketch.state_dict(), adapter.state)
        method = kind(Task(backbone, prompt_set, None, frozen), **options)
        method.restore(adapter)
    except NearlError:
        raise
    except DAMAGED as error:
        raise NearlError("The adapter's tensors do not fit its own configuration; teach it anew.") from error
    return method.eval().requires_grad_(False)


def _options(adapter: Adapter) -> dict[str, float]:
    """The options in an adapter: numbers no larger than its own tensors are long."""
    options = adapter.config["options"]
    longest = max((size for tensor in adapter.state.values() for size in tensor.shape), default=0)
    if any(isinstance(v, bool) or not 0 <= v <= max(longest, 16) for v in options.values()):
        raise ValueError("an option that does not fit")
    return options


def _compare(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in given.items()}:
        raise RuntimeError("other tensors")
