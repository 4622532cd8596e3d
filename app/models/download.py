"""The download of a model that somebody has chosen and that is not on this machine."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import threading
from collections.abc import Callable

from app.models.memory import label
from app.visitor.workspace import Workspace
from nearl.backbones import download
from nearl.errors import NearlError

log = logging.getLogger("nearl.app")

PATIENCE = 5.0  # seconds in which a cancelled process may end by itself
FAULT = "The download ended unexpectedly; the details are in the server's log."


class Download:
    """One model on its way, and who waits for it. Looked at from any thread."""

    def __init__(self, name: str):
        self.name = name
        self.done, self.total = 0, 0  # bytes
        self.arrived = False  # it has come, and is being loaded
        self.cancelled = False
        self.error = ""  # why it failed, in a sentence
        self.waiting: dict[str, Workspace | None] = {}  # visitors by their ids; once it has ended the ids alone
        self.process: subprocess.Popen | None = None
        self.over = threading.Event()

    @property
    def ended(self) -> bool:
        return self.over.is_set()


class Downloads:
    """All visitors' downloads, one at a time. Several visitors may wait for the same one.

    `load` is called with the name of a model that has arrived, before whoever waits for it reads with it.
    """

    def __init__(self, load: Callable[[str], object]):
        self._load = load
        self._guard = threading.Lock()
        self._latest: Download | None = None

    def of(self, workspace: Workspace) -> Download | None:
        """The latest download, where this visitor asked for it and has not cancelled it."""
        found = self._latest
        return found if found is not None and workspace.id in found.waiting else None

    def begin(self, workspace: Workspace, name: str) -> None:
        """Fetch a model, and let this visitor read with it then. NearlError while another one is being fetched."""
        if self._latest is not None and self._latest.cancelled:
            self._latest.over.wait(2 * PATIENCE)  # it tidies up
        with self._guard:
            found = self._latest
            if found is None or found.ended:
                found = self._latest = Download(name)
                threading.Thread(target=self._work, args=(found,), name="download", daemon=True).start()
            elif found.name != name or found.cancelled:
                raise NearlError(f"“{label(found.name)}” is being downloaded just now; try again when that is done.")
            found.waiting[workspace.id or ""] = workspace

    def cancel(self, workspace: Workspace) -> None:
        """Wait no longer; the download ends unless others wait for it."""
        with self._guard:
            found = self._latest
            if found is None or found.waiting.pop(workspace.id or "", None) is None:
                return
            if not found.waiting and not found.ended and not found.arrived:
                found.cancelled = True
                if found.process is not None:
                    _stop(found.process)

    # ---- in the thread of a download

    def _work(self, found: Download) -> None:
        try:
            self._fetch(found)
            if not found.cancelled and not found.error:
                self._arrive(found)
        except NearlError as error:
            found.error = str(error)
        except Exception:
            log.exception("downloading %s", found.name)
            found.error = FAULT
        finally:
            with self._guard:
                found.waiting = dict.fromkeys(found.waiting)  # what a visitor looked at is not held any longer
                found.over.set()

    def _fetch(self, found: Download) -> None:
        process = download.start(found.name)
        with self._guard:
            found.process = process
            if found.cancelled:  # a moment ago
                _stop(process)
        for line in process.stdout or ():
            with contextlib.suppress(ValueError, TypeError, OverflowError):  # what a library says there
                told = json.loads(line)
                if isinstance(told, dict):
                    found.error = str(told.get("error") or "")
                    found.done, found.total = int(told.get("done", found.done)), int(told.get("total", found.total))
        if process.wait() and not found.cancelled and not found.error:
            found.error = FAULT

    def _arrive(self, found: Download) -> None:
        """Load it and let those who wait read with it."""
        with self._guard:
            found.arrived = True
        self._load(found.name)
        for workspace in filter(None, list(found.waiting.values())):
            workspace.choose(found.name)


def _stop(process: subprocess.Popen) -> None:
    """End a process: at once if it can tidy up, else by force after a while."""
    process.terminate()
    force = threading.Timer(PATIENCE, process.kill)
    force.daemon = True
    force.start()
