"""Start `python app.py` for a test, on a free port and with a tiny model, and stop it again."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.support import forked

_client = httpx.Client(timeout=60, trust_env=False, verify=False)


@dataclass
class Server:
    url: str
    log: Path
    process: subprocess.Popen | forked.Program

    def console(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serve(
    backbone: str,
    log: Path,
    *arguments: str,
    port: int | None = None,
    variables: dict[str, str] | None = None,
    forks: bool = False,
) -> Iterator[Server]:
    """The app, with its workspaces beside `log`. With environment `variables` it is started as a visitor would, else
    forked, which is as good and much faster; also with variables where it `forks`, since libraries need not read them.

    RuntimeError if it does not come up.
    """
    port = port or free_port()
    folder = {"NEARL_WORKSPACES": str(log.parent / "workspaces")}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **folder}
    for name in ("SPACE_ID", "GRADIO_SERVER_PORT", "GRADIO_SERVER_NAME", "SYSTEM", "NEARL_AUTH", "NEARL_HOSTS"):
        environment.pop(name, None)
    environment |= variables or {}
    words, started = ["--port", str(port), "--backbone", backbone, *arguments], time.monotonic()
    process = forked.app(words, environment, log, start=bool(variables) and not forks)
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


@functools.cache
def functions(url: str) -> dict[str, int]:
    """The number of every function of a server's that has a name."""
    found = ask("GET", f"{url}/config").json()["dependencies"]
    return {d["api_name"]: d["id"] for d in reversed(found) if d["api_name"]}


def ask(method: str, url: str, **options) -> httpx.Response:
    """A request that needs no client of its own, which would read all certificates first."""
    return _client.request(method, url, **options)


def open_page(server: Server, session: str, key: object = None) -> str:
    """What the page does when it opens, for a session's hash: the id of its workspace, `key` if that is known."""
    body = {"data": [key], "fn_index": functions(server.url)["opened"], "session_hash": session}
    answer = ask("POST", f"{server.url}/gradio_api/run/predict", json=body)
    answer.raise_for_status()
    return answer.json()["data"][-1]
