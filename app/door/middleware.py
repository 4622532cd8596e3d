"""Middleware in front of Gradio: host names, other sites, the login, the size of requests, headers of answers."""

from __future__ import annotations

from collections.abc import Iterable

from gradio import routes
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.door.credentials import Throttle
from app.door.rules import HOSTS, STATIC, Rules
from app.html import render
from nearl import NOTICE

TITLE = "NEARL-CLIP"
MAX_BODY = 4 * 2**20  # bytes of a request that is no upload; a prompt set of the largest size is a third of it
MAX_VALUES = 100_000  # of such a request; each takes a hundred bytes of memory, and all are read in one go
UPLOAD = "/gradio_api/upload"
OPEN = ("/login", "/logout", "/gradio_api/startup-events")  # without a login; Gradio asks for the last one itself
UNSHARED = "Requests from pages of other sites are not answered."
CROWDED = "Too many attempts to sign in; wait a minute, then try again."


class Door:
    """Refuses what the rules refuse, and adds their headers to every answer."""

    def __init__(self, app: ASGIApp, rules: Rules):
        self.app, self.rules, self.throttle = app, rules, Throttle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # there are none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, headers = _path(scope), Headers(scope=scope)
        send = self._telling(path, send)
        refused = self._refused(scope, path, headers)
        if refused is None and path.rstrip("/") == "/login" and scope["method"] == "POST":
            refused, send = self._throttled(scope, send)
        if refused is None and path != UPLOAD:  # `app.visitor` counts those
            refused, receive = await _limited(headers, receive)
        await (refused or self.app)(scope, receive, send)

    def _refused(self, scope: Scope, path: str, headers: Headers) -> Response | None:
        host = headers.get("host", "")
        if host and not self.rules.answers_to(host):
            words = f"This server does not answer to the name {host}. If that is its name, start it with --allow-host"
            return PlainTextResponse(f"{words} and that name, or name it in {HOSTS}.", 421)
        if self.rules.another_site(scope["method"], path, headers):
            return PlainTextResponse(UNSHARED, 403)
        if not self.rules.login or path.rstrip("/") in OPEN or _user(scope) is not None:
            return None
        if path == "/" and scope["method"] in ("GET", "HEAD"):
            return HTMLResponse(render("login.html", title=TITLE, notice=NOTICE))
        return JSONResponse({"detail": {"error": "Not authenticated", "auth_message": None}}, 401)

    def _throttled(self, scope: Scope, send: Send) -> tuple[Response | None, Send]:
        """An attempt to sign in: refused where there were too many, else counted until its answer says that it was
        none."""
        address = (scope.get("client") or ("",))[0] or "unknown"
        if not self.throttle.allow(address):
            return PlainTextResponse(CROWDED, 429, {"Retry-After": "60"}), send

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                self.throttle.succeeded(address)
            await send(message)

        return None, counted

    def _telling(self, path: str, send: Send) -> Send:
        async def telling(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.rules.headers.items():
                    headers.append(name, value) if name == "Content-Security-Policy" else headers.update({name: value})
                if not STATIC.fullmatch(path):
                    headers["Cache-Control"] = "no-store"
                if "set-cookie" in headers and not self.rules.parents:
                    message["headers"] = [*_kept_at_home(message["headers"])]
            await send(message)

        return telling


def _path(scope: Scope) -> str:
    """The path within the app."""
    path, root = scope["path"], scope.get("root_path", "")
    return path[len(root) :] or "/" if root and path.startswith(root) else path


def _user(scope: Scope) -> str | None:
    """Whoever has signed in, as Gradio itself would say."""
    app, cookies = scope["app"], Request(scope).cookies
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return next((app.tokens[cookies[name]] for name in names if cookies.get(name) in app.tokens), None)


def _kept_at_home(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[bytes, bytes]]:
    """The headers, with every cookie restricted to requests from the same site."""
    for name, value in headers:
        if name.lower() == b"set-cookie":
            kept = [part for part in value.split(b";") if not part.strip().lower().startswith(b"samesite=")]
            value = b";".join([*kept, b" SameSite=Lax"])
        yield name, value


async def _limited(headers: Headers, receive: Receive) -> tuple[Response | None, Receive]:
    """The refusal of a body that is too large, else a `receive` for the body, which is read here as a whole."""
    declared = headers.get("content-length", "")
    if not declared and "transfer-encoding" not in headers:
        return None, receive
    body, more = bytearray(), not (declared.isdecimal() and int(declared) > MAX_BODY)
    too_large = not more
    while more:
        message = await receive()
        body += message.get("body", b"")
        too_large = len(body) > MAX_BODY
        more = message["type"] == "http.request" and message.get("more_body", False) and not too_large
    if too_large:
        words = f"This request is too large; a request other than an upload may have {MAX_BODY >> 20} MB."
        return PlainTextResponse(words, 413, {"Connection": "close"}), receive
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:
        words = f"This request holds too many values; a request other than an upload may hold {MAX_VALUES:,}."
        return PlainTextResponse(words, 413), receive
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()  # the end of the connection
        given = True
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return None, replay


class Unshared:
    """Replaces Gradio's CORS middleware, which lets any site read the answers of a server that is not on localhost."""

    def __init__(self, app: ASGIApp, **options: object):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


def middleware(rules: Rules) -> Middleware:
    """The door, for the start of the server."""
    routes.CustomCORSMiddleware = Unshared  # type: ignore[misc, assignment]
    return Middleware(Door, rules=rules)
