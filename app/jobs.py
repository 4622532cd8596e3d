"""Teaching runs: a folder each in the visitor's workspace, taught one after the other in a process of their own.

A run outlives the page that started it and the server too: one that a stopped server left unfinished is queued again
when the next one starts, and goes on from its last snapshot. The page only looks at it, through a RunView.
"""

from __future__ import annotations

import logging
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from app import shelf
from app.disk import read_json, write_json
from nearl.errors import NearlError

if TYPE_CHECKING:
    from app.workspace import Registry, Workspace
    from nearl.runs.folder import RunFolder
    from nearl.runs.job import Job

log = logging.getLogger("nearl.app")

WAITING, TEACHING, CHECKING = "waiting", "teaching", "checking"
DONE, CANCELLED, FAILED, INTERRUPTED = "done", "cancelled", "failed", "interrupted"
POLL_SECONDS = 0.3
MAX_WAITING = 24  # runs in the queue
MAX_STARTS = 4  # of one run: one that takes the server down with it each time is given up
KEPT_RUNS = 3  # of one workspace
NOTES = "app.json"  # beside the files of nearl.runs: digests of the images, id on the shelf, how often it was started
FAULT = "Teaching stopped because of a fault on the server; the details are on its console."


class RunView:
    """One run as the page sees it: what `nearl.runs` writes into its folder, and its place in the queue."""

    def __init__(self, workspace: Workspace, path: Path, queue: Queue | None = None):
        from nearl.runs.folder import RunFolder

        self.workspace, self.path, self.queue = workspace, path, queue
        self.folder: RunFolder = RunFolder(path)

    @property
    def notes(self) -> dict:
        return read_json(self.path / NOTES)

    def note(self, **changes: object) -> None:
        write_json(self.path / NOTES, {**self.notes, **changes})

    @property
    def _status(self) -> dict:
        return self.folder.status

    @property
    def state(self) -> str:
        """One of the words above. A run that a stopped server left waits for its turn again; one whose adapter is not
        on the shelf yet is still "checking"."""
        notes, state = self.notes, self._status["state"]
        if notes.get("error"):
            return FAILED
        if notes.get("cancelled"):
            return CANCELLED
        if state in (DONE, CANCELLED) and "shelf" not in notes:
            return CHECKING
        return WAITING if state == INTERRUPTED else state

    @property
    def finished(self) -> bool:
        return self.state in (DONE, CANCELLED, FAILED)

    @property
    def place(self) -> int:
        """0 for the run that is going on (or has ended), 1 for the next one, and so on."""
        return self.queue.place(self) if self.queue is not None else 0

    @property
    def phase(self) -> str:
        return self._status.get("phase") or self.state

    @property
    def step(self) -> int:
        return self._status.get("step") or 0

    @property
    def steps(self) -> int:
        return self._status.get("steps") or 0

    @property
    def seconds_left(self) -> float | None:
        return self._status.get("seconds_left")

    @property
    def error(self) -> str:
        """The sentence why it failed, or ""."""
        return self.notes.get("error") or self._status.get("error") or ""

    @property
    def stopped(self) -> str:
        """ "", "early" (nothing more to learn) or "cancelled"."""
        return self._status.get("stopped") or ""

    @property
    def adapter_key(self) -> str:
        """Where its adapter lies on the shelf, or ""."""
        return self.notes.get("shelf", "")

    @property
    def losses(self) -> list[tuple[int, float]]:
        """(step, training loss) of the model that is kept, not of the folds."""
        return self._curve("loss")

    @property
    def held(self) -> list[tuple[int, float]]:
        """(step, balanced accuracy on the images kept aside) where it was measured."""
        return self._curve("held_out")

    def _curve(self, name: str) -> list[tuple[int, float]]:
        events = [e for e in self.folder.events if e.get("phase") == TEACHING and e.get(name) is not None]
        return sorted({e["step"]: e[name] for e in events}.items())  # a resumed run repeats some steps

    @property
    def results(self) -> dict | None:
        """What `nearl.evaluate.study` found, once the run is done; None where nothing was measured."""
        return read_json(self.path / "results.json").get("results")

    @property
    def numbered_rows(self) -> list[dict] | None:
        """Per image what was said before and after, called "image 3" or "test image 3"."""
        return read_json(self.path / "predictions.json").get("rows")

    @property
    def rows(self) -> list[dict] | None:
        """The same with the visitor's own file names while the server knows them."""
        found = self.numbered_rows
        if found is None:
            return None
        names = {f"image {n}": self.workspace.names.get(d) for n, d in enumerate(self.notes["data"], start=1)}
        names |= {f"test image {n}": self.workspace.names.get(d) for n, d in enumerate(self.notes["test"], start=1)}
        return [{**row, "file": names.get(row["file"]) or row["file"]} for row in found]

    def digest(self, file: str) -> str:
        """The digest of the picture that a row of predictions.json calls "image 3" or "test image 3"."""
        word, _, number = file.rpartition(" ")
        return self.notes["data" if word == "image" else "test"][int(number) - 1]

    def cancel(self) -> None:
        """Stop before the next step; the best weights so far are kept. A run that is still waiting never starts."""
        self.folder.request_cancel()
        if self.queue is None or self.queue.drop(self):
            self.note(cancelled=True)
            self.folder.forget_images()

    def watch(self) -> Iterator[RunView]:
        """Yield this view whenever the run has moved, until it has ended; at the last one it has ended."""
        seen = None
        while True:
            finished = self.finished
            mark = (self.state, self.phase, self.step, self.place)
            if mark != seen:
                seen = mark
                yield self
            if finished:
                return
            time.sleep(POLL_SECONDS)


class Queue:
    """One run at a time, in the order in which they came: there is one device."""

    def __init__(self) -> None:
        self._waiting: deque[RunView] = deque()
        self._running: RunView | None = None
        self._turn = threading.Condition(threading.RLock())
        threading.Thread(target=self._work, name="teach", daemon=True).start()

    def add(self, workspace: Workspace, job: Job, data: Sequence[str], test: Sequence[str]) -> RunView:
        """Write a job into a run of this workspace and queue it. `data`, `test`: the digests of the job's images.

        NearlError if too many runs are waiting or there is no room for the adapter."""
        with self._turn:
            if len(self._waiting) >= MAX_WAITING:
                raise NearlError(f"{MAX_WAITING} runs of other visitors are waiting; try again in a few minutes.")
        shelf.check_room(workspace)
        key = secrets.token_hex(8)
        view = RunView(workspace, workspace.path / "runs" / key, self)
        workspace.check_room(sum(tensor.nbytes for tensor in (job.images,)))
        view.folder.create(job)
        view.note(data=list(data), test=list(test))
        workspace.remember(run=key)
        workspace.run = view
        _forget_old_runs(workspace, key)
        self.put(view)
        return view

    def put(self, view: RunView) -> None:
        with self._turn:
            self._waiting.append(view)
            self._turn.notify_all()

    def place(self, view: RunView) -> int:
        with self._turn:
            return self._waiting.index(view) + 1 if view in self._waiting else 0

    def drop(self, view: RunView) -> bool:
        """Take a waiting run out of the queue; False if it is not waiting."""
        with self._turn:
            if view not in self._waiting:
                return False
            self._waiting.remove(view)
            return True

    def recover(self, registry: Registry) -> None:
        """Queue again what an earlier server left unfinished, and shelve what it had not shelved yet."""
        for path in registry.root.workspaces.iterdir():
            key = read_json(path / "state.json").get("run")
            notes = read_json(path / "runs" / str(key) / NOTES)
            if key and notes and not ({"shelf", "error", "cancelled"} & notes.keys()):
                workspace = registry.adopt(path)
                with workspace.lock:
                    view = workspace.run = workspace.run or RunView(workspace, path / "runs" / key)
                    if not view.finished and view.queue is None:
                        view.queue = self
                        self.put(view)

    def _work(self) -> None:
        while True:
            with self._turn:
                while not self._waiting:
                    self._turn.wait()
                self._running = self._waiting.popleft()
            try:
                self._teach(self._running)
            except NearlError as error:
                self._running.note(error=str(error))
            except Exception:
                log.exception("teaching")
                self._running.note(error=FAULT)
            finally:
                self._running.folder.forget_images()  # the run has ended; the set itself is kept as long as they like
                with self._turn:
                    self._running = None

    def _teach(self, view: RunView) -> None:
        from nearl.runs import zero_gpu

        if view.folder.status["state"] not in (DONE, CANCELLED):
            starts = view.notes.get("starts", 0) + 1
            if starts > MAX_STARTS:
                raise NearlError("Teaching was interrupted again and again and has been given up; start it anew.")
            view.note(starts=starts)
            if zero_gpu.ON_ZERO_GPU:
                zero_gpu.work(view.folder)
            else:
                _work_in_process(view.folder)
        if view.folder.status["state"] in (DONE, CANCELLED):
            self._shelve(view)

    def _shelve(self, view: RunView) -> None:
        """Put the adapter on the visitor's shelf; one that was taught to the end goes into use."""
        outcome, workspace = view.folder.outcome(), view.workspace
        if outcome is None or outcome.adapter is None:
            view.note(shelf="")
            return
        key = shelf.put(workspace, outcome.adapter)
        if outcome.stopped != CANCELLED:
            workspace.set_adapter(outcome.adapter, key)
        view.note(shelf=key)


def _work_in_process(run: RunFolder) -> None:
    """Teach until the process has ended; the run's status says how."""
    from nearl.runs import process

    try:
        worker = process.start(run)
    except NearlError:
        if run.status["state"] != CANCELLED:  # in the moment before
            raise
        return
    try:
        while worker.poll():
            time.sleep(POLL_SECONDS)
    finally:
        worker.kill()


def found_again(workspace: Workspace, key: str) -> RunView | None:
    """A run that ended before the server was last started."""
    path = workspace.path / "runs" / key
    return RunView(workspace, path) if (path / NOTES).is_file() else None


def _forget_old_runs(workspace: Workspace, newest: str) -> None:
    runs = sorted((workspace.path / "runs").iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in [path for path in runs if path.name != newest][KEPT_RUNS - 1 :]:
        shutil.rmtree(path, ignore_errors=True)
