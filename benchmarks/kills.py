"""Kills the server and the worker of a run, again and again, and looks whether anything was lost.

``PYTHONPATH=. python benchmarks/kills.py [--kills 30] [--training 24] [--backbone embedded]``

Two visitors with labelled images teach again and again, so that one of them waits for the other. The worker, the host
that forks it, or the server is ended with KILL or TERM: ``--training`` times while the worker is teaching, else at any
moment, such as while it starts or a result is put on the shelf. A server that was ended is started again, and the pages
come back with the ids that a browser keeps. Prints a table, and ends with status 1 where anything is lost:

- an adapter on a shelf or a labelled image is gone or has changed;
- a run does not end with an adapter, unless its worker or host was killed: then it says so in a sentence and can be
  started again, and that of the other visitor goes on;
- what was taught answers unlike what was taught without kills;
- there is half a file, or a traceback in the server's log.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
from gradio_client import Client, handle_file
from visitors import PROMPTS, Server, client_of, same, serving

from app.visitor.disk import folder_name
from nearl.data.phantoms.kinds import write_phantom_folder
from nearl.errors import NearlError
from nearl.runs import RunFolder, Status

PATIENCE = 1800.0  # seconds for anything at all, on a machine that has other work
SERVER, HOST, WORKER = "server", "host", "worker"
MOST_SERVER_KILLS = 3  # during one run, which is given up after more
ADAPTERS = 12  # that a visitor keeps


class Lost(Exception):
    """What was lost, in words."""


def until(condition: Callable[[], object], words: str) -> None:
    """Wait until something is so. Lost, with these words, if it is never."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise Lost(words)
        time.sleep(0.02)


class Visitor:
    """A page that comes back with the id of its workspace, and whose runs are watched on the disk."""

    def __init__(self, name: str, task: Path, image: Path, workspaces: Path):
        self.name, self.task, self.image, self._workspaces = name, task, image, workspaces
        self.key: str | None = None
        self.server_kills = self.worker_kills = 0  # during the run that is going on
        self.ended = 0  # runs that ended with an adapter
        self._client: Client | None = None

    def open(self, server: Server) -> None:
        """Open the page; what is called from now on comes from its session."""
        client = client_of(server)
        opened = next(d["id"] for d in client.config["dependencies"] if d["api_name"] == "opened")
        body = {"data": [self.key], "fn_index": opened, "session_hash": client.session_hash}
        answer = httpx.post(f"{server.url}/gradio_api/run/predict", json=body, timeout=300)
        found = answer.raise_for_status().json()["data"][-1]
        if self.key not in (None, found):
            raise Lost(f"{self.name} came back and was given another workspace")
        self.key, self._client = found, client

    @property
    def folder(self) -> Path:
        return self._workspaces / folder_name(self.key)

    def run(self) -> str:
        """The id of the latest run, "" if there is none."""
        try:
            return json.loads((self.folder / "state.json").read_text()).get("run", "")
        except FileNotFoundError:
            return ""

    def status(self) -> Status:
        try:
            return RunFolder(self.folder / "runs" / self.run()).look()
        except NearlError as error:
            raise Lost(f"the run of {self.name}: {error}") from None

    def facts(self) -> dict:
        """What a page is told of the latest run."""
        return self._client.predict(api_name="/run")

    def teach(self) -> None:
        """Start a run, and wait until it is there."""
        shelf = self._client.predict(api_name="/shelf")
        if shelf.get("notes"):
            raise Lost(f"the shelf of {self.name}: {shelf['notes']}")
        for old in shelf["adapters"][ADAPTERS:]:
            self._client.predict(old["id"], api_name="/delete")
        before = self.run()
        self._client.submit(handle_file(self.task), PROMPTS, "quick", api_name="/teach")
        until(lambda: self.run() not in ("", before), f"{self.name} could not start a run")
        self.server_kills = self.worker_kills = 0

    def answer(self) -> dict:
        """How the image is read with the adapter in use."""
        return self._client.predict([handle_file(self.image)], None, api_name="/predict")["predictions"][0]

    def kept(self) -> dict[str, str]:
        """The digest of every file of the shelf and of the labelled set."""
        files = [path for part in ("shelf", "set") for path in (self.folder / part).rglob("*") if path.is_file()]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def settle(self, reference: dict) -> None:
        """Look at a run that has ended. Lost where it has not ended as it should."""
        facts = self.facts()
        if facts["state"] == "failed" and self.worker_kills and str(facts["error"]).endswith("."):
            return
        if facts["state"] != "done":
            raise Lost(f"a run of {self.name} ended with {facts}")
        self.ended += 1
        if not same(answer := self.answer(), reference):
            raise Lost(f"{self.name} is answered {answer}, without kills {reference}")


class Trial:
    """The server, its visitors, and what was done to them."""

    def __init__(self, folder: Path, backbone: str, visitors: list[Visitor]):
        self.folder, self.backbone, self.visitors = folder, backbone, visitors
        self.table: Counter[tuple[str, str, bool]] = Counter()
        self._stack = contextlib.ExitStack()

    def start(self) -> None:
        self._stack.close()
        self.server = self._stack.enter_context(serving(self.folder, self.backbone))
        for visitor in self.visitors:
            visitor.open(self.server)

    def stop(self) -> None:
        self._stack.close()

    def targets(self) -> dict[str, int]:
        """The processes that there are, by what they are."""
        host, *worker = self.server.processes("-m nearl.runs") or [0]
        found = {SERVER: self.server.process.pid, HOST: host, WORKER: worker[0] if worker else 0}
        return {name: pid for name, pid in found.items() if pid}

    def taught(self) -> Visitor | None:
        """Whose run is being taught just now."""
        for visitor in self.visitors:
            status = visitor.status()
            if status.state == status.phase == "teaching" and status.step and WORKER in self.targets():
                return visitor
        return None

    def go_on(self, reference: dict) -> None:
        """Look at the runs that have ended, and start others."""
        for visitor in self.visitors:
            if visitor.facts()["state"] in ("done", "failed", "cancelled"):
                visitor.settle(reference)
                visitor.teach()

    def caught(self, reference: dict) -> Visitor:
        """Whose run is being taught, as soon as one is."""
        while True:
            until(lambda: self.taught() or self.all_ended(), "no run is being taught")
            if visitor := self.taught():
                return visitor
            self.go_on(reference)

    def kill(self, target: str, how: signal.Signals, training: Visitor | None) -> None:
        """End the server or the worker, and look that nothing is lost. training: whose run is being taught."""
        targets = self.targets()
        if training and training.server_kills >= MOST_SERVER_KILLS:
            target = WORKER
        target = target if target in targets else SERVER
        kept = [visitor.kept() for visitor in self.visitors]
        at_work = [visitor for visitor in self.visitors if not visitor.status().finished]
        with contextlib.suppress(ProcessLookupError):
            os.kill(targets[target], how)
        for visitor in at_work:
            visitor.server_kills += target == SERVER
            visitor.worker_kills += target != SERVER and training in (None, visitor)
        if target == SERVER:
            self.server.process.wait()
        elif training:
            until(lambda: training.status().finished, f"the run of {training.name} goes on without its worker")
        self.table[target, how.name, training is not None and training.status().state != "done"] += 1
        if target == SERVER:
            self.start()
        for visitor, before in zip(self.visitors, kept, strict=True):
            after = visitor.kept()
            if gone := [path for path, digest in before.items() if after.get(path) != digest]:
                raise Lost(f"of {visitor.name}: {gone}")

    def all_ended(self) -> bool:
        return all(visitor.status().finished for visitor in self.visitors)

    def halves(self) -> list[str]:
        """Files that were begun and not finished."""
        return [str(path) for path in self.folder.rglob("*") if path.name.endswith(".partial")]


def torture(trial: Trial, kills: int, training: int) -> None:
    trial.start()
    first = trial.visitors[0]
    first.teach()
    until(lambda: first.facts()["state"] in ("done", "failed"), "the first run did not end")
    reference = first.answer()
    trial.visitors[1].teach()
    plan = [(target, how) for target in (WORKER, HOST, SERVER) for how in (signal.SIGKILL, signal.SIGTERM)]
    for number in range(kills):
        trial.go_on(reference)
        if number < training:
            trial.kill(*plan[number % len(plan)], trial.caught(reference))
        else:
            time.sleep(random.uniform(0.0, 6.0))
            trial.kill(*plan[number % len(plan)], None)
        print(f"{number + 1}: {dict(trial.table)}", flush=True)
    until(trial.all_ended, "the last runs did not end")
    for visitor in trial.visitors:
        until(lambda visitor=visitor: visitor.facts()["state"] in ("done", "failed"), "the last runs did not end")
        visitor.settle(reference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--training", type=int, default=24)
    parser.add_argument("--backbone", default="embedded")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server ends too
    lost = []
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        made = write_phantom_folder(folder / "head", "head_mri", train=6, test=2, size=64)
        image, task = sorted((made / "test").glob("*/*.png"))[0], folder / "task.zip"
        with zipfile.ZipFile(task, "w") as out:
            for file in sorted(made.rglob("*.png")):
                out.write(file, file.relative_to(made))
        visitors = [Visitor(f"visitor {n}", task, image, folder / "root" / "workspaces") for n in (1, 2)]
        trial = Trial(folder, options.backbone, visitors)
        try:
            torture(trial, options.kills, options.training)
        except Lost as error:
            lost.append(str(error))
        finally:
            trial.stop()
        log = (folder / "log").read_text()
        if "Traceback" in log:
            lost.append("there is a traceback in the log")
            print(log[-3000:])
        lost += [f"half a file: {path}" for path in trial.halves()]
    print("| what | with | kills | while a worker was training |\n|---|---|---|---|")
    for target in (SERVER, HOST, WORKER):
        for how in ("SIGKILL", "SIGTERM"):
            with_it, without = trial.table[target, how, True], trial.table[target, how, False]
            print(f"| {target} | {how} | {with_it + without} | {with_it} |")
    print(f"runs that ended with an adapter: {sum(visitor.ended for visitor in visitors)}")
    print("\n".join(f"lost: {words}" for words in lost) or "nothing lost")
    sys.exit(bool(lost))


if __name__ == "__main__":
    main()
