"""Long work: a folder for each run in the visitor's workspace, done one after the other in a process of its own.

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
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from app.visitor.disk import made_here, read_json, read_model, write_json
from app.visitor.state import State
from nearl.errors import NearlError

if TYPE_CHECKING:
    from app.visitor.registry import Registry
    from app.visitor.workspace import Workspace
    from nearl.runs.folder import RunFolder
    from nearl.runs.job import Job

log = logging.getLogger("nearl.app")

WAITING, TEACHING, CHECKING = "waiting", "teaching", "checking"
DONE, CANCELLED, FAILED, INTERRUPTED = "done", "cancelled", "failed", "interrupted"
POLL_SECONDS = 0.3
MAX_WAITING = 24  # runs in the queue
MAX_STARTS = 4  # of one run: one that takes the server down with it each time is given up
NOTES = "app.json"  # beside the files of nearl.runs: such as ids on the shelf, and how often it was started
FAULT = "Teaching stopped because of a fault on the server; the details are on its console."


class View:
    """One run as the page sees it: what `nearl.runs` writes into its folder, and its place in the queue.

    `kind`: what a workspace calls the latest of them, as an attribute and in its state. `home`: where they are in the
    workspace's folder; `kept`: how many of them.
    """

    kind, home, kept = "", "", 1

    def __init__(self, workspace: Workspace, path: Path, queue: Queue | None = None):
        self.workspace, self.path, self.queue = workspace, path, queue
        self.folder = self.open(path)

    @classmethod
    def new(cls, workspace: Workspace, queue: Queue) -> View:
        return cls(workspace, workspace.path / cls.home / secrets.token_hex(8), queue)

    @classmethod
    def found_again(cls, workspace: Workspace) -> View | None:
        """The latest run, also where it ended before the server was last started."""
        with workspace.lock:
            view, key = workspace.runs.latest(cls.kind), workspace.runs.key(cls.kind)
            if view is None and key and (workspace.path / cls.home / key / NOTES).is_file():
                view = cls(workspace, workspace.path / cls.home / key)
                workspace.runs.keep(cls.kind, view)
            return view

    @staticmethod
    def open(path: Path) -> RunFolder:
        from nearl.runs.folder import RunFolder

        return RunFolder(path)

    def work(self) -> bool:
        """Do it, in the queue's own thread, until it has ended; True where it gave way to others and is to be queued
        again. NearlError where it cannot be done."""
        raise NotImplementedError

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
        """One of the words above. A run that a stopped server left waits for its turn again."""
        notes, state = self.notes, self._status["state"]
        if notes.get("error"):
            return FAILED
        if notes.get("cancelled"):
            return CANCELLED
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
    def mark(self) -> tuple:
        """Differs whenever there is something new to see."""
        return self.state, self.phase, self.step, self.place

    def cancel(self) -> None:
        """Stop before the next step; the best weights so far are kept. A run that is still waiting never starts."""
        self.folder.request_cancel()
        if self.queue is None or self.queue.drop(self):
            self.note(cancelled=True)
            self.folder.forget_images()

    def count_start(self) -> None:
        """NearlError for a run that takes the server down with it each time it is started."""
        starts = self.notes.get("starts", 0) + 1
        if starts > MAX_STARTS:
            raise NearlError("Teaching was interrupted again and again and has been given up; start it anew.")
        self.note(starts=starts)

    def watch(self) -> Iterator[View]:
        """Yield this view whenever the run has moved, until it has ended; at the last one it has ended."""
        seen = None
        while True:
            finished, mark = self.finished, self.mark
            if mark != seen:
                seen = mark
                yield self
            if finished:
                return
            time.sleep(POLL_SECONDS)


class RunView(View):
    """A teaching run."""

    kind, home, kept = "run", "runs", 3

    @property
    def state(self) -> str:
        """As of any run; one whose adapter is not on the shelf yet is still "checking"."""
        state, notes = super().state, self.notes
        unshelved = state in (DONE, CANCELLED) and not {"shelf", "cancelled"} & notes.keys()
        return CHECKING if unshelved else state

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
        """What `nearl.measure.evaluate.study` found, once the run is done; None where nothing was measured."""
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
        names = {f"image {n}": self.workspace.support.name(d) for n, d in enumerate(self.notes["data"], start=1)}
        names |= {f"test image {n}": self.workspace.support.name(d) for n, d in enumerate(self.notes["test"], start=1)}
        return [{**row, "file": names.get(row["file"]) or row["file"]} for row in found]

    def digest(self, file: str) -> str:
        """The digest of the picture that a row of predictions.json calls "image 3" or "test image 3"."""
        word, _, number = file.rpartition(" ")
        return self.notes["data" if word == "image" else "test"][int(number) - 1]

    def work(self) -> bool:
        from nearl.runs import zero_gpu

        if self.folder.status["state"] not in (DONE, CANCELLED):
            self.count_start()
            if zero_gpu.ON_ZERO_GPU:
                zero_gpu.work(self.folder)
            else:
                _work_in_process(self.folder)
        if self.folder.status["state"] in (DONE, CANCELLED):
            self._shelve()
        return False

    def _shelve(self) -> None:
        """Put the adapter on the visitor's shelf; one that was taught to the end goes into use."""
        outcome = self.folder.outcome()
        if outcome is None or outcome.adapter is None:
            self.note(shelf="")
            return
        key = self.workspace.shelf.put(outcome.adapter)
        if outcome.stopped != CANCELLED:
            self.workspace.shelf.use(key, outcome.adapter)
        self.note(shelf=key)


class Queue:
    """One run at a time, in the order in which they came: there is one device. A comparison lets others in between."""

    def __init__(self) -> None:
        self._waiting: deque[View] = deque()
        self.running: View | None = None  # the run that is going on
        self._turn = threading.Condition(threading.RLock())
        threading.Thread(target=self._work, name="teach", daemon=True).start()

    def add(self, view: View, job: Job, **notes: object) -> None:
        """Write a job into a new run and queue it. NearlError if too many are waiting or there is no room for it."""
        with self._turn:
            if len(self._waiting) >= MAX_WAITING:
                raise NearlError(f"{MAX_WAITING} runs of other visitors are waiting; try again in a few minutes.")
        workspace, path = view.workspace, view.path
        workspace.check_room(job.images.nbytes)
        view.folder.create(job)
        view.note(**notes)
        workspace.runs.keep(view.kind, view, path.name)
        _forget_old_runs(path, view.kept)
        self.put(view)

    def put(self, view: View) -> None:
        with self._turn:
            self._waiting.append(view)
            self._turn.notify_all()

    @property
    def others_wait(self) -> bool:
        """Whether anything waits for what is going on."""
        return bool(self._waiting)

    def place(self, view: View) -> int:
        with self._turn:
            return self._waiting.index(view) + 1 if view in self._waiting else 0

    def drop(self, view: View) -> bool:
        """Take a waiting run out of the queue; False if it is not waiting."""
        with self._turn:
            if view not in self._waiting:
                return False
            self._waiting.remove(view)
            return True

    def recover(self, registry: Registry) -> None:
        """Queue again what an earlier server left unfinished, and shelve what it had not shelved yet."""
        from app.work.comparison_view import ComparisonView

        for path in made_here(registry.root.workspaces):
            state = read_model(path / "state.json", State) or State()
            for kind in (RunView, ComparisonView):
                folder = path / kind.home / getattr(state, kind.kind)
                if not (folder / NOTES).is_file() or kind(None, folder).finished:
                    continue
                workspace = registry.adopt(path)
                with workspace.lock:
                    view = kind.found_again(workspace)
                    if view is not None and not view.finished and view.queue is None:
                        view.queue = self
                        self.put(view)

    def _work(self) -> None:
        while True:
            with self._turn:
                while not self._waiting:
                    self._turn.wait()
                self.running = self._waiting.popleft()
            again = False
            try:
                again = self.running.work()
            except NearlError as error:
                self.running.note(error=str(error))
            except Exception:
                log.exception("teaching")
                self.running.note(error=FAULT)
            finally:
                with self._turn:
                    if again:
                        self._waiting.append(self.running)
                    else:  # it has ended; the set itself is kept as long as they like
                        self.running.folder.forget_images()
                    self.running = None


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


def _forget_old_runs(newest: Path, kept: int) -> None:
    runs = sorted(newest.parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in [path for path in runs if path != newest][kept - 1 :]:
        shutil.rmtree(path, ignore_errors=True)
