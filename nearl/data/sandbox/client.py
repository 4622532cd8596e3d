"""Reads untrusted files in worker processes with limited memory and CPU time, so that no file can take the app down or
hold it up.

A few workers are shared; whoever asks gets turns of about a second (`turns`). A file that ends its worker is named and
not tried again; the rest is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np

from nearl.data.formats.drafts import PICTURE, scan_from, space_for
from nearl.data.records import ImageRecord, Problem, base_name
from nearl.data.sandbox import request as requests
from nearl.data.sandbox.messages import Key, Source
from nearl.data.sandbox.process import CRASH, LATE, REQUEST, Died, Worker
from nearl.data.sandbox.request import Request, TooMany
from nearl.data.sandbox.turns import Turns

WORKERS = 2
MEMORY = 3_000_000_000  # our choice: five times the largest scan
CPU = 8.0  # our choice: twice what the largest still image needs
SECONDS = 60.0 if os.name == "nt" else 300.0  # where no CPU time is limited, it is the only limit
TURN = 1.0


Found = tuple[list[tuple[int, ImageRecord]], list[tuple[int, Problem]]]  # each with the index of its source


class Sandbox:
    """Worker processes and the jobs sent to them. Thread-safe.

    memory: bytes of address space of a worker. cpu: seconds of CPU time for one file, and more for what it yields
    (`clock`). seconds: of time without a word from a worker, which then is stuck. turn: seconds of CPU time after which
    somebody else may have the worker.
    """

    def __init__(
        self,
        memory: int = MEMORY,
        seconds: float = SECONDS,
        cpu: float = CPU,
        workers: int = WORKERS,
        turn: float = TURN,
    ):
        self.cpu, self.turn = cpu, turn
        self._turns = Turns([Worker(memory, cpu, seconds) for _ in range(workers)])
        self._numbers = count()

    @property
    def peak(self) -> int:
        """The most memory that any worker process has used so far, in bytes."""
        return max(worker.peak for worker in self._turns.workers)

    @property
    def started(self) -> int:
        """The number of worker processes started so far."""
        return sum(worker.started for worker in self._turns.workers)

    def read(self, sources: Sequence[Source], max_side: int | None = None, images: int | None = None) -> Found:
        """(records, problems) of the sources, each with the index of its source. Files that crash a worker or use up
        their CPU time become problems, and the rest is read, as far as the request allows (`requests.current`).

        TooMany if there are more than so many images; nothing was decoded then.
        """
        job = _Job(next(self._numbers), sources, max_side, images, requests.current())
        for _ in self._work(job):
            pass
        if job.excess is not None:
            raise TooMany(job.excess, images)
        return job.records, job.problems

    def stream(self, sources: Sequence[Source], max_side: int | None = None) -> Iterator[Found]:
        """The same in portions, each as soon as it is read, so that not all records are in memory together."""
        job = _Job(next(self._numbers), sources, max_side, None, requests.current())
        for _ in self._work(job):
            yield job.settled()
        yield job.records, job.problems

    def _work(self, job: _Job) -> Iterator[None]:
        """Work on a job until it is done, or this generator is closed; pauses after every turn."""
        worker: Worker | None = None
        try:
            while not job.done:
                with self._turns.turn(job.request.asker, worker) as turn:
                    worker = turn.worker
                    turn.cost = self._turn(job, worker)
                yield
        finally:
            if worker is not None and not job.done:
                with self._turns.turn(job.request.asker, worker):
                    worker.close(job.number)

    def close(self) -> None:
        """Stop the workers, when nobody uses them; the next job starts others."""
        with self._turns.all() as workers:
            for worker in workers:
                worker.stop()

    def _turn(self, job: _Job, worker: Worker) -> float:
        """Go on with a job; how many seconds of CPU time it took."""
        used, fresh = job.request.used, not worker.used
        if not job.afford():
            worker.close(job.number)
            return 0.0
        try:
            if job.number not in worker.jobs:
                worker.open(job.number, job.sources, job.order())
            worker.turn(job.number, self.turn, job.request.left, lambda kind, message: job.take(kind, message, worker))
        except Died as died:
            job.worker_died(died.why, fresh, self.cpu)
        return job.request.used - used


class _Job:
    """The sources of one call, and what has come of them so far."""

    def __init__(
        self, number: int, sources: Sequence[Source], max_side: int | None, images: int | None, request: Request
    ):
        self.number, self.sources, self.request = number, sources, request
        self.records: list[tuple[int, ImageRecord]] = []
        self.problems: list[tuple[int, Problem]] = []
        self.done = False
        self.excess: int | None = None  # how many images there are, where these are too many
        self._max_side, self._images = max_side, images
        self._skip: set[Key] = set()  # read, refused, or ended a worker
        self._settled = 0  # records of those
        self._file: tuple[Key, str] | None = None  # being worked on, and its name
        self._spent = 0.0  # seconds of CPU time in this turn, at the last word of the worker
        self._begun = False  # that file, in this turn
        self._to_do: int | None = None  # files that the worker has listed and not finished
        self._said: set[tuple[int, Problem]] = set()
        self._suspects: set[Key] = set()  # crashed a worker that earlier jobs may have harmed
        self._header: dict | None = None  # of the draft that is being received
        self._space: np.ndarray | None = None
        self._filled = 0

    def order(self) -> dict:
        """What a worker that has not seen the job needs to know of it. Unfinished files are read again from the start:
        their records are dropped."""
        self._header = self._space = self._file = self._to_do = None
        self.request.held -= sum(map(_size, self.records[self._settled :]))
        del self.records[self._settled :]
        room, images = self.request.room, None if self._images is None else self._images - len(self.records)
        return {"max_side": self._max_side, "images": images, "skip": list(self._skip), "room": room}

    def settled(self) -> Found:
        """What will not change any more, handed over once."""
        records, self.records = self.records[: self._settled], self.records[self._settled :]
        problems, self.problems, self._settled = self.problems, [], 0
        return records, problems

    def afford(self) -> bool:
        """Whether the request has CPU time left; otherwise the rest is given up with a sentence."""
        left = self.request.left
        if left is not None and left <= 0:
            key, name = self._file or self._next()
            source, what = key[0], f"{name} was"
            if len(self.sources) > 1 or (self._to_do or 0) > 1:
                what = f"What follows {name} was" if key in self._skip else f"{name} and what follows it were"
            reason = f"{what} left out: decoding takes too long in all; bring fewer images at a time."
            self.problems.append((source, Problem(name, reason)))
            self.done = True
        return not self.done

    def take(self, kind: bytes, message: Any, worker: Worker) -> None:
        """Take one message of the worker. Raises ValueError, KeyError or TypeError for one that makes no sense."""
        if kind == b"D":
            view = memoryview(self._space).cast("B")[self._filled : self._filled + message]
            if len(view) != message:
                raise EOFError
            worker.fill(view)
            self._filled += message
            self.request.received += message
            if self._filled == self._space.nbytes:
                self._finish()
        elif kind == b"F":
            (source, place), name, self._spent = message
            self._file = (range(len(self.sources))[source], int(place)), base_name(str(name))
            self._begun = True
        elif kind == b"N":
            self._count(*message)
        elif kind == b"H":
            if self._header is not None:
                raise ValueError("a draft without its end")
            self._header, self._space, self._filled = message, space_for(message), 0
        elif kind == b"E":
            source, name, reason = message
            self._header = self._space = None
            problem = range(len(self.sources))[source], Problem(base_name(str(name)), str(reason))
            if problem not in self._said:  # a job that is begun again repeats some
                self._said.add(problem)
                self.problems.append(problem)
        elif kind == b"U":
            self._leave(message[0])
        elif kind == b"Z":
            self.request.used += float(message["spent"])
            self._spent, self._begun, self.done = 0.0, False, bool(message["done"])
            if self.done and self._header is not None:
                raise ValueError("a draft without its end")

    def worker_died(self, why: str, fresh: bool, seconds: float) -> None:
        """Leave out the file that the worker was at, unless the request ended it. seconds: of CPU time for a file.

        A crash of a worker that was not fresh may have other causes: the file is tried again once.
        """
        (key, name), left = self._file or self._next(), self.request.left
        self._header = self._space = None
        if why == REQUEST and left is not None:
            self.request.used += left
            return
        self.request.used += self._spent
        if why == LATE:  # in this turn alone, or in several that are counted already
            self.request.used += seconds if self._begun else TURN
        self._spent, self._begun = 0.0, False
        if why == CRASH and not fresh and key not in self._suspects:
            self._suspects.add(key)
            return
        self._leave([key])
        what = "took too long to decode" if why == LATE else "made the decoder fail"
        self.problems.append((key[0], Problem(name, f"{name} {what} and was left out; export it again or as PNG.")))
        self.done = self._to_do == 0 or {(source, -1) for source in range(len(self.sources))} <= self._skip

    def _next(self) -> tuple[Key, str]:
        """The first source that was not begun, as a file."""
        begun = {source for source, _ in self._skip}
        source = next((i for i in range(len(self.sources)) if i not in begun), 0)
        return (source, -1), base_name(self.sources[source][0])

    def _leave(self, keys: Sequence[Sequence[int]]) -> None:
        """Mark these files as dealt with, so that no worker reads them again."""
        self._settled = len(self.records)
        self._skip |= {(source, place) for source, place in keys}
        if self._to_do is not None:
            self._to_do -= len(keys)

    def _count(self, files: int, images: int) -> None:
        self._to_do = files
        if self._images is not None and images + len(self.records) > self._images:
            self.excess = images + len(self.records)

    def _finish(self) -> None:
        header, space = self._header, self._space
        self._header = self._space = None
        name = base_name(str(header["name"]))
        if header["kind"] == PICTURE:
            record = ImageRecord.from_pixels(name, space, [str(note)[:300] for note in header["meta"]["notes"]])
        else:
            record = ImageRecord.from_scan(name, scan_from(header["meta"], space))
        self.records.append((range(len(self.sources))[header["source"]], record))
        self.request.held += space.nbytes


def _size(item: tuple[int, ImageRecord]) -> int:
    """Bytes of what was received for a record."""
    record = item[1]
    return record.pixels.nbytes if record.scan is None else record.scan.voxels.nbytes


SHARED = Sandbox()
