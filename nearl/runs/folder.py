"""A teaching run on disk: what it is of, how far it is, and what came of it. Every file is written by rename.

    job.safetensors, job.json   what is to be done (`nearl.runs.job.Job`)
    status.json                 {"state", "phase", "step", "steps", "seconds_left", "error", "stopped"}
    progress.jsonl              one event a line
    snapshot.safetensors        where to go on from, while the run is not finished
    cancel                      there when somebody asked the run to stop
    adapter/                    the adapter, see `nearl.adapters.store`
    results.json, predictions.json   what was measured, and each held-out image

States: "waiting" -> "teaching" -> "checking" -> "done" | "cancelled" | "failed"; a run in the middle that no living
process is working on is "interrupted".
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from nearl.adapters.store import load_adapter, save_adapter
from nearl.errors import NearlError
from nearl.runs.job import CHECKING, TEACHING, Job, Outcome
from nearl.runs.lock import held, hold
from nearl.runs.status import CANCELLED, DONE, FAILED, INTERRUPTED, STARTING, WAITING, Status
from nearl.train.recipe import Snapshot

log = logging.getLogger("nearl.runs")

NO_MEMORY = (
    "There was not enough memory for this run, so it was stopped; teach with fewer images or classes, or with a "
    "smaller model."
)
FAULT = "Teaching stopped because of a fault; the details are on the console of the program."
BLANK = {"state": WAITING, "phase": "", "step": 0, "steps": 0, "seconds_left": None, "error": "", "stopped": ""}


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
            self._json("job.json", job.to_plain())
            self._status(state=WAITING)
        except OSError as error:
            raise NearlError(f"The run cannot be kept in '{self.path.name}': {error.strerror}.") from error
        return self

    def exists(self) -> bool:
        """Whether there is a run in the folder."""
        return self._file("status.json").is_file()

    def load(self) -> RunFolder:
        """Make sure that there is a run. NearlError if not."""
        if not self.exists():
            raise NearlError(f"There is no run in '{self.path}'.")
        return self

    # ---- looking ----------------------------------------------------------------------------------------------------

    @property
    def status(self) -> dict:
        """What status.json says, with "interrupted" for a run that was left in the middle."""
        status = BLANK | self._read("status.json")
        if status["state"] in (TEACHING, CHECKING) and not self.alive:
            again = BLANK | self._read("status.json")  # it may have ended between the two looks
            status = again | {"state": INTERRUPTED} if again["state"] in (TEACHING, CHECKING) else again
        return status

    def look(self) -> Status:
        """How far the run is; what a page shows of its progress comes from one call of this."""
        curve = [event for event in self.events if event.get("phase") == TEACHING]
        held = {e["step"]: e["held_out"] for e in curve if e.get("held_out") is not None}
        losses = {e["step"]: e["loss"] for e in curve if e.get("loss") is not None}
        return Status(**self.status, losses=tuple(sorted(losses.items())), held=tuple(sorted(held.items())))

    @property
    def finished(self) -> bool:
        """Whether the run has ended and nothing more will come of it."""
        return self.status["state"] in (DONE, CANCELLED, FAILED)

    @property
    def alive(self) -> bool:
        """Whether a living process works on it."""
        return held(self._file("lock"))

    @property
    def events(self) -> list[dict]:
        """All events of `nearl.runs.job.teach` so far, without snapshots."""
        try:
            lines = self._file("progress.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.endswith("\n")]  # the last may be half written

    def job(self) -> Job:
        """What the run is of. NearlError if its files are damaged."""
        try:
            images = load_file(self._file("job.safetensors"))["images"]
            return Job.from_plain(images, self._read("job.json"))
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise self._damaged("job") from error

    def snapshot(self) -> Snapshot | None:
        """Where to go on from, or None. NearlError if the file is damaged."""
        try:
            with safe_open(self._file("snapshot.safetensors"), "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
                return Snapshot(tensors, json.loads(file.metadata()["about"]))
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise self._damaged("snapshot.safetensors") from error

    def outcome(self) -> Outcome | None:
        """What came of it; None before the end, and where nothing did."""
        if not self._file("results.json").is_file():
            return None
        about, rows = self._read("results.json"), self._read("predictions.json")
        adapter = load_adapter(self.path / "adapter")
        return Outcome(adapter, about["results"], rows["rows"], about["stopped"], about["seconds"])

    # ---- steering ---------------------------------------------------------------------------------------------------

    def wait(self, phase: str = "") -> None:
        """Mark a run that is to be started, or resumed, as waiting for its turn."""
        self._status(**self._read("status.json") | {"state": WAITING, "phase": phase, "error": "", "stopped": ""})

    def request_cancel(self) -> None:
        """Ask the run to stop at its next step. One that nobody works on, or is about to, is cancelled at once."""
        self._file("cancel").touch()
        status = self.status
        if status["state"] == INTERRUPTED or (status["state"] == WAITING and status["phase"] != STARTING):
            self._status(**status | {"state": CANCELLED, "stopped": CANCELLED})

    def cancel_requested(self) -> bool:
        return self._file("cancel").exists()

    # ---- working ----------------------------------------------------------------------------------------------------

    def record(self, events: Iterable[dict]) -> Iterator[dict]:
        """Write the events of `nearl.runs.job.teach` as they come, and hand on those of its steps.

        The run ends as "failed", with one sentence, if the events do so; then NearlError is raised with it. It is left
        as it is, to be resumed, if this generator is closed.
        """
        with hold(self._file("lock")):
            saved = self.snapshot()
            lines = saved.about["events"] if saved else 0
            self._text("progress.jsonl", "".join(json.dumps(event) + "\n" for event in self.events[:lines]))
            self._status(**self._read("status.json") | {"state": TEACHING, "phase": STARTING, "error": ""})
            try:
                with self._file("progress.jsonl").open("a", encoding="utf-8") as progress:
                    for event in events:
                        if "snapshot" in event:
                            self._save_snapshot(event["snapshot"], lines)
                        elif "done" in event:
                            self._finish(event["done"])
                        else:
                            progress.write(json.dumps(event) + "\n")
                            progress.flush()
                            lines += 1
                            shown = {key: event[key] for key in ("phase", "step", "steps", "seconds_left")}
                            self._status(state=CHECKING if event["phase"] == CHECKING else TEACHING, **shown)
                            yield event
            except Exception as error:
                sentence = why(error)
                self.fail(sentence)
                if isinstance(error, NearlError):
                    raise
                raise NearlError(sentence) from error

    def forget_images(self) -> None:
        """Delete the images of a finished run; its figures and its adapter stay."""
        self._file("job.safetensors").unlink(missing_ok=True)

    def fail(self, sentence: str) -> None:
        """The run has ended in a way that this sentence explains."""
        status = BLANK | self._read("status.json")
        self._status(**status | {"state": FAILED, "error": sentence, "seconds_left": None})

    def _finish(self, outcome: Outcome) -> None:
        if outcome.adapter is not None:
            save_adapter(outcome.adapter, self.path / "adapter")
            self._json("predictions.json", {"rows": outcome.rows})
            about = {"results": outcome.results, "stopped": outcome.stopped, "seconds": outcome.seconds}
            self._json("results.json", about)
        self._file("snapshot.safetensors").unlink(missing_ok=True)
        state = CANCELLED if outcome.stopped == CANCELLED else DONE
        self._status(**self._read("status.json") | {"state": state, "stopped": outcome.stopped, "seconds_left": 0.0})

    def _save_snapshot(self, snapshot: Snapshot, lines: int) -> None:
        about = json.dumps(snapshot.about | {"events": lines})
        self._tensors("snapshot.safetensors", snapshot.tensors, {"about": about})

    # ---- files ------------------------------------------------------------------------------------------------------

    def _file(self, name: str) -> Path:
        return self.path / name

    def _status(self, **changes) -> None:
        self._json("status.json", BLANK | changes)

    def _json(self, name: str, content: dict) -> None:
        self._text(name, json.dumps(content, ensure_ascii=False))

    def _text(self, name: str, text: str) -> None:
        partial = self._file(f".{name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(self._file(name))

    def _tensors(self, name: str, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
        partial = self._file(f".{name}.partial")
        save_file({key: value.contiguous() for key, value in tensors.items()}, partial, metadata)
        partial.replace(self._file(name))

    def _read(self, name: str) -> dict:
        try:
            return json.loads(self._file(name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._damaged(name) from error

    def _damaged(self, name: str) -> NearlError:
        return NearlError(f"The file {name} of the run in '{self.path.name}' is missing or damaged; start a new run.")


def why(error: Exception) -> str:
    """The one sentence for whoever started the run; what nobody expected goes to the log in full."""
    if isinstance(error, NearlError):
        return str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "t allocate memory" in str(error):
        return NO_MEMORY
    log.exception("teaching")
    return FAULT
