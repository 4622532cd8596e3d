"""``python -m nearl.runs RUN SECONDS``: the worker process of `nearl.runs.process`.

It reports through the run's folder, and ends when its stdin does: then the process that started it is gone.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import threading
import warnings

from nearl.errors import NearlError


def main(path: str, every: float) -> int:
    """Work on the run in the folder ``path``, with a snapshot every ``every`` seconds. Returns 0, or 2 if it failed."""
    _settle()
    logging.getLogger().setLevel(logging.CRITICAL)  # of libraries
    logging.getLogger("nearl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    from nearl.runs.folder import RunFolder
    from nearl.runs.teaching import perform

    gc.freeze()  # what is imported stays; the collections before each part of the run need not go through it
    run = RunFolder(path).load()

    def events():  # any failure in here is recorded
        yield from perform(run.job(), run.todo(), run.snapshot(), run.cancel_requested, every)

    try:
        for _ in run.record(events()):
            pass
    except NearlError:
        return 2  # the run's status has the sentence
    return 0


def _settle() -> None:
    """End with the process that started this one; leave the processor to the page, and let the system take this
    process first where memory runs out."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(5)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(3)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
