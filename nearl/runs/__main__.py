"""``python -m nearl.runs RUN SECONDS``: the worker process of `nearl.runs.process`.

Events go to stdout as JSON lines. It ends when its stdin does, which is when the process that started it is gone.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator

from nearl.errors import NearlError
from nearl.runs.within import settle


def main(path: str, every: float) -> int:
    """Work on the run in the folder ``path``; a snapshot every ``every`` seconds. 0, or 2 where the run failed."""
    settle()
    outward = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with the events
    logging.getLogger().setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore")
    from nearl.runs.folder import RunFolder
    from nearl.runs.job import teach

    run = RunFolder(path).load()

    def work() -> Iterator[dict]:  # whatever goes wrong in here is written down by `record`
        yield from teach(run.job(), None, run.snapshot(), run.cancel_requested, every)

    try:
        for event in run.record(work()):
            print(json.dumps(event), file=outward, flush=True)
    except NearlError:
        return 2  # the run's status has the sentence
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
