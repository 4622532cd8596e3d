"""Start `python app.py` for a test, on a free port and with a tiny model, and stop it again."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Server:
    url: str
    log: Path
    process: subprocess.Popen

    def console(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serve(
    backbone: str, log: Path, *arguments: str, port: int | None = None, variables: dict[str, str] | None = None
) -> Iterator[Server]:
    """The app as a visitor would start it, with its workspaces beside `log` and these environment variables.

    RuntimeError if it does not come up.
    """
    port = port or free_port()
    folder = {"NEARL_WORKSPACES": str(log.parent / "workspaces")}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **folder}
    for name in ("SPACE_ID", "GRADIO_SERVER_PORT", "GRADIO_SERVER_NAME", "SYSTEM", "NEARL_AUTH", "NEARL_HOSTS"):
        environment.pop(name, None)
    environment |= variables or {}
    command = [sys.executable, "app.py", "--port", str(port), "--backbone", backbone, *arguments]
    started = time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        while not _answers(url):
            if process.poll() is not None or time.monotonic() - started > 240:
                raise RuntimeError(f"The app did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield Server(url, log, process)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as page:
            return page.status == 200
    except OSError:
        return False


def open_page(server: Server, session: str, key: object = None) -> str:
    """What the page does when it opens, for a session's hash: the id of its workspace, `key` if that is known."""
    config = httpx.get(f"{server.url}/config", timeout=60).json()
    opened = next(d["id"] for d in config["dependencies"] if d["api_name"] == "opened")
    body = {"data": [key], "fn_index": opened, "session_hash": session}
    answer = httpx.post(f"{server.url}/gradio_api/run/predict", json=body, timeout=60)
    answer.raise_for_status()
    return answer.json()["data"][-1]
