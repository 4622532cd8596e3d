"""All visitors' workspaces: who gets which, how long they are kept, and what is deleted.

The page holds only an opaque id. Whoever comes with an unknown or expired id gets a new, empty workspace.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from app.visitor.disk import Root, folder_name, made_here, remove_old_uploads
from app.visitor.workspace import Workspace

KEEP_SECONDS = 24 * 3600.0  # on disk, since it was last used
UPLOAD_SECONDS = 3600.0  # of files that were uploaded but never read, and of downloads
MAX_WORKSPACES = 32  # in memory
MAX_ON_DISK = 512
MAX_ISSUED = 4096  # ids remembered
SWEEP_SECONDS = 60.0
KEY = re.compile(r"[A-Za-z0-9_-]{43}")


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
            if not self._knows(key):
                key = secrets.token_urlsafe(32)
                self._issued[folder_name(key)] = None
                if len(self._issued) > MAX_ISSUED:
                    del self._issued[next(iter(self._issued))]
            workspace = self._open(self.root.folder(key), now)
            workspace.use(key, now)
            return workspace

    def _knows(self, key: object) -> bool:
        if not isinstance(key, str) or not KEY.fullmatch(key):
            return False
        name = folder_name(key)
        return name in self._all or name in self._issued or self.root.folder(key).is_dir()

    def _open(self, path: Path, now: float) -> Workspace:
        return self._all.setdefault(path.name, Workspace(None, path, now))

    def adopt(self, path: Path) -> Workspace:
        """The workspace of a folder that an earlier server left; its visitor may come back for it."""
        with self._guard:
            return self._open(path, self._clock())

    def leave(self, key: object) -> None:
        """The page was closed: forget what is in memory after a grace period, or when teaching is finished."""
        with self._guard:
            workspace = self._all.get(folder_name(key)) if isinstance(key, str) else None
            if workspace is not None:
                workspace.leave(self._clock())

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
