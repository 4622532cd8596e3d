"""Time spent in the phases of a training step."""

from __future__ import annotations

import time

import torch


class Clock:
    """``seconds`` spent in named phases: ``with clock("forward"): ...``. Waits for a GPU, so that its work counts
    where it was started. Phases do not nest."""

    def __init__(self, device: torch.device):
        self.seconds: dict[str, float] = {}
        self._device = device
        self._phase, self._began = "", 0.0

    def __call__(self, phase: str) -> Clock:
        self._phase = phase
        return self

    def __enter__(self) -> None:
        self._began = self._now()

    def __exit__(self, *_) -> None:
        self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + self._now() - self._began

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
