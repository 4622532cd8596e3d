"""Keeps visitors apart at Gradio's routes for files and uploads."""

from __future__ import annotations

import secrets
from functools import wraps
from urllib.parse import unquote

from gradio import route_utils
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.visitor import uploads
from app.visitor.disk import folder_bytes

MAX_UPLOADS = 8 * 2**30  # bytes of all uploads that are not read yet


def keep_uploads_apart() -> None:
    """Give every upload a folder of its own with a random name.

    Gradio names the folder after the content alone: two visitors who upload the same file would share it, so that one
    deletes what the other is about to read, and anybody who has a file could ask for another visitor's copy.
    """
    first = route_utils.GradioUploadFile.__init__
    if hasattr(first, "__wrapped__"):
        return

    @wraps(first)
    def init(self, *arguments, **options) -> None:
        first(self, *arguments, **options)
        self.sha.update(secrets.token_bytes(32))

    route_utils.GradioUploadFile.__init__ = init  # type: ignore[method-assign]


class Guard:
    """Refuses two kinds of request that Gradio would serve: for a file on another server, and for an upload where the
    disk holds enough of them already."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = unquote(scope.get("path", ""))
        refused = None
        if "/file=" in path and ":/" in path.split("/file=", 1)[1]:
            refused = PlainTextResponse("Only files of this server are served.", 403)
        elif scope.get("method") == "POST" and path.endswith("/upload") and folder_bytes(uploads.root()) > MAX_UPLOADS:
            refused = PlainTextResponse("Too many uploads are waiting; try again later.", 413)
        await (refused or self.app)(scope, receive, send)


MIDDLEWARE = [Middleware(Guard)]
