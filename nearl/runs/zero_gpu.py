"""`call`: `nearl.runs.job.teach` on a ZeroGPU Space, where a process is forked for every call that needs the GPU.

The job goes in and events come out; elsewhere `call` is `teach` itself. A Space wants to see the decorated function
while it starts, so the app imports this module early. To cancel, give a ``stop`` that can be pickled and looks at what
both processes see, as `nearl.runs.folder.RunFolder.cancel_requested` does.
"""

from __future__ import annotations

import os

from nearl.runs.job import teach

SECONDS = 120  # of GPU time to ask for: a balanced run of a small backbone takes a fraction of it (our choice)


if "SPACES_ZERO_GPU" in os.environ:
    import spaces

    call = spaces.GPU(duration=SECONDS)(teach)
else:
    call = teach
