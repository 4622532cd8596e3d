"""One visitor's images, prompts, adapters and teaching run; all visitors' workspaces, their expiry and clean-up.

The page holds only an opaque id. Whoever comes with an unknown or expired id gets a new, empty workspace. Labelled
images, runs and adapters are on disk and outlive the server; what is being read in Predict is in memory alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from app.visitor import kept_set, uploads
from app.visitor.disk import Root, folder_bytes, folder_name, made_here, read_json, remove_old_uploads, write_json
from nearl.data.images import ImageRecord, Problem
from nearl.errors import NearlError
from nearl.prompts import PromptSet

if TYPE_CHECKING:
    from app.work.comparison_view import ComparisonView
    from app.work.queue import RunView
    from nearl.adapters.store import Adapter
    from nearl.data.checks import SetCheck
    from nearl.data.sets.labelled import LabelledSet
    from nearl.explain import Heatmap
    from nearl.reading.classifier import Classifier, Prediction
    from nearl.reading.volumes import VolumeReading

IDLE_SECONDS = 3600.0  # in memory
GRACE_SECONDS = 600.0  # in memory after the page was closed; a reload may come back within it
KEEP_SECONDS = 24 * 3600.0  # on disk, since it was last used
UPLOAD_SECONDS = 3600.0  # of files that were uploaded but never read, and of downloads
MAX_WORKSPACES = 32  # in memory
MAX_ON_DISK = 512
MAX_ISSUED = 4096  # ids remembered
MAX_BYTES = 2**30  # of one workspace on disk
MIN_FREE = 2**30  # bytes to leave on the disk
SWEEP_SECONDS = 60.0
KEY = re.compile(r"[A-Za-z0-9_-]{43}")


class Workspace:
    """What one visitor has brought and made. `lock` is held while one of the attributes is being replaced.

    `path` is its folder on disk, made when first written to. `id` is None for one that a restarted server found there
    and whose visitor has not come back yet.
    """

    def __init__(self, key: str | None, path: Path, now: float = 0.0):
        self.id, self.path, self.touched = key, path, now
        self._downloads = uploads.root() / f"out-{secrets.token_hex(16)}"
        self.closed_at: float | None = None
        self.lock = threading.RLock()
        self.records: list[ImageRecord] = []
        self.synthetic = False
        self.returning = False  # a page has been opened to which the images are still to be shown
        self.problems: list[Problem] = []
        self.selected = 0
        self.classifier: Classifier | None = None
        self.prediction: Prediction | None = None
        self.closer: list[list[str]] = []  # ready sets whose words are closer to an image than those that were asked
        self.heatmaps: dict[tuple, Heatmap] = {}
        self.maps_asked: object = None  # stands for what the Explain tab was asked for last
        self.volume: tuple[tuple, VolumeReading] | None = None  # of the scan on show, and what it depends on
        self.teaching_problems: list[Problem] = []
        self.names: dict[str, str] = {}  # digest -> the visitor's own name of that image, never written to disk
        self.run: RunView | None = None
        self.comparison: ComparisonView | None = None
        self.checked: SetCheck | None = None  # of the images to teach with, once asked for
        self._prompt_set: PromptSet | None = None
        self._adapter: Adapter | None = None
        self._adapter_read = False
        self._sets: tuple[LabelledSet | None, LabelledSet | None] | None = None

    @property
    def folder(self) -> Path:
        """A new folder for a file to download, where Gradio serves it to whoever knows the folder's name: whoever is
        given one address cannot make up another. Removed after an hour, or with the workspace."""
        folder = self._downloads / secrets.token_hex(16)
        folder.mkdir(parents=True, mode=0o700)
        return folder

    @property
    def busy(self) -> bool:
        return any(work is not None and not work.finished for work in (self.run, self.comparison))

    # ---- images to read

    def set_images(self, records: list[ImageRecord], problems: list[Problem], synthetic: bool) -> None:
        """Replace the images; what was read from the earlier ones goes with them."""
        with self.lock:
            self.records, self.problems, self.synthetic, self.selected = records, problems, synthetic, 0
            self.returning = False
            self.prediction = self.volume = None
            self.heatmaps.clear()

    # ---- images to teach with

    @property
    def teaching_set(self) -> LabelledSet | None:
        return self._read_sets()[0]

    @property
    def held_out(self) -> LabelledSet | None:
        """Separate test images, where the visitor brought some."""
        return self._read_sets()[1]

    def _read_sets(self) -> tuple[LabelledSet | None, LabelledSet | None]:
        with self.lock:
            if self._sets is None:
                self._sets = kept_set.load(self.path / "set")
            return self._sets

    def keep_sets(self, data: LabelledSet | None, test: LabelledSet | None = None) -> None:
        """Teach with these from now on, also after a restart. NearlError if they do not fit into the workspace."""
        folder = self.path / "set"
        with self.lock:
            self.checked = None
            if data is None:
                shutil.rmtree(folder, ignore_errors=True)
                self._sets = (None, None)
                return
            test = test if test is not None and len(test) else None
            files = kept_set.encode(data, test, folder)
            self.check_room(sum(map(len, files.values())))
            for record in [*data.records, *(test.records if test else [])]:
                self.names.setdefault(record.digest, record.name)
            kept_set.save(data, test, folder, files)
            self._sets = (data, test)

    def check_room(self, more: int) -> None:
        """Raises NearlError if so many bytes more would be too many, for this workspace or for the disk."""
        if folder_bytes(self.path) + more > MAX_BYTES:
            raise NearlError(
                f"Your workspace is full ({MAX_BYTES >> 20} MB); remove images or adapters from it, then try again."
            )
        if shutil.disk_usage(self.path.parent).free < more + MIN_FREE:
            raise NearlError("The server's disk is nearly full; try again tomorrow, or tell whoever runs it.")

    # ---- the adapter in use

    @property
    def state(self) -> dict:
        """What is remembered on disk: {"in_use": id on the shelf or "", "run": id or "", "comparison": id
        or ""}; {} for a new workspace."""
        return read_json(self.path / "state.json")

    def remember(self, **changes: str) -> None:
        with self.lock:
            write_json(self.path / "state.json", {**self.state, **changes})

    @property
    def adapter(self) -> Adapter | None:
        """The adapter in use; after a restart it is read from the shelf when first asked for."""
        with self.lock:
            if not self._adapter_read:
                self._adapter_read = True
                if key := self.state.get("in_use"):
                    from app.visitor import shelf

                    with contextlib.suppress(NearlError):
                        self._adapter = shelf.load(self, key)
            return self._adapter

    @property
    def prompt_set(self) -> PromptSet | None:
        """The prompts last read with; those of the adapter in use where nothing was read yet."""
        if self._prompt_set is None and self.adapter is not None:
            self._prompt_set = PromptSet.from_dict(self.adapter.meta["prompts"])
        return self._prompt_set

    @prompt_set.setter
    def prompt_set(self, value: PromptSet | None) -> None:
        self._prompt_set = value

    def set_adapter(self, adapter: Adapter | None, key: str = "") -> None:
        """Use an adapter of the shelf from now on, or none; readings and maps made without it are dropped."""
        with self.lock:
            if key or self.path.exists():
                self.remember(in_use=key)
            self._adapter, self._adapter_read = adapter, True
            self.classifier = self.prediction = None
            self.heatmaps.clear()
            if adapter is not None:
                self._prompt_set = PromptSet.from_dict(adapter.meta["prompts"])

    # ---- expiry

    def expired(self, now: float) -> bool:
        """Whether it is to leave memory; what is on disk stays for KEEP_SECONDS."""
        if self.busy:
            return False
        if self.closed_at is not None and now - self.closed_at > GRACE_SECONDS:
            return True
        return now - self.touched > IDLE_SECONDS

    def close(self) -> None:
        """Leave memory; what is on disk stays."""
        shutil.rmtree(self._downloads, ignore_errors=True)

    def stamp(self, now: float) -> None:
        """Keep the time of the last use on disk, for a server that starts later."""
        with contextlib.suppress(OSError):
            os.utime(self.path, (now, now))


class Registry:
    """All workspaces. `root`: where they are kept; None for a temporary folder. `clock`: seconds since the epoch."""

    def __init__(self, root: Root | None = None, limit: int = MAX_WORKSPACES, clock: Callable[[], float] = time.time):
        self.root, self._limit, self._clock = root or Root(), limit, clock
        self._all: dict[str, Workspace] = {}  # by the name of their folder
        self._issued: dict[str, None] = {}  # the same names, the latest last: an open page may still have that id
        self._guard = threading.RLock()

    def __len__(self) -> int:
        return len(self._all)

    def get(self, key: object) -> Workspace:
        """The workspace of that id, empty if it has expired; a new one with a new id if this server never gave that id
        out and has nothing on disk for it."""
        self.sweep()
        now = self._clock()
        with self._guard:
            workspace = self._known(key)
            if workspace is None:
                key = secrets.token_urlsafe(32)
                self._issued[folder_name(key)] = None
                if len(self._issued) > MAX_ISSUED:
                    del self._issued[next(iter(self._issued))]
                workspace = self._all[folder_name(key)] = Workspace(key, self.root.folder(key), now)
            elif workspace.path.exists():
                workspace.stamp(now)
            workspace.touched, workspace.closed_at = now, None
            return workspace

    def _known(self, key: object) -> Workspace | None:
        if not isinstance(key, str) or not KEY.fullmatch(key):
            return None
        workspace = self._all.get(folder_name(key))
        if workspace is None and (self.root.folder(key).is_dir() or folder_name(key) in self._issued):
            workspace = self._all[folder_name(key)] = Workspace(key, self.root.folder(key), self._clock())
        if workspace is not None:
            workspace.id = key
        return workspace

    def adopt(self, path: Path) -> Workspace:
        """The workspace of a folder that an earlier server left; its visitor may come back for it."""
        with self._guard:
            if path.name not in self._all:
                self._all[path.name] = Workspace(None, path, self._clock())
            return self._all[path.name]

    def leave(self, key: object) -> None:
        """The page was closed: forget what is in memory after a grace period, or when teaching is finished."""
        with self._guard:
            workspace = self._all.get(folder_name(key)) if isinstance(key, str) else None
            if workspace is not None:
                workspace.closed_at = self._clock()

    def sweep_regularly(self) -> None:
        """Sweep every minute from now on, so that images are forgotten even if nobody else comes."""

        def forever() -> None:
            while True:
                time.sleep(SWEEP_SECONDS)
                self.sweep()
                self.sweep_disk()

        self.sweep_disk()
        threading.Thread(target=forever, name="sweep", daemon=True).start()

    def sweep(self) -> None:
        """Drop from memory what has expired and, beyond the limit, what was untouched the longest; never a busy one."""
        now = self._clock()
        with self._guard:
            gone = [name for name, w in self._all.items() if w.expired(now)]
            idle = sorted((n for n, w in self._all.items() if not w.busy and n not in gone), key=self._touched)
            gone += idle[: max(0, len(self._all) - len(gone) - self._limit + 1)]
            for name in gone:
                self._all.pop(name).close()

    def _touched(self, name: str) -> float:
        return self._all[name].touched

    def sweep_disk(self) -> None:
        """Delete what nobody has used for KEEP_SECONDS, whichever server left it, and old uploads and downloads."""
        now = self._clock()
        with self._guard:
            idle = []
            for path in made_here(self.root.workspaces):
                workspace = self._all.get(path.name)
                if workspace is not None and (workspace.busy or not workspace.expired(now)):
                    continue
                with contextlib.suppress(OSError):
                    idle.append((path.stat().st_mtime, path))
            idle.sort()
            spare = max(0, len(idle) - MAX_ON_DISK)
            for number, (last_used, path) in enumerate(idle):
                if number < spare or now - last_used > KEEP_SECONDS:
                    if path.name in self._all:
                        self._all.pop(path.name).close()
                    shutil.rmtree(path, ignore_errors=True)
        remove_old_uploads(self.root.uploads, now - UPLOAD_SECONDS)
