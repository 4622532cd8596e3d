"""The processes of `nearl.runs.process`. All end when their stdin does: then the process that started them is gone.

``python -m nearl.runs RUN SECONDS`` works on the run in the folder RUN, with a snapshot every so many seconds, and
reports through that folder. ``python -m nearl.runs`` is a host (`nearl.runs.host`): each line on its stdin names a run,
for which it forks a worker; it answers with the worker's number and, at its end, the exit code.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import select
import sys
import threading
import warnings

from nearl.errors import NearlError


def main(path: str, every: float) -> int:
    """Work on the run in the folder ``path``, with a snapshot every ``every`` seconds. Returns 0, or 2 if it failed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _prepare()
    return _work(path, every)


def host() -> int:
    """Fork a worker for every run that is asked for, until stdin ends or nothing was asked for long. Returns 0, in a
    worker what `main` returns."""
    _prepare()
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more
        while line := _order():
            if not (worker := os.fork()):
                with open(os.devnull, "wb") as nowhere:
                    os.dup2(nowhere.fileno(), 1)
                threading.Thread(target=_end_with_parent, daemon=True).start()
                order = json.loads(line)
                return _work(order["path"], order["every"])
            _say(worker)
            _say(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))
    return 0


def _prepare() -> None:
    """Leave the processor to the page, silence libraries, and import what a run needs."""
    if hasattr(os, "nice"):
        os.nice(5)
    logging.getLogger().setLevel(logging.CRITICAL)  # of libraries
    logging.getLogger("nearl").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    import nearl.runs.teaching  # noqa: F401

    gc.freeze()  # what is imported stays; the collections before each part of the run need not go through it


def _work(path: str, every: float) -> int:
    from nearl.runs.folder import RunFolder
    from nearl.runs.teaching import perform

    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # the system takes this process first where memory runs out
    run = RunFolder(path).load()

    def events():  # any failure in here is recorded
        yield from perform(run.job(), run.todo(), run.snapshot(), run.cancel_requested, every)

    try:
        for _ in run.record(events()):
            pass
    except NearlError:
        return 2  # the run's status has the sentence
    return 0


def _order() -> bytes:
    """The next line on stdin; empty at its end, or when none came for a long time."""
    from nearl.runs.host import IDLE_SECONDS

    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([0], [], [], IDLE_SECONDS)
        part = os.read(0, 4096) if ready else b""
        if not part:
            return b""
        line += part
    return line


def _say(number: int) -> None:
    os.write(1, b"%d\n" % number)


def _end_with_parent() -> None:
    while os.read(0, 1024):
        pass
    os._exit(3)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])) if sys.argv[1:] else host())
