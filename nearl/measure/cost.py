"""The peak memory of a piece of work."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """The most memory in use since this was made, beyond what was in use before.

    On a GPU that of torch's allocator; on Linux the process's resident memory, after memory that was freed earlier has
    been handed back; elsewhere unknown.
    """

    def __init__(self, device: torch.device):
        self.device, self._before = device, None
        gc.collect()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._before = torch.cuda.memory_allocated(device) / 2**20
        else:
            with contextlib.suppress(OSError, AttributeError, TypeError):
                ctypes.CDLL(None).malloc_trim(0)
                RESET.write_text("5")  # resets the peak
                self._before = _status("VmRSS")

    def so_far(self) -> float | None:
        """The peak until now, MiB, or None where it is not known."""
        if self._before is None:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20 - self._before
        return max(_status("VmHWM") - self._before, 0.0)


def _status(name: str) -> float:
    """One line of Linux's record of this process, MiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024
