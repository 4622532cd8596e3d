"""Visitors with labelled images, and runs of theirs, for tests of the app without a browser."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from app.engine import Engine
from app.visitor.registry import Registry
from app.visitor.workspace import Workspace
from app.work.run import RunView
from nearl.adapters.store import Adapter
from nearl.data.phantoms.kinds import phantom_set
from nearl.prompts import default_prompts
from nearl.train.recipe import Recipe
from tests.support.methods_data import teach

PATIENCE = 600  # seconds for anything at all, on a machine that has other work


def taught(engine: Engine, kind: str = "head_mri") -> Adapter:
    """An adapter as a run leaves it, in a few steps."""
    data = phantom_set(kind, 4, size=64)
    return teach(engine.backbone(), data, default_prompts(data.classes), Recipe(steps=6, batch_size=4))


def visitor(registry: Registry) -> Workspace:
    """A visitor who has brought ten images."""
    workspace = registry.get(None)
    workspace.support.keep(phantom_set("smear", 5, size=64))
    return workspace


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def ended(run: RunView) -> RunView:
    until(lambda: run.finished)
    return run


def processes(words: str) -> list[int]:
    """The ids of the processes whose command line holds these words."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if words in path.read_bytes().decode(errors="replace"):
                found.append(int(path.parent.name))
        except OSError:  # it has ended
            continue
    return found
