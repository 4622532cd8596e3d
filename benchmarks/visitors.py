"""Many visitors at once, and one more who sends what is slow, large and much.

``PYTHONPATH=. python benchmarks/visitors.py [--visitors 20] [--rounds 2]``

Starts the app on a free port. Every visitor uploads an image and reads it, edits the prompts and reads again, teaches
(quick) and reads with what was taught. First one visitor alone, whose answers are the reference; then all of them in
one round; then ``--rounds`` rounds with one visitor more, who sends a GIF of comment blocks, a zip of 3,800 PNGs and 24
comparisons, again and again. Ends with status 1 where a bound is broken: no error, the same answers as alone, no
reading waits longer than 4 times the longest without the last visitor, memory back within 10 % of that after the round
without the last visitor, no file left behind. Linux only, for the memory.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from gradio_client import Client, handle_file

from nearl.data.phantoms.kinds import write_phantom_folder
from nearl.prompts import default_prompts

LONGER, MORE_MEMORY, TOLERANCE = 4.0, 1.10, 1e-3
COMPARISONS, PNGS, COMMENTS = 24, 3800, 1_200_000
STEPS = ("read", "edited", "taught")
QUIET_SECONDS = 90.0  # before a look at memory: the server notices who has left, and gives memory back every minute
PROMPTS = default_prompts(["no lesion", "lesion"]).to_dict()
EDITED = default_prompts(["healthy tissue", "a bright lesion"]).to_dict()


@dataclass
class Seen:
    """What came of a round."""

    waits: list[float] = field(default_factory=list)
    """Seconds of every reading."""
    answers: list[tuple[int, dict]] = field(default_factory=list)
    """The image of every visitor who was answered, and the reading of each step."""
    errors: list[str] = field(default_factory=list)


# ---- the server


@dataclass
class Server:
    url: str
    folder: Path
    process: subprocess.Popen

    def processes(self, words: str = "") -> list[int]:
        """The server, first, and all processes below it; those whose command line has these words."""
        parents = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        family = [self.process.pid]
        while more := [pid for pid, parent in parents.items() if parent in family and pid not in family]:
            family += sorted(more)
        return [pid for pid in family if words in _command_line(pid)]

    def memory(self) -> dict[int, int]:
        """MiB that the server and each of its workers hold, by process, the server first; shared pages count once."""
        found = {}
        for pid in self.processes():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                found[pid] = next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) >> 10
        return found

    def left(self) -> list[str]:
        """Files among the uploads and in the folder for temporary files."""
        places = (self.folder / "root" / "uploads", self.folder / "tmp")
        return [str(path.relative_to(self.folder)) for place in places for path in place.rglob("*") if path.is_file()]


def _command_line(pid: int) -> str:
    """Words of a process's command line, "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


@contextlib.contextmanager
def serving(folder: Path, backbone: str) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, "app.py", "--port", str(port), "--backbone", backbone]
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "NEARL_WORKSPACES": str(folder / "root")}
    environment.pop("GRADIO_TEMP_DIR", None)
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        while process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{url}/config", timeout=5).raise_for_status()
                break
            time.sleep(0.2)
        else:
            raise SystemExit(f"The app did not start:\n{(folder / 'log').read_text()[-2000:]}")
        yield Server(url, folder, process)
    finally:
        process.terminate()
        process.wait(60)


# ---- the visitors


def client_of(server: Server) -> Client:
    return Client(server.url, verbose=False, httpx_kwargs={"timeout": 120})  # a busy machine is no error


def visit(server: Server, name: str, images: dict[int, Path], task: Path, seen: Seen) -> None:
    """What one visitor does, with one image or several."""
    answers: dict[int, dict] = {number: {} for number in images}
    client: Client | None = None
    try:
        client = client_of(server)
        for step, prompts in zip(STEPS, (PROMPTS, EDITED, None), strict=True):
            if step == "taught":
                ended = client.predict(handle_file(task), PROMPTS, "quick", api_name="/teach")
                if ended.get("state") != "done":
                    raise RuntimeError(f"teaching ended with {ended}")
            for number, path in images.items():
                began = time.monotonic()
                answer = client.predict([handle_file(path)], prompts, api_name="/predict")
                seen.waits.append(time.monotonic() - began)
                (answers[number][step],) = answer.get("predictions", [answer])
                if answer.get("error") or answers[number][step]["error"]:
                    raise RuntimeError(f"reading ended with {answer}")
        seen.answers += answers.items()
    except Exception as error:
        seen.errors.append(f"{name}: {type(error).__name__}: {error}")
    finally:
        if client is not None:
            client.close()  # as a page that is closed


def everybody(server: Server, count: int, images: list[Path], task: Path) -> Seen:
    seen = Seen()
    threads = []
    for number in range(count):
        image = {number % len(images): images[number % len(images)]}
        threads.append(threading.Thread(target=visit, args=(server, f"visitor {number}", image, task, seen)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def same(one: object, other: object) -> bool:
    """Whether two answers agree, numbers within TOLERANCE."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, abs_tol=TOLERANCE)
    return one == other


# ---- the one visitor more


def slow_gif(path: Path) -> Path:
    """Six megabytes of comment blocks before one pixel."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    pixel = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00\x3b"
    path.write_bytes(screen + b"\x21\xfe\x01x\x00" * COMMENTS + pixel)
    return path


def many_images(path: Path, side: int = 1000) -> Path:
    """Flat images, small in the zip and large in memory."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(PNGS):
            row = b"\x00" + bytes([number % 256]) * side
            head = struct.pack(">IIBBBBB", side - number // 256, side, 8, 0, 0, 0, 0)
            pixels = zlib.compress((row[: 1 + side - number // 256]) * side, 9)
            png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
            archive.writestr(f"{'ab'[number % 2]}/{number}.png", png)
    path.write_bytes(buffer.getvalue())
    return path


class OneMore:
    """Sends everything until the round is over. Refusals are what this visitor is to get; they are counted."""

    def __init__(self, server: Server, gif: Path, archive: Path):
        self.answered, self.refused, self._over = 0, 0, threading.Event()
        self._client = client = client_of(server)
        client.predict(api_name="/shelf")  # one visitor: all that follows comes from one workspace
        compared = [None, "head_mri", "zero-shot, linear-probe", 2, 1, "quick"]
        tasks: list[Callable[[], object]] = [
            lambda: client.predict([handle_file(gif)], PROMPTS, api_name="/predict"),
            lambda: client.predict([handle_file(archive)], PROMPTS, api_name="/predict"),
            lambda: client.predict(handle_file(archive), None, "quick", api_name="/teach"),
            *[lambda: client.predict(*compared, api_name="/compare")] * COMPARISONS,
        ]
        self._threads = [threading.Thread(target=self._repeat, args=(task,), daemon=True) for task in tasks]

    def __enter__(self) -> OneMore:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(600)
        self._client.close()

    def _repeat(self, task: Callable[[], object]) -> None:
        while not self._over.is_set():
            try:
                answer = task()
                fine = isinstance(answer, dict) and not answer.get("error")
            except Exception:
                fine = False
            self.answered, self.refused = self.answered + fine, self.refused + (not fine)
            self._over.wait(1.0)


# ---- what is measured


def rounds(server: Server, options: argparse.Namespace, images: list[Path], task: Path) -> list[str]:
    """Run everything, print what came of it, and return the bounds that are broken."""
    warm = [client_of(server) for _ in range(4)]  # loads the model and starts all workers that decode
    for job in [each.submit([handle_file(images[0])], PROMPTS, api_name="/predict") for each in warm]:
        job.result()
    for client in warm:
        client.close()
    alone = Seen()
    visit(server, "alone", dict(enumerate(images)), task, alone)
    reference = dict(alone.answers)
    print(f"alone: longest reading {max(alone.waits, default=0):.1f} s, errors {len(alone.errors)}", flush=True)
    time.sleep(QUIET_SECONDS)
    unused = server.memory()
    without = everybody(server, options.visitors, images, task)
    longest = max(without.waits, default=0)
    print(f"{options.visitors} visitors: longest reading {longest:.1f} s, errors {len(without.errors)}", flush=True)
    time.sleep(QUIET_SECONDS)
    start = server.memory()  # after as many visitors as in the rounds, whose threads and buffers stay
    gif, archive = slow_gif(server.folder / "slow.gif"), many_images(server.folder / "many.zip")
    found = [without]
    for number in range(1, options.rounds + 1):
        with OneMore(server, gif, archive) as more:
            found.append(everybody(server, options.visitors, images, task))
        waited = max(found[-1].waits, default=0)
        print(
            f"round {number} with one more: longest reading {waited:.1f} s, errors {len(found[-1].errors)}; "
            f"the one more was answered {more.answered} times and refused {more.refused} times",
            flush=True,
        )
    time.sleep(QUIET_SECONDS)
    end, left = server.memory(), server.left()
    different = sum(not same(answers, reference.get(image)) for seen in found for image, answers in seen.answers)
    errors = [error for seen in (alone, *found) for error in seen.errors]
    waited = max((wait for seen in found[1:] for wait in seen.waits), default=0)
    print(f"answers unlike those alone: {different}")
    print(f"longest reading with one more / without: {waited / max(longest, 1e-9):.2f} (at most {LONGER})")
    more = sum(end.values()) / sum(start.values())
    print(f"memory at the end / after the round without: {more:.2f} (at most {MORE_MEMORY}); MiB of each process:")
    print(f"  before that round {[*unused.values()]}, after it {[*start.values()]}, at the end {[*end.values()]}")
    print(f"files left behind: {len(left)}")
    for line in [*errors[:20], *left[:20]]:
        print(f"  {line}")
    broken = {
        "errors": bool(errors),
        "answers": different > 0,
        "waiting": waited > LONGER * longest,
        "memory": more > MORE_MEMORY,
        "files": bool(left),
    }
    return [name for name, is_broken in broken.items() if is_broken]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--visitors", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--backbone", default="embedded")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server ends too
    with tempfile.TemporaryDirectory(prefix="visitors-") as name:
        folder = Path(name)
        made = write_phantom_folder(folder / "head", "head_mri", train=6, test=2, size=64)
        images, task = sorted((made / "test").glob("*/*.png")), folder / "task.zip"
        with zipfile.ZipFile(task, "w") as out:
            for file in sorted(made.rglob("*.png")):
                out.write(file, file.relative_to(made))
        with serving(folder, options.backbone) as server:
            broken = rounds(server, options, images, task)
            traces = (folder / "log").read_text().count("Traceback")
        if traces:
            broken.append(f"{traces} tracebacks in the server's log")
            print((folder / "log").read_text()[-3000:])
    print(f"broken: {', '.join(broken)}" if broken else "all bounds hold")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()
