"""From an adapter, which may come from anybody, to a method; sizes are checked before anything is allocated."""

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
from nearl.methods.registry import METHODS
from nearl.prompts import PromptSet

DAMAGED = (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RuntimeError)
META = torch.device("meta")  # sizes without memory


def restore(backbone: Backbone, adapter: Adapter, frozen: Frozen | None = None) -> Method:
    """The fitted method of an adapter, in eval mode with nothing to train, asked about the classes it was taught.

    ``frozen``: features that are kept already. Raises NearlError for an adapter of another backbone or of a method that
    is not registered, for tensors that do not fit the adapter's own configuration (found before anything of that size
    is allocated), and where the method needs a package that is not installed.
    """
    adapter.check_backbone(backbone.identity)
    name = adapter.meta["method"]
    if name not in METHODS:
        raise NearlError(
            f"This adapter is of the method '{name:.40}', which is not known here; use another adapter, or load the "
            "plugin with that method."
        )
    kind = METHODS[name]
    try:
        prompt_set = PromptSet.from_dict(adapter.meta["prompts"])
        settings = kind.settings(adapter)
        with torch.random.fork_rng(), META:
            sketch = kind(Task(replace(backbone, device=META), prompt_set), **settings)
            sketch.make_room(adapter.state)
        _compare(sketch.learned.state_dict(), adapter.state)
        method = kind(Task(backbone, prompt_set, None, frozen), **settings)
        method.counts = adapter.meta["support_counts"]
        method.restore(adapter)
    except NearlError:
        raise
    except DAMAGED as error:
        raise NearlError(
            "The adapter's tensors do not fit the configuration in its adapter.json, so it cannot be used; "
            "ask for the file again or teach it again."
        ) from error
    return method.eval().requires_grad_(False)


def _compare(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in given.items()}:
        raise RuntimeError("other tensors")
