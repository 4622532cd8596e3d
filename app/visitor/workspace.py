"""What one visitor has brought and made: images to read, labelled images, adapters and runs.

Labelled images, runs and adapters are on disk and outlive the server; what is read in Predict is in memory alone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from app.visitor import uploads
from app.visitor.disk import folder_bytes, make_folder
from app.visitor.limits import Alone, House
from app.visitor.maps import Maps
from app.visitor.runs import Runs
from app.visitor.shelf import Shelf
from app.visitor.state import StateFile
from app.visitor.support import Support
from app.visitor.viewing import Viewing
from nearl.errors import NearlError
from nearl.prompts import PromptSet

if TYPE_CHECKING:
    from nearl.adapters.store import Adapter

IDLE_SECONDS = 3600.0  # in memory
GRACE_SECONDS = 600.0  # in memory after the page was closed; a reload may come back within it
MAX_BYTES = 2**30  # of one workspace on disk
MIN_FREE = 2**30  # bytes to leave on the disk


class Workspace:
    """The parts of one visitor's work. Each part changes its own attributes, all under the same `lock`.

    `path` is its folder on disk, made when first written to. `id` is None for one that a restarted server found there
    and whose visitor has not come back yet. `house`: where it asks for room.
    """

    def __init__(self, key: str | None, path: Path, now: float = 0.0, house: House | None = None):
        self.id, self.path, self.touched = key, path, now
        self._house = Alone() if house is None else house
        self.closed_at: float | None = None
        self.lock = threading.RLock()
        state = StateFile(path / "state.json", self.lock)
        self.maps = Maps(self.lock)
        self.shelf = Shelf(path / "shelf", state, self.lock, self.check_room, self._adapter_changed)
        self.viewing = Viewing(self.lock, self.maps, self.shelf, self._hold)
        self.support = Support(path / "set", self.lock, self.check_room, self.check_memory)
        self.runs = Runs(self.lock, state, self._hold)
        self._downloads = uploads.root() / f"out-{secrets.token_hex(16)}"

    @property
    def busy(self) -> bool:
        """Whether a run or a comparison is going on or waits for its turn."""
        return self.runs.busy

    def download(self, name: str) -> Path:
        """The path for a file to download, in a new folder with a random name: Gradio serves it to whoever knows the
        path, and whoever is given one cannot guess another. Removed after an hour, or with the workspace."""
        folder = self._downloads / secrets.token_hex(16)
        make_folder(folder)
        self._hold()
        return folder / name

    def check_room(self, more: int) -> None:
        """Raises NearlError if so many bytes more would be too many, for this workspace or for the disk."""
        used = folder_bytes(self.path)
        if used + more > MAX_BYTES:
            raise NearlError(
                f"Your workspace is full ({MAX_BYTES >> 20} MB); remove images or adapters from it, then try again."
            )
        self._house.disk_room(self, used, more)
        make_folder(self.path.parent)  # somebody may have removed it
        if shutil.disk_usage(self.path.parent).free < more + MIN_FREE:
            raise NearlError("The server's disk is nearly full; try again tomorrow, or tell whoever runs it.")

    def check_memory(self, more: int, refuse: bool = True) -> None:
        """Make room for so many bytes of decoded images. Raises NearlError if all visitors' images would be too many;
        without `refuse` never."""
        self._house.memory_room(self, more, refuse)

    @property
    def memory(self) -> int:
        """Bytes of decoded images."""
        return self.viewing.memory + self.support.memory

    @property
    def empty(self) -> bool:
        """Whether nothing would be lost if it left memory."""
        return self.viewing.empty and self.runs.empty and not self._downloads.exists()

    def _hold(self) -> None:
        self._house.hold(self)

    def _adapter_changed(self, adapter: Adapter | None) -> None:
        self.viewing.forget_reading(None if adapter is None else PromptSet.from_dict(adapter.meta["prompts"]))

    # ---- expiry

    def use(self, key: str | None, now: float) -> None:
        """The visitor is here. `key`: the id they came with."""
        self.id, self.touched, self.closed_at = key, now, None
        if self.path.exists():
            self.stamp(now)

    def leave(self, now: float) -> None:
        """The page was closed."""
        self.closed_at = now

    def expired(self, now: float) -> bool:
        """Whether it is to leave memory; what is on disk stays longer."""
        closed = self.closed_at is not None and now - self.closed_at > GRACE_SECONDS
        return (closed or now - self.touched > IDLE_SECONDS) and not self.busy

    def idle(self, now: float) -> bool:
        """Whether it may leave memory where others need room: its page was closed, or not used for a while."""
        return (self.closed_at is not None or now - self.touched > GRACE_SECONDS) and not self.busy

    def close(self) -> None:
        """Leave memory; what is on disk stays."""
        shutil.rmtree(self._downloads, ignore_errors=True)

    def stamp(self, now: float) -> None:
        """Keep the time of the last use on disk, for a server that starts later."""
        with contextlib.suppress(OSError):
            os.utime(self.path, (now, now))
