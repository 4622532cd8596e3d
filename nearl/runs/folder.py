"""A run on disk: what it is to do, how far it is, and its results. Every file is written by rename.

job.safetensors, job.json   what it is to do (`nearl.runs.job.Job`)
status.json                 how far it is (`nearl.runs.status.Status`)
snapshot.safetensors        where to resume, while the run is not finished
cancel                      there once the run has been asked to stop
lock                        held by the process that works on the run
rows.jsonl                  a line for each method and seed that is finished or has failed
adapter/, results.json, predictions.json   of a run with one method and one seed: the adapter
                            (`nearl.adapters.store`), its figures, and every held-out image
adapters/<method>/          of other runs: the adapter of each method with the first seed
"""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from pydantic import BaseModel, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from nearl.adapters.store import FORMERLY, Adapter, load_adapter, save_adapter
from nearl.errors import NearlError
from nearl.runs.job import Job, Pair
from nearl.runs.status import CANCELLED, CHECKING, DONE, FAILED, INTERRUPTED, STARTING, TEACHING, WAITING, Status, after
from nearl.runs.teaching import Event, Finished, LeftOff, why
from nearl.train.recipe import Snapshot

STATUS_SECONDS = 0.1  # at least, between two writings of status.json within a phase


class Results(BaseModel):
    """results.json."""

    results: dict | None
    """Of `nearl.measure.evaluate.study`; None where the run was cancelled."""
    stopped: str = ""
    """"", "early" or "cancelled"."""
    seconds: dict[str, float]
    """By phase: decode, forward, backward, optimiser, evaluate."""


class Predictions(BaseModel):
    """predictions.json."""

    rows: list[dict]
    """Of `nearl.measure.evaluate.rows`, with "image", the index in the job."""


@dataclass
class Outcome:
    """What a run with one method and one seed has given."""

    adapter: Adapter
    results: dict | None
    """As in `Results`."""
    rows: list[dict]
    """As in `Predictions`."""
    stopped: str
    """As in `Results`."""
    seconds: dict[str, float]
    """As in `Results`."""


_STATUS = TypeAdapter(Status)


class RunFolder:
    """One run in the folder ``path``. Any number of processes may look at it; one at a time works on it (`record`)."""

    def __init__(self, path: Path | str):
        self.path = Path(path)

    def create(self, job: Job) -> RunFolder:
        """Write a new run. NearlError if there is one already, or the folder cannot be written."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self.exists():
                raise NearlError(f"There is a run in '{self.path.name}' already; resume it or choose another folder.")
            self._tensors("job.safetensors", {"images": job.images})
            self._text("job.json", json.dumps(job.to_plain(), ensure_ascii=False))
            self._write(Status(total=len(job.pairs)))
        except (OSError, SafetensorError) as error:
            why_not = getattr(error, "strerror", None) or "the disk may be full"
            raise NearlError(f"The run cannot be kept in '{self.path.name}': {why_not}.") from error
        return self

    def exists(self) -> bool:
        return self._file("status.json").is_file()

    def load(self) -> RunFolder:
        """This folder. NearlError if there is no run in it."""
        if not self.exists():
            raise NearlError(f"There is no run in '{self.path}'.")
        return self

    # ---- looking ----------------------------------------------------------------------------------------------------

    def look(self) -> Status:
        """How far the run is. Reads one file, and asks for the lock only of a run that is being worked on."""
        status = self._saved()
        if status.state in (TEACHING, CHECKING) and not self.alive:
            status = self._saved()  # it may have ended between the two looks
            if status.state in (TEACHING, CHECKING):
                return replace(status, state=INTERRUPTED)
        return status

    @property
    def alive(self) -> bool:
        """Whether a living process works on it."""
        if not self._file("lock").exists():
            return False
        try:
            with FileLock(self._file("lock"), blocking=False, thread_local=False, mode=0o600):
                return False
        except Timeout:
            return True
        except OSError:  # the folder was removed a moment ago
            return False

    @cached_property
    def about(self) -> Job:
        """What the run is to do, without the images. NearlError if the file is damaged."""
        return self._job(None)

    def job(self) -> Job:
        """What the run is to do. NearlError if its files are damaged, or the images deleted."""
        try:
            return self._job(load_file(self._file("job.safetensors"))["images"])
        except (OSError, SafetensorError, KeyError) as error:
            raise self._damaged("job.safetensors") from error

    @property
    def rows(self) -> list[dict]:
        """A row (`nearl.runs.teaching.Finished`) for each method and seed that is finished or has failed."""
        return [row | {"method": self.about.name_now(row["method"])} for row in self._lines("rows.jsonl")]

    def todo(self) -> list[Pair]:
        """The methods and seeds that have no row yet."""
        done = {(row["method"], row["seed"]) for row in self.rows}
        return [pair for pair in self.about.pairs if pair not in done]

    def adapter(self, name: str) -> Adapter:
        """The adapter of a finished method. NearlError where there is none."""
        if not self._adapter(name).is_dir():
            raise NearlError("This run has no adapter, or it was deleted.")
        return load_adapter(self._adapter(name))

    def results(self) -> Results | None:
        """The figures of a run with one method and one seed; None before its end, and where nothing was learned."""
        return self._parsed("results.json", Results) if self._file("results.json").is_file() else None

    def predictions(self) -> list[dict] | None:
        """Every held-out image of such a run; None where there are no `results`."""
        return self._parsed("predictions.json", Predictions).rows if self._file("predictions.json").is_file() else None

    def outcome(self) -> Outcome | None:
        """The adapter, figures and images of such a run; None before its end, and where nothing was learned."""
        found = self.results()
        if found is None:
            return None
        adapter = self.adapter("")  # there is one method
        return Outcome(adapter, found.results, self.predictions() or [], found.stopped, found.seconds)

    def snapshot(self) -> Snapshot | None:
        """Where to resume, or None: then what is being taught starts again. NearlError if the file is damaged."""
        try:
            with safe_open(self._file("snapshot.safetensors"), "pt") as file:
                about = json.loads(file.metadata()["about"])
                if "method" not in about:  # of version 0.1, whose training loop was another one
                    return None
                return Snapshot({name: file.get_tensor(name) for name in file.keys()}, about)  # noqa: SIM118  no dict
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise self._damaged("snapshot.safetensors") from error

    # ---- steering ---------------------------------------------------------------------------------------------------

    def wait(self, phase: str = "", note: str = "") -> None:
        """Mark a run that is to be started or resumed as waiting for its turn. ``note``: of its status, if not ""."""
        was = self._saved()
        self._write(replace(was, state=WAITING, phase=phase, error="", stopped="", note=note or was.note))

    def request_cancel(self) -> None:
        """Ask the run to stop at its next step. One that nobody works on, or is about to, is cancelled at once."""
        self._file("cancel").touch()
        status = self.look()
        if status.state == INTERRUPTED or (status.state == WAITING and status.phase != STARTING):
            self.cancelled()

    def cancel_requested(self) -> bool:
        """Whether the run has been asked to stop."""
        return self._file("cancel").exists()

    def cancelled(self) -> None:
        """The run has ended because it was asked to."""
        self._write(replace(self._saved(), state=CANCELLED, stopped=CANCELLED, seconds_left=None))

    def failed(self, sentence: str) -> None:
        """The run has ended in a way that this sentence explains."""
        self._write(replace(self._saved(), state=FAILED, error=sentence, seconds_left=None))

    def lost(self, sentence: str) -> None:
        """The process of the run has died, which this sentence explains: of several methods the one at work has failed,
        and the run waits if more is to be done."""
        status = self._saved()
        if self.about.alone or (status.method, status.seed) not in self.todo():
            self.failed(sentence)
            return
        self._add(Finished({"method": status.method, "seed": status.seed, "error": sentence}))
        self._write(replace(status, state=WAITING if self.todo() else DONE, done=len(self.rows)))

    def take_over(self, other: RunFolder) -> None:
        """Begin with what another run has finished of the same work: its rows and adapters. What failed there is done
        again. For a new run that nobody works on."""
        todo = self.todo()
        rows = [row for row in other.rows if "error" not in row and (row["method"], row["seed"]) in todo]
        for name in {row["method"] for row in rows if other._adapter(row["method"]).is_dir()}:
            shutil.copytree(other._adapter(name), self._adapter(name), dirs_exist_ok=True)
        self._text("rows.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
        self._write(replace(self._saved(), done=len(rows)))

    def has_images(self) -> bool:
        """Whether its images are still there."""
        return self._file("job.safetensors").is_file()

    def forget_images(self) -> None:
        """Delete the images of a finished run; its figures and its adapters stay."""
        self._file("job.safetensors").unlink(missing_ok=True)

    def forget_adapter(self, name: str) -> None:
        """Delete the adapter of a finished method, or all of a damaged run; the figures stay."""
        paths = [self.path / "adapter", self.path / "adapters"]
        with contextlib.suppress(NearlError):
            paths = [self._adapter(name)]
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)

    # ---- working ----------------------------------------------------------------------------------------------------

    def record(self, events: Iterable[Event]) -> Iterator[Event]:
        """Write the events of `nearl.runs.teaching.perform` as they come, and yield them.

        The run is done when every method and seed has a row; it waits if some have none. If an exception ends the
        events, the run has failed with one sentence, and NearlError is raised with it. If that is LeftOff, or this
        generator is closed, the run is left as it is, to be resumed.
        """
        with self._hold():
            status = replace(self._saved(), state=TEACHING, phase=STARTING, error="", stopped="")
            self._write(status)
            written = 0.0
            try:
                for event in events:
                    if isinstance(event, Snapshot):
                        self._tensors("snapshot.safetensors", event.tensors, {"about": json.dumps(event.about)})
                    elif isinstance(event, Finished):
                        self._add(event)
                        status = replace(status, done=len(self.rows), stopped=event.row.get("stopped", ""))
                    else:
                        before, status = status, after(status, event)
                        same = (before.phase, before.method, before.seed) == (status.phase, status.method, status.seed)
                        if same and status.step < status.steps and time.monotonic() - written < STATUS_SECONDS:
                            yield event
                            continue
                        written = time.monotonic()
                    self._write(status)
                    yield event
            except LeftOff:
                raise
            except Exception as error:
                sentence = why(error)
                with contextlib.suppress(OSError):  # such as a full disk
                    self._write(status)
                    self.failed(sentence)
                raise error if isinstance(error, NearlError) else NearlError(sentence) from error
            todo = self.todo()
            stopped = status.stopped == CANCELLED or bool(todo and self.cancel_requested())
            state = CANCELLED if stopped else WAITING if todo else DONE
            self._file("snapshot.safetensors").unlink(missing_ok=True)
            ended = CANCELLED if stopped else status.stopped if self.about.alone else ""
            self._write(replace(status, state=state, stopped=ended, seconds_left=None if todo else 0.0))

    @contextlib.contextmanager
    def _hold(self, seconds: float = 3.0) -> Iterator[None]:
        """Hold the lock, which is released however this process ends. Tries for ``seconds``, since another process may
        just be looking (`alive`), then raises NearlError."""
        lock = FileLock(self._file("lock"), timeout=seconds, thread_local=False, mode=0o600)
        try:
            lock.acquire()
        except Timeout:
            raise NearlError(f"The run in '{self.path.name}' is being taught by another process.") from None
        try:
            yield
        finally:
            lock.release()

    def _add(self, found: Finished) -> None:
        """Keep what a finished pair has given."""
        row, alone = found.row, self.about.alone
        if found.adapter is not None:
            save_adapter(found.adapter, self._adapter(row["method"]))
        if alone and found.adapter is not None:
            self._text("predictions.json", Predictions(rows=found.images).model_dump_json())
            results = Results(results=found.results, stopped=row["stopped"], seconds=row["seconds"])
            self._text("results.json", results.model_dump_json())
        self._file("snapshot.safetensors").unlink(missing_ok=True)
        with self._file("rows.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    # ---- files ------------------------------------------------------------------------------------------------------

    def _file(self, name: str) -> Path:
        return self.path / name

    def _adapter(self, name: str) -> Path:
        return self.path / "adapter" if self.about.alone else self.path / "adapters" / self.about.folder_of(name)

    def _saved(self) -> Status:
        """What status.json says."""
        try:
            plain = json.loads(self._file("status.json").read_text(encoding="utf-8"))
            if "total" not in plain:
                plain |= self._of_version_0_1(plain)
            if plain.get("method") in FORMERLY.values():
                plain["method"] = self.about.name_now(plain["method"])
            return _STATUS.validate_python(plain)
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise self._damaged("status.json") from error

    def _of_version_0_1(self, plain: dict) -> dict:
        """What status.json of version 0.1 lacks; the curves were in progress.jsonl."""
        steps = [event for event in self._lines("progress.jsonl") if event.get("phase") == TEACHING]
        curves = {
            name: sorted({e["step"]: e[key] for e in steps if e.get(key) is not None}.items())
            for name, key in (("losses", "loss"), ("held", "held_out"))
        }
        total = len(self.about.pairs)
        last = dict(zip(("method", "seed"), self.about.pairs[-1], strict=True))
        return {**last, **plain, **curves, "done": total if plain["state"] == DONE else len(self.rows), "total": total}

    def _write(self, status: Status) -> None:
        self._text("status.json", json.dumps(asdict(status), ensure_ascii=False))

    def _job(self, images: torch.Tensor | None) -> Job:
        try:
            return Job.from_plain(json.loads(self._file("job.json").read_text(encoding="utf-8")), images)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._damaged("job.json") from error

    def _parsed(self, name: str, kind: type[BaseModel]):
        try:
            return kind.model_validate_json(self._file(name).read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise self._damaged(name) from error

    def _lines(self, name: str) -> list[dict]:
        """The lines of a JSON Lines file; the last one may be half written and is then ignored."""
        try:
            lines = self._file(name).read_text(encoding="utf-8").splitlines(keepends=True)
        except FileNotFoundError:
            return []
        try:
            return [json.loads(line) for line in lines if line.endswith("\n")]
        except (ValueError, RecursionError) as error:
            raise self._damaged(name) from error

    def _text(self, name: str, text: str) -> None:
        with self._whole(name) as partial:
            partial.write_text(text, encoding="utf-8")

    def _tensors(self, name: str, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
        with self._whole(name) as partial:
            save_file({key: value.contiguous() for key, value in tensors.items()}, partial, metadata)

    @contextlib.contextmanager
    def _whole(self, name: str) -> Iterator[Path]:
        """A path to write a file to, which then takes the file's name; nothing of it is left where that fails. Each
        thread has its own: the page may cancel a run at the moment in which its queue writes."""
        partial = self._file(f".{name}.{threading.get_native_id()}.partial")
        try:
            yield partial
            partial.replace(self._file(name))
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise

    def _damaged(self, name: str) -> NearlError:
        return NearlError(f"The file {name} of the run in '{self.path.name}' is missing or damaged; start a new run.")
