"""Runs: what is to be taught as plain data, a folder on disk for each run, and a process of its own to do it in.

Names are imported when they are first used, so that `nearl.runs.status` is there before torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nearl.runs.folder import RunFolder
    from nearl.runs.job import Job, Outcome, make_job, teach
    from nearl.runs.process import Worker, start
    from nearl.runs.status import Status

_HOME = {
    "RunFolder": "folder", "Job": "job", "Outcome": "job", "make_job": "job", "teach": "job", "Worker": "process",
    "start": "process", "Status": "status",
}  # fmt: skip

__all__ = ["Job", "Outcome", "RunFolder", "Status", "Worker", "make_job", "start", "teach"]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
