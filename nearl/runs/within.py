"""What a worker process does first."""

from __future__ import annotations

import contextlib
import os
import threading


def settle() -> None:
    """End when the process that started this one is gone, and let the page come first.

    The page has the processor, and the system takes this process where memory runs out.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(5)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(3)
