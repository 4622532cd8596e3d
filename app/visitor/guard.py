"""Keeps visitors apart at Gradio's routes for files and uploads, and answers in sentences where Gradio would fail."""

from __future__ import annotations

import json
import logging
import os
import secrets
import traceback
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from urllib.parse import unquote

import gradio as gr
from gradio import route_utils
from gradio.state_holder import SessionState
from gradio.utils import NamedString
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.visitor import uploads
from app.visitor.disk import DISK_FULL, is_full, make_folder
from nearl.errors import NearlError

log = logging.getLogger("nearl.app")

FAULT = "Something went wrong on the server; the details are in its log."
_partial: ContextVar[list[str] | None] = ContextVar("partial", default=None)  # files of the upload that is arriving


def keep_uploads_apart() -> None:
    """Give every upload a folder of its own with a random name, and leave no other file of it.

    Gradio names the folder after the content alone: two visitors who upload the same file would share it, so that one
    deletes what the other is about to read, and anybody who has a file could ask for another visitor's copy. For every
    input file of an event it also makes an empty file that it never uses.
    """
    first, single = route_utils.GradioUploadFile.__init__, gr.File._process_single_file
    if hasattr(first, "__wrapped__"):
        return

    @wraps(first)
    def init(self, *arguments, **options) -> None:
        first(self, *arguments, **options)
        self.sha.update(secrets.token_bytes(32))
        partial = _partial.get()
        if partial is not None:
            partial.append(str(self.file.name))

    @wraps(single)
    def one(self, file):
        return NamedString(file.path) if self.type == "filepath" and not self.file_types else single(self, file)

    route_utils.GradioUploadFile.__init__ = init  # type: ignore[method-assign]
    gr.File._process_single_file = one  # type: ignore[method-assign, assignment]


class _Nothing(dict):
    """Forgets what is put in, and has an empty value for every key."""

    def __contains__(self, key: object) -> bool:
        return True

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def __missing__(self, key: object) -> dict:
        return {}


def forget_what_was_shown() -> None:
    """Let Gradio keep nothing of what it has shown in a session but the values of `gr.State`.

    For links to a page as it is now, which we do not offer, it keeps the configuration of every component with the last
    value, images too, until thousands of other sessions have begun; and it writes all of it to disk for whoever asks.
    """
    first = SessionState.__init__
    if hasattr(first, "__wrapped__"):
        return

    @wraps(first)
    def init(self, *arguments, **options) -> None:
        first(self, *arguments, **options)
        self.config_values = _Nothing()

    SessionState.__init__ = init  # type: ignore[method-assign]


class Guard:
    """Counts uploads while they arrive, and refuses to fetch files from other servers. A request that fails is answered
    with a sentence."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, started = unquote(scope.get("path", "")), False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        uploading = scope["method"] == "POST" and path.endswith("/upload")
        try:
            if "/file=" in path and ":/" in path.split("/file=", 1)[1]:
                await PlainTextResponse("Only files of this server are served.", 403)(scope, receive, watched)
            elif uploading:
                await self._upload(scope, receive, watched)
            else:
                await self.app(scope, receive, watched)
        except ClientDisconnect:  # nobody is there to be answered
            pass
        except Exception as error:
            if started:
                raise
            where = "".join(traceback.format_tb(error.__traceback__))  # the message may hold a file's name
            log.error("unexpected %s in an answer\nTraceback:\n%s", type(error).__name__, where)
            words, status = (DISK_FULL, 507) if is_full(error) else (FAULT, 500)
            plain = PlainTextResponse(words, status)
            await (plain if uploading else JSONResponse({"error": words, "detail": words}, status))(
                scope, receive, send
            )

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an upload on as long as there is room, and delete what of it arrived only in part."""
        try:
            arrival = uploads.COUNTED.begin(sender(scope))
        except NearlError as error:
            await PlainTextResponse(str(error), 413)(scope, receive, send)
            return
        answer = bytearray()

        async def counted() -> Message:
            message = await receive()
            try:
                uploads.COUNTED.more(arrival, len(message.get("body", b"")))
            except NearlError as error:
                raise MultiPartException(str(error)) from None  # Gradio answers with its words
            return message

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start" and arrival.refused:
                message = {**message, "status": 413}
            answer.extend(message.get("body", b""))
            await send(message)

        token = _partial.set(arrival.partial)
        try:
            make_folder(uploads.root())
            await self.app(scope, counted, answered)
        finally:
            _partial.reset(token)
            for name in arrival.partial:  # those that are complete have another name by now
                Path(name).unlink(missing_ok=True)
            uploads.COUNTED.end(arrival, _paths(answer))


def _paths(answer: bytes | bytearray) -> list[str]:
    """The files that Gradio's answer to an upload names; none in any other answer."""
    try:
        found = json.loads(answer)
    except ValueError:
        return []
    return [path for path in found if isinstance(path, str)] if isinstance(found, list) else []


def sender(scope: Scope) -> str:
    """Who sends a request, as far as that is known: the address, and on a Space what its proxy says of it."""
    host = (scope.get("client") or ("",))[0]
    if not os.environ.get("SPACE_ID"):
        return host
    headers = dict(scope.get("headers") or ())
    return f"{host} {headers.get(b'x-forwarded-for', b'').decode('latin-1')}"


MIDDLEWARE = [Middleware(Guard)]
