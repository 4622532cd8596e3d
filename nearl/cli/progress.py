"""Progress on stderr."""

from __future__ import annotations

import sys

from nearl.cli.options import log


class Bar:
    """A bar on a terminal, else about ten lines a phase. A context manager."""

    def __init__(self):
        self.bar = self.phase = None

    def __enter__(self):
        return self

    def move(self, phase: str, done: int, total: int, what: str = "", left: str = "") -> None:
        """Show how much of a phase is done. ``what``: more about it; ``left``: the time that it takes yet."""
        if sys.stderr.isatty():
            self._draw(phase, done, total, what)
        elif done % max(total // 10, 1) == 0 or done == total:
            log("  ".join(filter(None, (f"{phase} {done}/{total}", what, left))))

    def _draw(self, phase: str, done: int, total: int, what: str) -> None:
        from tqdm import tqdm

        if phase != self.phase:
            self.__exit__()
            self.bar, self.phase = tqdm(total=total, desc=phase, file=sys.stderr), phase
        self.bar.update(done - self.bar.n)
        self.bar.set_postfix_str(what)

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.close()
