"""What the page needs of a run's folder and of the process that works on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from app.visitor.disk import read_json
from nearl.errors import NearlError
from nearl.runs.status import CANCELLED

POLL_SECONDS = 0.3


def folder_of(path: Path, several: bool):
    """The folder of a run of `several` methods, or of one."""
    if several:
        from nearl.runs.comparison import ComparisonFolder

        return ComparisonFolder(path)
    from nearl.runs import RunFolder

    return RunFolder(path)


def rows_done(folder) -> int:
    return len(getattr(folder, "rows", ()))


def results(folder) -> dict | None:
    return read_json(folder.path / "results.json").get("results")


def predictions(folder) -> list[dict] | None:
    return read_json(folder.path / "predictions.json").get("rows")


def work(folder, give_way: Callable[[], bool]) -> bool:
    """Do it until it has ended, or until `give_way` says so between two methods; then True."""
    from nearl.runs import comparison, process, zero_gpu

    if isinstance(folder, comparison.ComparisonFolder):
        if comparison.ON_ZERO_GPU:
            comparison.work_on_zero_gpu(folder)
            return False
        return comparison.work(folder, give_way)
    if zero_gpu.ON_ZERO_GPU:
        zero_gpu.work(folder)
        return False
    try:
        worker = process.start(folder)
    except NearlError:
        if folder.look().state != CANCELLED:  # in the moment before
            raise
        return False
    try:
        while worker.poll():
            time.sleep(POLL_SECONDS)
    finally:
        worker.kill()
    return False
