"""Follow a run without holding a thread; all who follow the same run share each reading of its status."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from nearl.errors import NearlError

if TYPE_CHECKING:
    from app.work.run import Shown

POLL_SECONDS = 0.3
MOST_FOLLOWERS = 16  # of one run: pages of its visitor, and programs
LET_GO = f"More than {MOST_FOLLOWERS} pages or programs of yours follow this; reload this one to follow it again."


class Watch:
    """Tells everybody who follows a run how far it is. `look`: one look at it, from a thread."""

    def __init__(self, look: Callable[[], Shown]):
        self._look = look
        self._followers: list[asyncio.Queue] = []  # the oldest first
        self._task: asyncio.Task | None = None
        self._latest: Shown | None = None

    async def follow(self) -> AsyncIterator[Shown]:
        """Yield what is to be shown whenever the run has moved, until it has ended; the last one has ended.

        A slow follower gets only the latest. Raises NearlError for the oldest of too many followers, the one that most
        likely has left without saying so.
        """
        news: asyncio.Queue = asyncio.Queue(1)
        self._followers.append(news)
        if len(self._followers) > MOST_FOLLOWERS:
            _tell(self._followers.pop(0), NearlError(LET_GO))
        if self._task is None or self._task.done():
            self._latest, self._task = None, asyncio.create_task(self._watch())
        elif self._latest is not None:
            _tell(news, self._latest)
        try:
            while True:
                now = await news.get()
                if isinstance(now, Exception):
                    raise now
                yield now
                if now.finished:
                    return
        finally:
            if news in self._followers:
                self._followers.remove(news)
            if not self._followers and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _watch(self) -> None:
        try:
            while self._followers:
                now = await anyio.to_thread.run_sync(self._look, limiter=_limiter())
                if self._latest is None or _mark(now) != _mark(self._latest):
                    self._latest = now
                    for news in self._followers:
                        _tell(news, now)
                if now.finished:
                    return
                await asyncio.sleep(POLL_SECONDS)
        except Exception as error:  # what a look cannot say in its answer
            for news in self._followers:
                _tell(news, error)


_limiters: dict[asyncio.AbstractEventLoop, anyio.CapacityLimiter] = {}


def _limiter() -> anyio.CapacityLimiter:
    """Threads that read the status of runs, apart from those of the lanes, so that they never wait for other work."""
    loop = asyncio.get_running_loop()
    if loop not in _limiters:
        _limiters.clear()
        _limiters[loop] = anyio.CapacityLimiter(4)
    return _limiters[loop]


def _mark(shown: Shown) -> Shown:
    return replace(shown, seconds_left=None)


def _tell(news: asyncio.Queue, what: object) -> None:
    """Put it in place of anything that was not read yet."""
    if news.full():
        news.get_nowait()
    news.put_nowait(what)
