"""One run as the page sees it: what `nearl.runs` writes into its folder, and what the page notes beside it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass as plain_dataclass
from dataclasses import fields, replace
from typing import Any, Protocol

from gradio.context import LocalContext
from pydantic import BaseModel, ConfigDict, field_validator
from pydantic.dataclasses import dataclass

from app.visitor.disk import read_model, write_json
from app.visitor.runs import Kind as KindName
from app.visitor.workspace import Workspace
from app.work.watch import Watch
from nearl import runs
from nearl.errors import NearlError
from nearl.report.words import speaks_against
from nearl.runs.status import CANCELLED, CHECKING, DONE, FAILED, INTERRUPTED, TEACHING, WAITING, Status

MAX_STARTS = 4  # of one run: one that takes the server down with it each time is given up
NOTES = "app.json"  # beside the files of nearl.runs


@plain_dataclass(frozen=True)
class Kind:
    """What tells the runs of one tab from those of another."""

    name: KindName  # in the workspace's state
    home: str  # their folder in the workspace's
    kept: int  # how many of them
    shelves: bool  # whether the adapter is put on the shelf by itself, and used if the check does not speak against it


TEACH = Kind("run", "runs", 3, True)
COMPARE = Kind("comparison", "comparisons", 8, False)
KINDS = (TEACH, COMPARE)


class Notes(BaseModel):
    """The content of app.json."""

    model_config = ConfigDict(frozen=True)

    data: list[str] = []  # digests of the images, in the order of the job
    test: list[str] = []  # of the separate test images
    model: str = ""  # the name of the one that the visitor read with when it was started
    source: str = ""  # where a comparison's images are from, as the page names it
    there: str = ""  # likewise those of another source that are read too
    other: list[str] = []  # their digests
    choice: dict[str, Any] = {}  # how to teach, as it was chosen (`app.teach.run.actions.Choice`)
    shelf: dict[str, str] | None = None  # by method: its adapter's id on the shelf; None until there was a look
    starts: int = 0  # since something of it was last finished
    done: int = 0  # finished methods and seeds when it was last started
    cancelled: bool = False  # while it waited
    error: str = ""  # the sentence why it could not be done

    @field_validator("shelf", mode="before")
    @classmethod
    def _one(cls, value: object) -> object:
        """Earlier versions kept the id alone, "" for none, where there is one method."""
        if isinstance(value, str):
            return {"": value} if value else {}
        return value


@dataclass(frozen=True)
class Shown(Status):
    """What the page shows of a run, from one look at it: its status, and what the page alone knows."""

    place: int = 0
    """0 while it is running or has ended, 1 for the next in the queue, and so on."""
    adapter_key: str = ""
    """The id of its adapter on the shelf, or ""."""
    cancelling: bool = False
    """Whether it has been asked to stop and has not ended yet."""


class Busy(NearlError):
    """A run of the visitor's own is going on, so that no other one can begin."""


def check_idle(workspace: Workspace, kind: Kind) -> None:
    """Raises Busy while the workspace's latest run of this kind has not ended."""
    latest = RunView.latest(workspace, kind)
    if latest is not None and not latest.finished:
        raise Busy(f"A {kind.name} of yours is still running; cancel it first or wait until it is done.")


class Line(Protocol):
    """The queue, as a run sees it."""

    others_wait: bool

    def place(self, view: RunView) -> int: ...

    def drop(self, view: RunView) -> bool: ...

    def at(self, view: RunView) -> bool: ...

    def chosen(self, workspace: Workspace) -> str: ...


class RunView:
    """A run of a workspace. `queue`: where it waits or is worked on; None for one that had ended before the server
    started."""

    def __init__(self, workspace: Workspace, kind: Kind, key: str, queue: Line | None = None):
        self.workspace, self.kind, self.key, self.queue = workspace, kind, key, queue
        self.path = workspace.path / kind.home / key
        self.folder = runs.RunFolder(self.path)
        self.notes = read_model(self.path / NOTES, Notes) or Notes()
        self._watch = Watch(self.look)

    @classmethod
    def new(cls, workspace: Workspace, kind: Kind, queue: Line) -> RunView:
        return cls(workspace, kind, secrets.token_hex(8), queue)

    @classmethod
    def latest(cls, workspace: Workspace, kind: Kind) -> RunView | None:
        """The latest run of a workspace, also where an earlier server began it."""
        with workspace.lock:
            view, key = workspace.runs.latest(kind.name), workspace.runs.key(kind.name)
            if view is None and key and (workspace.path / kind.home / key / NOTES).is_file():
                view = cls(workspace, kind, key)
                workspace.runs.keep(kind.name, view)
            return view  # type: ignore[return-value]

    @classmethod
    def kept(cls, workspace: Workspace, kind: Kind) -> list[RunView]:
        """All runs of a kind that a workspace keeps, the newest first."""
        latest, found = cls.latest(workspace, kind), []
        for path in (workspace.path / kind.home).glob("*"):
            if (path / NOTES).is_file() and (latest is None or path.name != latest.key):
                found.append(cls(workspace, kind, path.name))
        return sorted([latest] * (latest is not None) + found, key=lambda view: view.began, reverse=True)

    @property
    def began(self) -> float:
        """When it was made, in seconds since 1970; 0 where that is unknown."""
        try:
            return (self.path / "job.json").stat().st_mtime
        except OSError:
            return 0.0

    @property
    def has_results(self) -> bool:
        """Whether a method of it is finished; not where that cannot be read."""
        return any("error" not in row for row in _readable(lambda: self.folder.rows) or ())

    # ---- looking

    def look(self) -> Shown:
        """How far it is: one read of its status. A run that a stopped server left waits for its turn again."""
        try:
            status, notes = self.folder.look(), self.notes
        except NearlError as error:  # its files are damaged
            status, notes = Status(state=FAILED, error=str(error)), self.notes
        state = status.state
        if notes.error:
            state = FAILED
        elif notes.cancelled:
            state = CANCELLED
        elif state == INTERRUPTED:
            state = WAITING
        elif state in (DONE, CANCELLED) and self.kind.shelves and notes.shelf is None:
            state = CHECKING
        elif status.finished and self.queue is not None and self.queue.at(self):
            state = TEACHING  # one process may be followed by another
        found = {field.name: getattr(status, field.name) for field in fields(status)}
        found |= {"state": state, "phase": status.phase or state, "error": notes.error or status.error}
        place = self.queue.place(self) if self.queue is not None else 0
        now = Shown(**found, place=place, adapter_key=next(iter((notes.shelf or {}).values()), ""))
        return replace(now, cancelling=not now.finished and self.folder.cancel_requested())

    @property
    def finished(self) -> bool:
        """Whether it has ended; for whoever needs no more than that."""
        return self.look().finished

    def follow(self) -> AsyncIterator[Shown]:
        """What is to be shown whenever the run has moved, until it has ended; see `Watch.follow`."""
        return self._watch.follow()

    @property
    def results(self) -> dict | None:
        """The figures of `nearl.measure.evaluate.study`, once the run is done; None where nothing was measured."""
        return _readable(lambda: getattr(self.folder.results(), "results", None))

    @property
    def numbered_rows(self) -> list[dict] | None:
        """What was read of each held-out image before and after, called "image 3" or "test image 3"; None if nothing
        was measured."""
        return _readable(self.folder.predictions) or None

    @property
    def rows(self) -> list[dict] | None:
        """The same with the visitor's own file names while the server knows them."""
        found = self.numbered_rows
        if found is None:
            return None
        return [{**row, "file": self.workspace.support.name(self.digest(row["file"])) or row["file"]} for row in found]

    def digest(self, file: str) -> str:
        """The digest of the image that `numbered_rows` calls "image 3" or "test image 3"; "" if it is unknown."""
        word, _, number = file.rpartition(" ")
        digests = self.notes.data if word == "image" else self.notes.test
        return digests[int(number) - 1] if number.isdecimal() and 0 < int(number) <= len(digests) else ""

    # ---- steering

    def note(self, **changes: object) -> None:
        with self.workspace.lock:
            self.notes = self.notes.model_copy(update=changes)
            write_json(self.path / NOTES, self.notes.model_dump())

    def cancel(self) -> None:
        """Stop before the next step; the best weights so far are kept. A run that is still waiting never starts, one
        that has ended stays as it is."""
        if self.finished:
            return
        self.folder.request_cancel()
        if self.queue is None or self.queue.drop(self):
            self.note(cancelled=True)
            self.folder.forget_images()

    # ---- working

    def work(self) -> bool:
        """Do it, in the queue's own thread, until it has ended. Returns True where it gave way to others and is to be
        queued again. NearlError where it cannot be done."""
        if self.folder.look().state not in (DONE, CANCELLED):
            self._count_start()
            if self._teach():
                return True
        if self.kind.shelves and self.folder.look().state in (DONE, CANCELLED):
            self._shelve()
        return False

    def _teach(self) -> bool:
        """Teach what is left. On a ZeroGPU Space with the visitor's GPU time, for which the visitor's request has to be
        in the context of this thread; without a request, after a restart for example, on the CPU."""
        request = self.workspace.runs.request
        token = LocalContext.request.set(request)
        try:
            return runs.work(self.folder, lambda: self.queue.others_wait, gpu=request is not None)
        finally:
            LocalContext.request.reset(token)

    def _count_start(self) -> None:
        """NearlError for a run that takes the server down with it each time it is started."""
        done = self.folder.look().done
        starts = 1 + (self.notes.starts if done == self.notes.done else 0)
        if starts > MAX_STARTS:
            raise NearlError("Teaching was interrupted again and again and has been given up; start it again.")
        self.note(starts=starts, done=done)

    def _shelve(self) -> None:
        outcome = self.folder.outcome()
        if outcome is None or outcome.adapter is None:
            self.note(shelf={})
            return
        key = self.workspace.shelf.put(outcome.adapter)
        switched = self.queue.chosen(self.workspace) != self.notes.model  # to another model meanwhile
        if not switched and outcome.stopped != CANCELLED and not speaks_against(outcome.results):
            self.workspace.shelf.use(key, outcome.adapter)
        self.note(shelf={outcome.adapter.meta["method"]: key})


def forget_adapter(workspace: Workspace, key: str) -> None:
    """Delete what runs and comparisons have kept of an adapter that is deleted from the shelf; their figures stay."""
    for kind in KINDS:
        for path in (workspace.path / kind.home).glob("*"):
            view = RunView(workspace, kind, path.name)
            for method in [name for name, kept in (view.notes.shelf or {}).items() if kept == key]:
                view.folder.forget_adapter(method)


def _readable(read: Callable):
    """None for what is damaged: the page goes on without it."""
    try:
        return read()
    except NearlError:
        return None
