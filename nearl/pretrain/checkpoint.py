"""Checkpoints to resume interrupted training from: one safetensors file, no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer

from nearl.errors import NearlError


def save_checkpoint(
    path: Path, modules: dict[str, nn.Module], optimizer: Optimizer, identity: dict, about: dict[str, Any]
) -> None:
    """Write the state of modules and optimiser, atomically.

    ``identity`` (which run it belongs to) and ``about`` (how far it is) must be JSON.
    """
    tensors = {
        f"{part}.{name}": value for part, module in modules.items() for name, value in module.state_dict().items()
    }
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    partial = path.with_suffix(".partial")
    metadata = {"identity": json.dumps(identity), "about": json.dumps(about)}
    save_file({name: value.contiguous() for name, value in tensors.items()}, partial, metadata)
    partial.replace(path)


def load_checkpoint(path: Path, modules: dict[str, nn.Module], optimizer: Optimizer, identity: dict) -> dict[str, Any]:
    """Restore what ``save_checkpoint`` wrote and return its ``about``.

    Raises NearlError if the file is damaged or belongs to another run than ``identity``.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        saved_identity, about = json.loads(metadata["identity"]), json.loads(metadata["about"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise NearlError(f"The checkpoint {path.name} is damaged; delete it to start again.") from error
    if saved_identity != json.loads(json.dumps(identity)):
        raise NearlError(
            f"The checkpoint in {path.parent} belongs to another pretraining config; choose another folder."
        )
    for part, module in modules.items():
        own = {name: tensors[f"{part}.{name}"] for name in module.state_dict()}
        module.load_state_dict(own)
    state: dict[int, dict] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    return about
