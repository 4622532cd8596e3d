"""A reverse proxy that has the app at a path and asks for a name and password: one of our own, or nginx as docs/deploy
has it."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.app_server import free_port
from tests.support.pages import ROOT

PATH, USER, PASSWORD = "/nearl", "anna", "secret"
NGINX = shutil.which("nginx")
OWN = {"connection", "transfer-encoding", "authorization"}  # headers of one connection, or for the proxy


@contextlib.contextmanager
def proxied(app: str, folder: Path, nginx: bool) -> Iterator[str]:
    """The address at which the app at `app` is found. `folder`: a new one, for nginx."""
    port = free_port()
    url = f"http://127.0.0.1:{port}{PATH}/"
    with _nginx(app, folder, port) if nginx else _own(app, port):
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(url, trust_env=False).status_code == 401:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield url


@contextlib.contextmanager
def _own(app: str, port: int) -> Iterator[None]:
    expected = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"
    client = httpx.AsyncClient(base_url=app, timeout=None, trust_env=False)

    async def forward(request: Request) -> Response:
        if request.headers.get("authorization") != expected:
            return PlainTextResponse("", 401, {"WWW-Authenticate": 'Basic realm="test"'})
        headers = {name: value for name, value in request.headers.items() if name not in OWN}
        headers |= {"x-forwarded-host": request.headers["host"], "x-forwarded-proto": "http"}
        headers["x-forwarded-for"] = request.client.host
        url = httpx.URL(path=f"/{request.path_params['path']}", query=request.url.query.encode())
        asked = client.build_request(request.method, url, headers=headers, content=request.stream())
        answer = await client.send(asked, stream=True)
        kept = {name: value for name, value in answer.headers.items() if name not in OWN}
        return StreamingResponse(answer.aiter_raw(), answer.status_code, kept, background=BackgroundTask(answer.aclose))

    methods = ["GET", "HEAD", "POST", "DELETE"]
    site = Starlette(routes=[Route(f"{PATH}/{{path:path}}", forward, methods=methods)])
    server = uvicorn.Server(uvicorn.Config(site, port=port, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(10)


@contextlib.contextmanager
def _nginx(app: str, folder: Path, port: int) -> Iterator[None]:
    """nginx with the configuration of docs/deploy, but without TLS and on this machine."""
    (folder / "people").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
    site = (ROOT / "docs" / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    site = re.sub(r"ssl_certificate.*", "", site).replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    site = site.replace("http://page:7860", app).replace("/etc/nginx/people", str(folder / "people"))
    temporary = "".join(
        f"{kind}_temp_path {folder / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "" if os.geteuid() else "user root;"  # who can read the folder
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder / 'pid'}; error_log {folder / 'error.log'}; worker_processes 1; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{site}\n}}\n"
    )
    process = subprocess.Popen([NGINX, "-p", folder, "-c", folder / "nginx.conf"])
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)
