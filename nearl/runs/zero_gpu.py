"""Teaching on a ZeroGPU Space, where a process is forked for every call that needs the GPU.

The job goes in and events come out, so `call` there is `nearl.runs.job.teach` behind the Space's decorator; elsewhere
it is `teach` itself. A Space wants to see decorated functions while it starts, so the app imports this module early.
"""

from __future__ import annotations

import contextlib
import os

import torch

from nearl.errors import NearlError
from nearl.runs.folder import STARTING, RunFolder
from nearl.runs.job import teach

ON_ZERO_GPU = "SPACES_ZERO_GPU" in os.environ  # set on such Spaces
SECONDS = 120  # of GPU time to ask for; a run that needs more is ended by the Space (our choice)

if ON_ZERO_GPU:
    import spaces

    call = spaces.GPU(duration=SECONDS)(teach)
else:
    call = teach


def work(run: RunFolder) -> None:
    """Teach a run, or go on with it, until it has ended; its status says how. What `nearl.runs.process.start` does
    elsewhere, but this returns at the end. To cancel, ask the run: both processes see its folder."""
    run.wait(STARTING)
    with contextlib.suppress(NearlError):  # the sentence is in the status
        job = run.job()
        if torch.cuda.is_available():  # the job was made by a process that has none
            job.backbone["device"] = "cuda"
        for _ in run.record(call(job, None, run.snapshot(), run.cancel_requested)):
            pass
