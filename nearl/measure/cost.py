"""What a piece of work costs: its peak memory."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Within ``with``, the most memory beyond what was in use before, MiB in ``mb`` afterwards.

    On a GPU that of torch's allocator; on Linux the process's resident memory, after memory that was freed earlier has
    been handed back; elsewhere None.
    """

    def __init__(self, device: torch.device):
        self.device, self.mb = device, None

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device) / 2**20
        else:
            try:
                ctypes.CDLL(None).malloc_trim(0)
                RESET.write_text("5")  # the peak begins anew
                self._before = _status("VmRSS")
            except (OSError, AttributeError, TypeError):
                self._before = None
        return self

    def __exit__(self, *error) -> None:
        self.mb = self.so_far()

    def so_far(self) -> float | None:
        """The peak until now, MiB."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20 - self._before
        return None if self._before is None else max(_status("VmHWM") - self._before, 0.0)


def _status(name: str) -> float:
    """One line of Linux's account of this process, MiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024
