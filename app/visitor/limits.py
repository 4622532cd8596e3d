"""What visitors may hold, each and all together, and what a workspace asks of the house that it is in.

Decoded images are counted in memory, files on disk. All numbers are our choice.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from app.visitor.workspace import Workspace

EACH_MEMORY = 768 * 2**20  # bytes of decoded images in Predict of one visitor: the largest scan, and some more
ALL_MEMORY = 3 * 2**30  # bytes of decoded images of all visitors
SMALL = 32 * 2**20  # a visitor with no more than so many bytes
SMALL_MEMORY = 2**30  # has so many bytes beyond ALL_MEMORY to share with others like that
ALL_DISK = 32 * 2**30  # bytes of all workspaces
MIN_FREE = 2**30  # bytes to leave on the disk
PUT_AWAY = "Your images were put away because others needed the memory while you did not use them; bring them again."
FULL_MEMORY = "The images of other visitors take up all memory for images; try again in a few minutes."
FULL_DISK = "The work of all visitors takes up all the disk space that there is for it; try again in a few hours."


_ARENA_MAX, _ARENAS = -8, 2  # an option of `mallopt`, and its value


def _libc(name: str):
    """A function of the C library, where there is one and memory is handled as in glibc."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def keep_arenas_few() -> None:
    """Let threads share their pools of free memory: each pool keeps what the largest reading in it has ever needed."""
    if set_option := _libc("mallopt"):
        set_option(_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Give free memory back to the system, which the C library does by itself only at the end of a pool."""
    if trim := _libc("malloc_trim"):
        trim(0)


class House(Protocol):
    """Where a workspace is: knows what all the others hold."""

    def hold(self, workspace: Workspace) -> None:
        """The workspace has something now that is in memory alone."""

    def memory_room(self, workspace: Workspace, more: int, refuse: bool = True) -> None:
        """Make room for so many bytes of decoded images. NearlError where that is not possible, if `refuse`."""

    def disk_room(self, workspace: Workspace, used: int, more: int) -> None:
        """Make room for so many bytes of files beside those that it has. NearlError where that is not possible."""


class Alone:
    """A house without other visitors."""

    def hold(self, workspace: Workspace) -> None:
        pass

    def memory_room(self, workspace: Workspace, more: int, refuse: bool = True) -> None:
        pass

    def disk_room(self, workspace: Workspace, used: int, more: int) -> None:
        pass
