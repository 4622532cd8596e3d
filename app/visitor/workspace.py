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
from typing import TYPE_CHECKING, Any

from app.visitor import uploads
from app.visitor.disk import folder_bytes, make_folder
from app.visitor.limits import MIN_FREE, Alone, House
from app.visitor.maps import Maps
from app.visitor.runs import Runs
from app.visitor.shelf import Shelf
from app.visitor.state import StateFile
from app.visitor.support import Support
from app.visitor.viewing import Viewing, memory_of
from nearl.errors import NearlError
from nearl.prompts import PromptSet

if TYPE_CHECKING:
    from nearl.adapters.store import Adapter
    from nearl.backbones import Backbone

IDLE_SECONDS = 3600.0  # in memory
GRACE_SECONDS = 600.0  # in memory after the page was closed; a reload may come back within it
MAX_BYTES = 2**30  # of one workspace on disk
MAX_PAGES = 64  # of one visitor, open at once


class OnePage:
    """A workspace as one page sees it: with images to look at and maps of its own, and all else shared."""

    def __init__(self, workspace: Workspace, viewing: Viewing, maps: Maps):
        self._workspace, self.viewing, self.maps = workspace, viewing, maps
        self.opened = ""  # the id of the adapter whose result Teach shows; "" for that of the last run
        self.seen_set = ""  # the version of the labelled images that it shows; "" for none

    def __getattr__(self, name: str) -> Any:
        return getattr(self._workspace, name)


class Workspace:
    """The parts of one visitor's work. Each part changes its own attributes, all under the same `lock`.

    `path` is its folder on disk, made when first written to. `id` is None for one that a restarted server found there
    and whose visitor has not come back yet. `house`: where it asks for room.
    """

    opened = seen_set = ""  # of a page alone

    def __init__(self, key: str | None, path: Path, now: float = 0.0, house: House | None = None):
        self.id, self.path, self.touched = key, path, now
        self._house = Alone() if house is None else house
        self.closed_at: float | None = None
        self.lock = threading.RLock()
        self._state = state = StateFile(path / "state.json", self.lock)
        self._pages: dict[str, OnePage] = {}  # by page, the latest used last
        self._pages_lock = threading.Lock()
        self.maps = Maps(self.lock)
        self.shelf = Shelf(path / "shelf", state, self.lock, self.check_room, self._adapter_changed)
        self.viewing = Viewing(self.lock, self.maps, self.shelf, self._hold)  # of the page that was used last
        self.support = Support(path / "set", self.lock, self.check_room, self.check_memory)
        self.runs = Runs(self.lock, state, self._hold)
        self.aside = ""  # the id of the adapter that was put aside with its model, until another one is used
        self._downloads = uploads.root() / f"out-{secrets.token_hex(16)}"

    # ---- pages

    def seen_by(self, page: str) -> Workspace:
        """The workspace for a page, which then is the one used last. A page that is new begins with the images of the
        one before; what each of them brings afterwards is its own."""
        with self._pages_lock:
            found = self._pages.pop(page, None)
            if found is None:
                found = OnePage(self, self.viewing, self.maps)
                if any(other.viewing is self.viewing for other in self._pages.values()):
                    found.maps = Maps(self.lock)
                    found.viewing = Viewing(self.lock, found.maps, self.shelf, self._hold)
                    found.viewing.take(self.viewing)
                else:
                    found.viewing.page_opened()
            self._pages[page] = found
            self.viewing, self.maps = found.viewing, found.maps
            if len(self._pages) > MAX_PAGES:
                del self._pages[next(iter(self._pages))]
        return found  # type: ignore[return-value]

    def page_closed(self, page: str) -> None:
        """Forget what a page looked at, unless it was the one used last: a reload shows that again."""
        with self._pages_lock:
            self._pages.pop(page, None)

    def _viewings(self) -> list[Viewing]:
        return list({id(v): v for v in (self.viewing, *(p.viewing for p in list(self._pages.values())))}.values())

    def put_away(self) -> None:
        """Give up the images to look at of every page."""
        for viewing in self._viewings():
            viewing.put_away()

    @property
    def viewed(self) -> int:
        """Bytes of decoded images to look at; those that several pages show count once."""
        records = {id(record): record for viewing in self._viewings() for record in list(viewing.records)}
        return sum(map(memory_of, records.values()))

    @property
    def model(self) -> str:
        """The name of the model that the visitor has chosen; "" for the one that the page begins with."""
        return self._state.read().model

    def choose(self, model: str) -> None:
        """Read with another model from now on, as it is before teaching; the adapter in use is put aside."""
        with self.lock:
            self.aside = self.shelf.in_use or self.aside
            self._state.change(model=model)
            self.shelf.use(None)

    @property
    def busy(self) -> bool:
        """Whether a run or a comparison is running or waiting."""
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
            raise NearlError(uploads.NO_SPACE)

    def check_memory(self, more: int, refuse: bool = True) -> None:
        """Make room for so many bytes of decoded images. Raises NearlError if all visitors' images would be too many;
        without `refuse` never."""
        self._house.memory_room(self, more, refuse)

    @property
    def memory(self) -> int:
        """Bytes of decoded images."""
        return self.viewed + self.support.memory

    @property
    def empty(self) -> bool:
        """Whether nothing would be lost if it left memory."""
        return all(v.empty for v in self._viewings()) and self.runs.empty and not self._downloads.exists()

    def _hold(self) -> None:
        self._house.hold(self)

    def _adapter_changed(self, adapter: Adapter | None) -> None:
        if adapter is not None:
            self.aside = ""
        for viewing in self._viewings():
            viewing.forget_reading(None if adapter is None else PromptSet.from_dict(adapter.meta["prompts"]))

    # ---- expiry

    def use(self, key: str | None, now: float) -> None:
        """The visitor is here. `key`: the id they came with."""
        self.id, self.touched, self.closed_at = key, now, None
        if self.path.exists():
            self.stamp(now)

    def leave(self, now: float) -> None:
        """The page was closed."""
        self.closed_at = now
        self.rest()

    def rest(self) -> None:
        """Let what can be made again leave memory: the adapter in use and the classifiers."""
        for viewing in self._viewings():
            viewing.rest()
        self.shelf.unload()

    def let_go(self, backbone: Backbone) -> None:
        """Give up the classifiers of a model that has left memory; they are made again when they are asked for."""
        for viewing in self._viewings():
            viewing.let_go(backbone)

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
