"""The queue of all visitors' long work: one run at a time, since there is one device.

A run outlives the page that started it, and the server too: one that a stopped server left unfinished is queued again
when the next one starts, and resumes from its last snapshot. The page only looks at it, through a RunView.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from app.visitor.disk import DISK_FULL, is_full, made_here
from app.visitor.registry import Registry
from app.visitor.workspace import Workspace
from app.work.run import KINDS, Kind, RunView, check_idle
from nearl.errors import NearlError

if TYPE_CHECKING:
    from nearl.runs import Job

log = logging.getLogger("nearl.app")

MAX_WAITING = 64  # runs in the queue
FAULT = "Teaching stopped because of a fault on the server; the details are in its log."


class Queue:
    """Runs in the order in which they came. A run with several methods lets waiting ones in between two methods.

    `chosen`: the name of the model that a visitor reads with."""

    def __init__(self, chosen: Callable[[Workspace], str] = lambda workspace: workspace.model) -> None:
        self.chosen = chosen
        self._waiting: deque[RunView] = deque()
        self._running: RunView | None = None
        self._turn = threading.Condition(threading.RLock())
        threading.Thread(target=self._work, name="teach", daemon=True).start()

    def start(
        self, workspace: Workspace, kind: Kind, job: Job, instead: RunView | None = None, **notes: object
    ) -> RunView:
        """Write a job into a new run and queue it. `instead`: an earlier run of fewer methods, whose results it takes
        over and which it replaces.

        NearlError if the workspace's latest run of this kind is still running, too many are waiting, or there is no
        room for it."""
        with workspace.lock:  # so that two clicks begin one run
            check_idle(workspace, kind)
            with self._turn:
                if len(self._waiting) >= MAX_WAITING:
                    raise NearlError(f"{MAX_WAITING} runs of other visitors are waiting; try again in a few minutes.")
            workspace.check_room(job.images.nbytes)
            view = RunView.new(workspace, kind, self)
            view.folder.create(job)
            view.note(model=self.chosen(workspace), **notes)
            if instead is not None:
                view.folder.take_over(instead.folder)
                view.note(shelf=instead.notes.shelf)
            workspace.runs.keep(kind.name, view, view.key)
        if instead is not None:
            shutil.rmtree(instead.path, ignore_errors=True)
        _forget_old_runs(view)
        self.put(view)
        return view

    def put(self, view: RunView) -> None:
        with self._turn:
            self._waiting.append(view)
            self._turn.notify_all()

    @property
    def others_wait(self) -> bool:
        """Whether anything waits for the run that is at work."""
        return bool(self._waiting)

    def at(self, view: RunView) -> bool:
        """Whether this is the run that is at work."""
        return self._running is view

    def place(self, view: RunView) -> int:
        """0 for a run that is at work or has ended, 1 for the next, and so on."""
        with self._turn:
            return self._waiting.index(view) + 1 if view in self._waiting else 0

    def drop(self, view: RunView) -> bool:
        """Take a waiting run out of the queue; False if it is not waiting."""
        with self._turn:
            if view not in self._waiting:
                return False
            self._waiting.remove(view)
            return True

    def models(self) -> set[str]:
        """The names of the models of the runs that wait or are at work."""
        with self._turn:
            views = [*self._waiting, *filter(None, [self._running])]
        found = set()
        for view in views:
            with contextlib.suppress(NearlError, OSError):  # a damaged run, which needs none
                found.add(view.folder.about.backbone["name"])
        return found

    def recover(self, registry: Registry) -> None:
        """Queue again what an earlier server left unfinished, and shelve what it had not shelved yet."""
        for path in made_here(registry.root.workspaces):
            looked_at = Workspace(None, path)  # one without such a run does not come into memory
            for kind in KINDS:
                try:
                    view = RunView.latest(looked_at, kind)
                    if view is not None and not view.finished:
                        self._resume(registry.adopt(path), kind)
                except Exception:  # the other visitors' runs go on
                    log.exception("resuming")

    def _resume(self, workspace: Workspace, kind: Kind) -> None:
        with workspace.lock:
            view = RunView.latest(workspace, kind)
            if view is not None and view.queue is None and not view.finished:
                view.queue = self  # type: ignore[assignment]
                self.put(view)

    def _work(self) -> None:
        while True:
            with self._turn:
                while not self._waiting:
                    self._turn.wait()
                view = self._running = self._waiting.popleft()
            again = False
            try:
                again = view.work()
            except NearlError as error:
                _tell(view, str(error))
            except Exception as error:
                log.exception("teaching")
                _tell(view, DISK_FULL if is_full(error) else FAULT)
            finally:
                with self._turn:
                    if again:
                        self._waiting.append(view)
                    else:  # it has ended; the labelled set itself stays in the workspace
                        with contextlib.suppress(OSError):
                            view.folder.forget_images()
                    self._running = None


def _tell(view: RunView, sentence: str) -> None:
    """Note why a run has failed; where the disk takes nothing, in memory alone, so that the queue goes on."""
    try:
        view.note(error=sentence)
    except OSError as error:
        log.error("noting why a run failed: %s", type(error).__name__)


def _forget_old_runs(newest: RunView) -> None:
    """Delete all runs of this kind beyond as many as are kept: first those without a result, then the oldest. One whose
    adapter is on the shelf stays as long as that does, since its report is the adapter's."""
    workspace, kind = newest.workspace, newest.kind
    found = [RunView(workspace, kind, path.name) for path in newest.path.parent.iterdir()]
    others = [view for view in found if view.key != newest.key]
    for view in sorted(others, key=lambda view: (view.has_results, view.began), reverse=True)[kind.kept - 1 :]:
        if not kind.shelves or not any(map(workspace.shelf.entry, (view.notes.shelf or {}).values())):
            shutil.rmtree(view.path, ignore_errors=True)
