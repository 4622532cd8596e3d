"""What stands between Gradio's file routes and visitors who are not meant to meet there."""

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

MAX_UPLOADS = 8 * 2**30  # bytes of all visitors that wait to be read


def keep_uploads_apart() -> None:
    """Give every upload a folder of its own with a random name.

    Gradio names the folder after the content alone: two visitors who upload the same file would share it, so that one
    deletes what the other is about to read, and whoever has a file could ask for the other's copy.
    """
    first = route_utils.GradioUploadFile.__init__
    if hasattr(first, "__wrapped__"):
        return

    @wraps(first)
    def init(self, *arguments, **options) -> None:
        first(self, *arguments, **options)
        self.sha.update(secrets.token_bytes(32))

    route_utils.GradioUploadFile.__init__ = init


class Guard:
    """Refuses two requests that Gradio would serve: to fetch a file from another server for whoever asks, and to take
    in more than the disk should hold."""

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
