"""Runs: methods x seeds on one labelled set, in a folder on disk, by a worker process.

Teaching is the run with one method and one seed; a comparison has more of either. Names are imported when they are
first used, so that `nearl.runs.status` is there before torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nearl.runs.folder import Outcome, RunFolder
    from nearl.runs.job import Job, make_job
    from nearl.runs.process import Worker, start, work
    from nearl.runs.status import Status
    from nearl.runs.table import difference, scores
    from nearl.runs.teaching import Finished, Step, perform

ZERO_GPU = "SPACES_ZERO_GPU"  # set in the environment of such a Space

_MODULES = {
    "folder": ("Outcome", "RunFolder"),
    "job": ("Job", "make_job"),
    "teaching": ("Finished", "Step", "perform"),
    "process": ("Worker", "start", "work"),
    "table": ("difference", "scores"),
    "status": ("Status",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Finished", "Job", "Outcome", "RunFolder", "Status", "Step", "Worker", "difference", "make_job", "perform",
    "scores", "start", "work",
]  # fmt: skip


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
