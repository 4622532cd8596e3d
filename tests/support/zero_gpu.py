"""Stand-ins for parts of a ZeroGPU Space: the `spaces` package, and the server that lends GPUs, which it asks."""

from __future__ import annotations

import inspect
import json
import multiprocessing
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import gradio as gr
from gradio.context import LocalContext
from starlette.datastructures import Headers

PATIENCE = 240
QUOTA = "You have exceeded your free ZeroGPU quota (60s requested vs. 5s left). Try again in 1:00:00. "


def request(token: str = "anna") -> SimpleNamespace:
    """As Gradio keeps a visitor's request; on a Space the proxy in front adds the token."""
    return SimpleNamespace(headers=Headers({"x-ip-token": token}), session_hash="s")


class Spaces:
    """The contract of `spaces.GPU` for a generator function: whose quota is used is read from the request in the
    caller's context, the duration is asked for with the call's own arguments, these are sent to a process that shares
    nothing with this one, and a refusal is a `gr.Error`. ``calls``: (token, seconds) of each."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.refusal: Exception | None = None
        self.most: int | None = None  # events after which the GPU is taken back

    def GPU(self, duration):
        def decorate(function):
            assert inspect.isgeneratorfunction(function) and callable(duration)

            def call(*given):
                asked = LocalContext.request.get(None)
                assert asked is not None, "the Space's own quota would be used"
                self.calls.append((asked.headers["x-ip-token"], duration(*given)))
                if self.refusal is not None:
                    raise self.refusal
                yield from self._forked(function, given)

            return call

        return decorate

    def _forked(self, function, given):
        context = multiprocessing.get_context("fork")  # as a Space does
        sent, queue, received = context.Queue(), context.Queue(), context.Event()
        child = context.Process(target=_child, args=(function, sent, queue, received), daemon=True)
        child.start()
        sent.put(given)  # sent, not shared: nothing that cannot be sent may be among them
        events = 0
        try:
            while (event := queue.get(timeout=PATIENCE)) is not None:
                yield event
                events += 1
                if events == self.most:
                    raise gr.Error("GPU task aborted", title="ZeroGPU worker error", print_exception=False)
        finally:
            received.set()
            child.join(1)
            child.kill()


def _child(function, sent, queue, received):
    for event in function(*sent.get(timeout=PATIENCE)):
        queue.put(event)
    queue.put(None)
    received.wait(PATIENCE)  # tensors are shared with whoever takes them, as long as this process lives


class Lender:
    """The server: ``calls`` has the path and the query of each call; ``answer``: status and JSON to /schedule."""

    GRANTED = (200, {"idle": False, "nvidiaIndex": 0, "nvidiaUUID": "none", "allowToken": "t"})
    ANSWERS = {"granted": GRANTED, "quota": (429, {"left": 5, "wait": 3600}), "expired": (401, {})}  # noqa: RUF012

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict]] = []
        lender = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                path = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(path.query).items()}
                lender.calls.append((path.path, query))
                token = query.get("token", "granted.").split(".")[0]
                status, content = lender.ANSWERS[token] if path.path == "/schedule" else (200, {})
                body = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Lender:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()
