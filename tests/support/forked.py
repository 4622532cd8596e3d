"""`python app.py` and hosts of runs without their imports, which take ten seconds of processor time: forked from one
process that has imported everything. All tests of a session share it; it starts when the first one asks for it.

What is forked has arguments, environment, working folder and standard streams of its own, as a program that is started.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from filelock import FileLock

from nearl.runs import host
from tests.support.pages import ROOT

SESSION = "NEARL_TEST_SESSION"  # environment: a folder of this test session, which vanishes at its end
OWNER = "owner"  # a file in it: the id of the session's process
FORKS = hasattr(os, "pidfd_open")
READ_EARLY = ("GRADIO_", "SPACE", "SYSTEM", "NEARL_")  # beginnings of variables that programs get on their own
QUIET = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
_parents: list[subprocess.Popen] = []
_start = host.command


class Program:
    """A forked program; what its users need of it is as of a `subprocess.Popen`."""

    def __init__(self, connection: socket.socket, stdin=None, stdout=None):
        self._connection, self.stdin, self.stdout = connection, stdin, stdout
        self.returncode: int | None = None
        self.pid = int(connection.recv(64))

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                said = self._connection.recv(64)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired("a forked program", timeout or 0.0) from None
            self.returncode = int(said or -signal.SIGKILL)
            self._connection.close()
        return self.returncode

    def poll(self) -> int | None:
        try:
            return self.wait(0.0)
        except subprocess.TimeoutExpired:
            return None

    def terminate(self, number: int = signal.SIGTERM) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and that is not told yet
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.terminate(signal.SIGKILL)


def begin() -> Path:
    """A new session; returns its folder, to be deleted when it ends."""
    folder = Path(tempfile.mkdtemp(prefix="nearl-tests-"))
    (folder / OWNER).write_text(str(os.getpid()))
    os.environ[SESSION] = str(folder)
    return folder


def app(
    arguments: list[str], environment: dict[str, str], log: Path, start: bool = False
) -> subprocess.Popen | Program:
    """`python app.py` with these arguments, in the root of the repository; it writes to `log`. `start`: not forked."""
    with log.open("w") as out:
        if FORKS and SESSION in os.environ and not start:
            return _fork(["app.py", *arguments], environment, (subprocess.DEVNULL, out.fileno(), out.fileno()))
        command = [sys.executable, "app.py", *arguments]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT)


def command(*arguments: str, **options: object) -> subprocess.Popen | Program:
    """In place of `nearl.runs.host.command`: hosts are forked."""
    if arguments or not (FORKS and SESSION in os.environ):
        return _start(*arguments, **options)
    (below, stdin), (stdout, above) = os.pipe(), os.pipe()
    try:
        ends = os.fdopen(stdin, "wb", 0), os.fdopen(stdout, "rb", 0)
        return _fork(["nearl.runs"], dict(os.environ), (below, above, 2), *ends)
    finally:
        os.close(below)
        os.close(above)


def _fork(words: list[str], environment: dict[str, str], streams: tuple[int, int, int], *ends) -> Program:
    connection = _connect()
    nowhere = os.open(os.devnull, os.O_RDWR)
    mask = os.umask(0o077)
    os.umask(mask)
    order = json.dumps({"words": words, "environment": environment, "mask": mask}).encode()
    socket.send_fds(connection, [order], [nowhere if number == subprocess.DEVNULL else number for number in streams])
    os.close(nowhere)
    return Program(connection, *ends)


def _connect() -> socket.socket:
    """A connection to the process that forks, which is started if need be."""
    folder = Path(os.environ[SESSION])
    with FileLock(folder / "lock"):
        if not (folder / "socket").exists():
            clean = {name: value for name, value in os.environ.items() if not name.startswith(READ_EARLY)}
            with (folder / "log").open("w") as log:
                command = [sys.executable, "-m", "tests.support.forked", str(folder)]
                parent = subprocess.Popen(
                    command, cwd=ROOT, env=clean | QUIET, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            _parents.append(parent)
            while not (folder / "socket").exists():
                if parent.poll() is not None:
                    raise RuntimeError(f"Nothing can be forked:\n{(folder / 'log').read_text()[-2000:]}")
                time.sleep(0.05)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.connect(str(folder / "socket"))
    return connection


# ------------------------------------------------------------------------------------------- the process that forks


def main(folder: Path) -> None:
    import app.page  # noqa: F401
    import nearl.explain
    import nearl.runs.teaching  # noqa: F401

    gc.collect()
    gc.freeze()  # what is imported stays shared
    if words := _serve(folder):
        _become(words)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _serve(folder: Path) -> list[str]:
    """Fork a program for everyone who connects, until the folder or the process of the session is gone. Returns the
    words of a program in the program itself."""
    session = Path(f"/proc/{(folder / OWNER).read_text()}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, selectors.DefaultSelector() as waiting:
        listener.bind(str(folder / "new"))
        listener.listen(64)
        (folder / "new").rename(folder / "socket")
        waiting.register(listener, selectors.EVENT_READ)
        while folder.exists() and session.exists():
            for key, _ in waiting.select(1.0):
                if key.data is not None:
                    waiting.unregister(key.fd)
                    os.close(key.fd)
                    _tell_the_end(*key.data)
                elif words := _answer(listener, waiting):
                    return words
    return []


def _answer(listener: socket.socket, waiting: selectors.BaseSelector) -> list[str]:
    """Fork a program; returns its words in the program itself, and none in the process that forks."""
    connection, _ = listener.accept()
    order, streams, _, _ = socket.recv_fds(connection, 1 << 18, 3)
    if not streams:
        connection.close()
        return []
    program = os.fork()
    if program:
        connection.send(b"%d" % program)
        waiting.register(os.pidfd_open(program), selectors.EVENT_READ, (program, connection))
        found = []
    else:
        for key in list(waiting.get_map().values()):
            if key.data is not None:
                os.close(key.fd)
                key.data[1].close()
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        given = json.loads(order)
        os.environ.clear()
        os.environ.update(given["environment"])
        os.umask(given["mask"])
        found = given["words"]
    for stream in streams:
        os.close(stream)
    return found


def _tell_the_end(program: int, connection: socket.socket) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    with contextlib.suppress(OSError):  # whoever asked for it has ended
        connection.send(b"%d" % code)
    connection.close()


def _become(words: list[str]) -> None:
    """Run a file or a module of this repository as a program."""
    tempfile.tempdir = None  # read from the environment again
    os.setsid()
    sys.argv[:] = words
    host.command = command
    if words[0].endswith(".py"):
        runpy.run_path(words[0], run_name="__main__")
    else:
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
