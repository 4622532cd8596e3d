"""Who asks for files to be decoded, and how much one request may cost.

What is decoded inside ``with asked_by(...)``, by however many calls, is one request; outside it there is no limit but
those of each file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from nearl.data.sandbox.clock import BYTES_PER_SECOND
from nearl.errors import NearlError

SECONDS = 60.0  # CPU time of one request, beside what its images take at BYTES_PER_SECOND (our choice)


class TooMany(NearlError):
    """More images than may be brought at a time; none was decoded."""

    def __init__(self, count: int, most: int):
        self.count = count
        super().__init__(f"These are {count} images; bring at most {most} at a time.")


@dataclass
class Request:
    """Limits of a request (None: no limit), and what it has used so far."""

    asker: str = ""  # whose turn it is; those who ask take turns
    images: int | None = None  # how many images it may bring; checked before any is decoded
    memory: int | None = None  # bytes of decoded numbers
    seconds: float | None = None  # of CPU time of the workers, and more for every byte that they return
    expected: int = 0
    held: int = 0  # bytes of the images read
    received: int = 0  # bytes from the workers, also of images that broke off
    used: float = 0.0  # seconds

    @property
    def left(self) -> float | None:
        """Seconds of CPU time that are left."""
        return None if self.seconds is None else self.seconds + self.received / BYTES_PER_SECOND - self.used

    @property
    def room(self) -> int | None:
        """Bytes of memory that are left."""
        return None if self.memory is None else max(0, self.memory - self.held)

    def expect(self, images: int) -> None:
        """Count images that are about to be decoded. NearlError where the request then brings too many."""
        self.expected += images
        if self.images is not None and self.expected > self.images:
            raise TooMany(self.expected, self.images)


_CURRENT: ContextVar[Request | None] = ContextVar("request", default=None)


def current() -> Request:
    """The request that this code runs in; a new one without limits outside of any."""
    return _CURRENT.get() or Request()


@contextmanager
def asked_by(
    asker: str, images: int | None = None, memory: int | None = None, seconds: float | None = SECONDS
) -> Iterator[Request]:
    """What is decoded inside, in this thread, is one request of `asker`, with the limits of `Request`."""
    token = _CURRENT.set(Request(asker, images, memory, seconds))
    try:
        yield current()
    finally:
        _CURRENT.reset(token)
