"""Lanes: how many calls of each kind hold a thread at a time, and whose turn is next.

Gradio starts the calls of an event in the order in which they came, so that one visitor with many calls keeps all
others waiting. Here every kind of call has a lane with a few slots, visitors take turns for them, and waiting costs no
thread.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import anyio.to_thread

from nearl.errors import NearlError

T = TypeVar("T")

DEVICE, DECODE, HUB, LIGHT = "device", "decode", "hub", "light"
SLOTS = {  # fewer in all than THREADS, so that no lane waits for another's
    DEVICE: 4,
    DECODE: 12,  # the decoders give turns of their own, much shorter than a call
    HUB: 4,
    LIGHT: 16,
}
EACH = 2  # slots that one visitor may hold in a lane
THREADS = 48  # of the server for all calls; what the lanes leave is for Gradio's own short work
MOST_WAITING = 32  # calls of one visitor that wait in a lane
MOST_WAITING_ALL = 512  # calls of all visitors that wait in a lane


class Lane:
    """Slots that visitors take in turn. Used from one event loop."""

    def __init__(self, slots: int, each: int = EACH):
        self._free, self._each = slots, each
        self._held: Counter[str] = Counter()  # slots, by visitor
        self._waiting: dict[str, deque[asyncio.Future]] = {}  # by visitor, the next in turn first

    @asynccontextmanager
    async def turn(self, visitor: str) -> AsyncIterator[None]:
        """Wait for a slot and hold it. NearlError where too many calls wait already."""
        await self._take(visitor)
        try:
            yield
        finally:
            self._give_back(visitor)

    async def _take(self, visitor: str) -> None:
        line = self._waiting.get(visitor, ())
        if len(line) >= MOST_WAITING:
            raise NearlError(f"{len(line)} requests of yours are waiting already; wait until some of them are done.")
        if sum(map(len, self._waiting.values())) >= MOST_WAITING_ALL:
            raise NearlError("Too many requests are waiting; try again in a minute.")
        slot = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(visitor, deque()).append(slot)
        self._hand_out()
        try:
            await slot
        except asyncio.CancelledError:
            if not slot.cancelled():  # it was handed over in the same moment
                self._give_back(visitor)
            raise

    def _give_back(self, visitor: str) -> None:
        self._free += 1
        self._held[visitor] -= 1
        if not self._held[visitor]:
            del self._held[visitor]
        self._hand_out()

    def _hand_out(self) -> None:
        """Give free slots to those whose turn it is; whoever got one goes to the end of the line of visitors."""
        while self._free:
            visitor = next((name for name in self._waiting if self._held[name] < self._each), None)
            if visitor is None:
                return
            line = self._waiting.pop(visitor)
            slot = line.popleft()
            if line:
                self._waiting[visitor] = line
            if not slot.cancelled():
                self._free -= 1
                self._held[visitor] += 1
                slot.set_result(None)


class Lanes:
    """The lanes of one server. A name that is none of SLOTS means LIGHT."""

    def __init__(self) -> None:
        self._lanes = {name: Lane(slots) for name, slots in SLOTS.items()}

    def turn(self, name: str, visitor: str):
        return self._lanes.get(name, self._lanes[LIGHT]).turn(visitor)

    async def run(self, name: str, visitor: str, work: Callable[..., T], *given: object) -> T:
        """What `work` returns, called in a thread when it is the visitor's turn in that lane."""
        async with self.turn(name, visitor):
            return await anyio.to_thread.run_sync(partial(work, *given))
