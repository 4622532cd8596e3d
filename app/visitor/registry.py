"""All visitors' workspaces: who gets which, how long they are kept, and what is deleted.

The page holds only an opaque id. Whoever comes with an unknown or expired id gets a new, empty workspace.
"""

from __future__ import annotations

import contextlib
import logging
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from app.visitor import limits
from app.visitor.disk import Root, folder_bytes, folder_name, made_here, remove_old_uploads
from app.visitor.workspace import IDLE_SECONDS, Workspace
from nearl.errors import NearlError

if TYPE_CHECKING:
    from nearl.backbones import Backbone

log = logging.getLogger("nearl.app")

KEEP_SECONDS = 24 * 3600.0  # on disk, since it was last used
UPLOAD_SECONDS = 3600.0  # of files that were uploaded but never read, and of downloads
MAX_WORKSPACES = 256  # in memory
MAX_ON_DISK = 2048
MAX_ISSUED = 4096  # ids remembered
SWEEP_SECONDS = 60.0
KEY = re.compile(r"[A-Za-z0-9_-]{43}")


class Registry:
    """All workspaces. `root`: where they are kept; None for a temporary folder. `clock`: seconds since the epoch.

    What is in use stays. Beyond a limit those that hold nothing leave memory first, then those that were not used for
    the longest time.
    """

    def __init__(self, root: Root | None = None, limit: int = MAX_WORKSPACES, clock: Callable[[], float] = time.time):
        self.root, self._limit, self._clock = root or Root(), limit, clock
        self._all: dict[str, Workspace] = {}  # by the name of their folder
        self._alive: WeakValueDictionary[str, Workspace] = WeakValueDictionary()  # also those only an event still has
        self._issued: dict[str, None] = {}  # the same names, the latest last: an open page may still have that id
        self._sizes: dict[str, tuple[float, int]] = {}  # of folders: (last use, bytes)
        self._guard = threading.RLock()

    def __len__(self) -> int:
        return len(self._all)

    def get(self, key: object) -> Workspace:
        """The workspace of that id, empty if it has expired; a new one with a new id if this server never gave that id
        out and has nothing on disk for it."""
        self.root.ensure()
        now = self._clock()
        with self._guard:
            self._drop_expired(now)
            if not self._knows(key):
                key = secrets.token_urlsafe(32)
                self._issued[folder_name(key)] = None
                if len(self._issued) > MAX_ISSUED:
                    del self._issued[next(iter(self._issued))]
            workspace = self._open(self.root.folder(key), now)
            workspace.use(key, now)
            self.sweep()
            return workspace

    def known(self, key: object) -> Workspace | None:
        """The workspace of that id where it is in memory."""
        with self._guard:
            return self._found(folder_name(key)) if isinstance(key, str) else None

    def _knows(self, key: object) -> bool:
        if not isinstance(key, str) or not KEY.fullmatch(key):
            return False
        name = folder_name(key)
        return self._found(name) is not None or name in self._issued or self.root.folder(key).is_dir()

    def _found(self, name: str) -> Workspace | None:
        return self._all.get(name) or self._alive.get(name)

    def _open(self, path: Path, now: float) -> Workspace:
        workspace = self._found(path.name) or Workspace(None, path, now, self)
        self._all[path.name] = self._alive[path.name] = workspace
        return workspace

    def adopt(self, path: Path) -> Workspace:
        """The workspace of a folder that an earlier server left; its visitor may come back for it."""
        with self._guard:
            return self._open(path, self._clock())

    def page_closed(self, key: str, page: str) -> None:
        """One of the pages of a workspace was closed."""
        with self._guard:
            workspace = self._alive.get(folder_name(key))
        if workspace is not None:
            workspace.page_closed(page)

    def leave(self, key: object) -> None:
        """The page was closed: forget what is in memory after a grace period, or when teaching is finished."""
        with self._guard:
            workspace = self._found(folder_name(key)) if isinstance(key, str) else None
            if workspace is not None:
                workspace.leave(self._clock())

    # ---- what leaves memory

    def sweep(self) -> None:
        """Drop from memory what has expired and, beyond the limit, first what holds nothing and then what was untouched
        the longest; never what is busy or was in use a moment ago."""
        now = self._clock()
        with self._guard:
            self._drop_expired(now)
            over = len(self._all) - self._limit
            if over > 0:
                places = {name: (not w.empty, w.touched) for name, w in self._all.items()}
                for name in sorted(places, key=places.__getitem__):
                    if over > 0 and (self._all[name].empty or self._all[name].idle(now)):
                        over -= 1
                        if self._all[name].empty:  # an event may still work in it, see `hold`
                            del self._all[name]
                        else:
                            self._drop(name)

    def rest(self) -> None:
        """Let what can be made again leave memory where it is not in use."""
        now = self._clock()
        with self._guard:
            for workspace in self._all.values():
                if workspace.idle(now):
                    workspace.rest()

    def let_go(self, backbone: Backbone) -> None:
        """A model has left memory: no workspace is to hold it."""
        with self._guard:
            found = list(self._alive.values())
        for workspace in found:
            workspace.let_go(backbone)

    def _drop_expired(self, now: float) -> None:
        for name in [name for name, w in self._all.items() if w.expired(now)]:
            self._drop(name)

    def _drop(self, name: str) -> None:
        """Let a workspace leave memory."""
        workspace = self._all.pop(name, None)
        self._alive.pop(name, None)
        if workspace is not None:
            workspace.close()

    def hold(self, workspace: Workspace) -> None:
        with self._guard:
            if self._alive.get(workspace.path.name) is workspace:
                self._all[workspace.path.name] = workspace

    def memory_room(self, workspace: Workspace, more: int, refuse: bool = True) -> None:
        """Of all other visitors, first the labelled images, which are also on disk, leave memory, then what was brought
        to Predict and has not been used for a while."""
        now, own = self._clock(), workspace.viewed + more
        limit = limits.ALL_MEMORY + (limits.SMALL_MEMORY if own <= limits.SMALL else 0)
        with self._guard:
            others = sorted((w for w in self._all.values() if w is not workspace), key=lambda w: w.touched)
            short = workspace.memory + more + sum(w.memory for w in others) - limit
            steps = [(w, w.support.unload) for w in others]
            steps += [(w, w.put_away) for w in others if w.idle(now)] if short > 0 else []
            for other, give in steps:
                if short <= 0:
                    return
                before = other.memory
                give()
                short -= before - other.memory
            if refuse and short > 0:
                raise NearlError(limits.FULL_MEMORY)

    # ---- what leaves the disk

    def disk_room(self, workspace: Workspace, used: int, more: int) -> None:
        """The folders that were not used for the longest time are deleted first."""
        with self._guard:
            self._sizes[workspace.path.name] = (self._clock(), used + more)  # so that a second one counts it too
            if self._on_disk() <= limits.ALL_DISK:
                return
            for _, path in self._idle():
                self._delete(path)
                if self._on_disk() <= limits.ALL_DISK:
                    return
            self._sizes[workspace.path.name] = (self._clock(), used)
        raise NearlError(limits.FULL_DISK)

    def _on_disk(self) -> int:
        return sum(size for _, size in self._sizes.values())

    def sweep_regularly(self) -> None:
        """Sweep every minute from now on, so that images are forgotten even if nobody else comes."""

        def forever() -> None:
            while True:
                time.sleep(SWEEP_SECONDS)
                self.sweep_all()

        self.sweep_all()
        threading.Thread(target=forever, name="sweep", daemon=True).start()

    def sweep_all(self) -> None:
        """Sweep memory and disk. Whatever goes wrong is logged, and the next minute it is tried again."""
        for sweep in (self.root.ensure, self.sweep, self.rest, self.sweep_disk, limits.give_back):
            try:
                sweep()
            except Exception as error:  # the sweeper outlives whatever it meets
                log.error("sweeping: %s", type(error).__name__)

    def sweep_disk(self) -> None:
        """Delete what nobody has used for KEEP_SECONDS, whichever server left it, and old uploads and downloads."""
        now = self._clock()
        idle = sorted(self._idle())
        spare = max(0, len(idle) - MAX_ON_DISK)
        for number, (last_used, path) in enumerate(idle):
            if number < spare or now - last_used > KEEP_SECONDS:
                with self._guard:  # a visitor may just be coming back
                    if path in (idle_now for _, idle_now in self._idle([path])):
                        self._delete(path)
        self._measure()
        remove_old_uploads(self.root.uploads, now - UPLOAD_SECONDS)

    def _idle(self, among: list[Path] | None = None) -> list[tuple[float, Path]]:
        """(last use, folder) of the workspaces that nobody uses, the longest unused first."""
        now, found = self._clock(), []
        for path in made_here(self.root.workspaces) if among is None else among:
            workspace = self._found(path.name)
            with contextlib.suppress(OSError):
                last_used = path.stat().st_mtime
                if now - last_used > IDLE_SECONDS and (workspace is None or workspace.expired(now)):
                    found.append((last_used, path))
        return sorted(found)

    def _delete(self, path: Path) -> None:
        self._drop(path.name)
        self._alive.pop(path.name, None)
        self._sizes.pop(path.name, None)
        shutil.rmtree(path, ignore_errors=True)

    def _measure(self) -> None:
        """Look again at the size of each folder that may have changed since."""
        sizes: dict[str, tuple[float, int]] = {}
        for path in made_here(self.root.workspaces):
            with contextlib.suppress(OSError):
                known, workspace = self._sizes.get(path.name), self._all.get(path.name)
                last_used = path.stat().st_mtime
                changed = known is None or known[0] != last_used or (workspace is not None and workspace.busy)
                sizes[path.name] = (last_used, folder_bytes(path)) if changed else known  # type: ignore[assignment]
        with self._guard:
            self._sizes = sizes
