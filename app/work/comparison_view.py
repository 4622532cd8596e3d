"""A comparison of methods as the page sees it: one more kind of long work in the queue of `app.work.queue`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from app.work.queue import CANCELLED, DONE, FAILED, TEACHING, View

if TYPE_CHECKING:
    from nearl.runs.comparison import ComparisonFolder


class ComparisonView(View):
    """What `nearl.runs.comparison` writes into its folder, a row for every method that is finished."""

    kind, home, kept = "comparison", "comparisons", 1
    folder: ComparisonFolder

    @staticmethod
    def open(path: Path) -> ComparisonFolder:
        from nearl.runs.comparison import ComparisonFolder

        return ComparisonFolder(path)

    def work(self) -> bool:
        """As of any run; after each method, others that wait have their turn first."""
        from nearl.runs import comparison

        rows = len(self.folder.rows)
        if self.notes.get("rows") != rows:  # it got on since it was last started
            self.note(rows=rows, starts=0)
        self.count_start()
        if comparison.ON_ZERO_GPU:
            comparison.work_on_zero_gpu(self.folder)
            return False
        return comparison.work(self.folder, lambda: self.queue.others_wait)

    @property
    def state(self) -> str:
        """As of any run; while the queue is at it, a process that has died may be followed by another."""
        state = super().state
        going_on = self.queue is not None and self.queue.running is self
        return TEACHING if going_on and state in (DONE, CANCELLED, FAILED) else state

    @property
    def at_work(self) -> str:
        """The method that is being taught, or ""."""
        return self._status.get("method", "")

    @property
    def mark(self) -> tuple:
        return *super().mark, self.at_work, len(self.folder.rows)
