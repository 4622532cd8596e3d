"""One visitor's images, prompts, adapter and teaching run; all visitors' workspaces, their expiry and clean-up.

The page holds only an opaque id. Whoever comes with an unknown or expired id gets a new, empty workspace.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nearl.data.images import ImageRecord, Problem
from nearl.prompts import PromptSet

if TYPE_CHECKING:
    from app.jobs import TeachJob
    from nearl.classifier import Classifier, Prediction
    from nearl.data.labelled import LabelledSet
    from nearl.explain import Heatmap
    from nearl.store import Adapter
    from nearl.volumes import VolumeReading

IDLE_SECONDS = 3600.0
GRACE_SECONDS = 600.0  # after the page was closed; a reload may come back within it
MAX_WORKSPACES = 32
SWEEP_SECONDS = 60.0


@dataclass
class Workspace:
    """What one visitor has brought and made. `lock` is held while one of the fields is being replaced."""

    id: str
    records: list[ImageRecord] = field(default_factory=list)
    synthetic: bool = False
    problems: list[Problem] = field(default_factory=list)
    selected: int = 0
    adapter: Adapter | None = None
    adapter_name: str = ""
    classifier: Classifier | None = None
    prediction: Prediction | None = None
    prompt_set: PromptSet | None = None
    heatmaps: dict[tuple, Heatmap] = field(default_factory=dict)
    volume: tuple[tuple, VolumeReading] | None = None  # of the scan on show, and what it depends on
    teaching_set: LabelledSet | None = None
    held_out: LabelledSet | None = None
    job: TeachJob | None = None
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    touched: float = field(default_factory=time.monotonic)
    closed_at: float | None = None
    _folder: Path | None = None

    @property
    def folder(self) -> Path:
        """A private folder for files to download, removed with the workspace."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="nearl-workspace-"))
        return self._folder

    @property
    def busy(self) -> bool:
        return self.job is not None and not self.job.finished

    def set_images(self, records: list[ImageRecord], problems: list[Problem], synthetic: bool) -> None:
        """Replace the images; what was read from the earlier ones goes with them."""
        with self.lock:
            self.records, self.problems, self.synthetic, self.selected = records, problems, synthetic, 0
            self.prediction = self.volume = None
            self.heatmaps.clear()

    def set_adapter(self, adapter: Adapter | None, name: str) -> None:
        """Use an adapter from now on; readings and maps made without it are dropped."""
        with self.lock:
            self.adapter, self.adapter_name = adapter, name
            self.classifier = self.prediction = None
            self.heatmaps.clear()

    def expired(self, now: float) -> bool:
        if self.busy:
            return False
        if self.closed_at is not None and now - self.closed_at > GRACE_SECONDS:
            return True
        return now - self.touched > IDLE_SECONDS

    def close(self) -> None:
        if self.job is not None:
            self.job.cancel()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class Registry:
    """All workspaces by id. `clock` is time.monotonic unless a test brings its own."""

    def __init__(self, limit: int = MAX_WORKSPACES, clock: Callable[[], float] = time.monotonic):
        self._limit, self._clock = limit, clock
        self._all: dict[str, Workspace] = {}
        self._guard = threading.Lock()

    def __len__(self) -> int:
        return len(self._all)

    def get(self, key: str | None) -> Workspace:
        """The workspace of that id, or a new one with a new id if there is none."""
        self.sweep()
        now = self._clock()
        with self._guard:
            workspace = self._all.get(key) if isinstance(key, str) else None
            if workspace is None:
                workspace = Workspace(secrets.token_urlsafe(24))
                self._all[workspace.id] = workspace
            workspace.touched, workspace.closed_at = now, None
            return workspace

    def leave(self, key: str | None) -> None:
        """The page was closed: forget the workspace after a grace period, or when its teaching is finished."""
        with self._guard:
            workspace = self._all.get(key) if isinstance(key, str) else None
            if workspace is not None:
                workspace.closed_at = self._clock()

    def sweep_regularly(self) -> None:
        """Sweep every minute from now on, so that images are forgotten even if nobody else comes."""

        def forever() -> None:
            while True:
                time.sleep(SWEEP_SECONDS)
                self.sweep()

        threading.Thread(target=forever, name="sweep", daemon=True).start()

    def sweep(self) -> None:
        """Drop what has expired and, beyond the limit, what was untouched the longest (never one that is teaching)."""
        now = self._clock()
        with self._guard:
            gone = [w for w in self._all.values() if w.expired(now)]
            idle = sorted((w for w in self._all.values() if not w.busy and w not in gone), key=lambda w: w.touched)
            gone += idle[: max(0, len(self._all) - len(gone) - self._limit + 1)]
            for workspace in gone:
                del self._all[workspace.id]
        for workspace in gone:
            workspace.close()
