"""What a file format is, and the registry of them.

To add a format, write a file with a subclass of `Format` and register one instance in `nearl.data.formats`, or in a
module named in ``NEARL_PLUGINS``. Formats are found by content, in the order of the registry. Everything here runs in
the sandbox's worker process; only the numbers of a `Draft` leave it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nearl.data.formats.drafts import Draft
from nearl.errors import NearlError
from nearl.registry import Registry

MAX_BYTES = 300_000_000  # of one file on disk (our choice)


class Format:
    """One file format. Subclasses override `sniff` and `read`, and `refuse` and `together` where they need to.

    A sentence for people begins with the file's name and says what to do.
    """

    def sniff(self, head: bytes, name: str) -> bool:
        """Whether a file is of this format: by its first bytes (at most 64 KiB), or by its name."""
        raise NotImplementedError

    def refuse(self, head: bytes, name: str) -> str:
        """Why such a file cannot be read although the format is known, as one sentence; "" where it can be."""
        return ""

    def read(self, data: bytes, name: str, max_side: int | None = None) -> Draft:
        """Decode one file. Still images are shrunk to `max_side` pixels here; scans are shrunk when they are drawn.

        Raises NearlError, one sentence, for a file that is damaged, too large or of a variety that is not supported.
        Check declared sizes before allocating anything.
        """
        raise NotImplementedError

    def together(self, files: Sequence[File]) -> Sequence[Series]:
        """The files that form one image only together, such as the slices of a volume; the others are read alone."""
        return ()


FORMATS: Registry[Format] = Registry("file format")


@dataclass(eq=False)
class File:
    """A file to read."""

    source: int  # which of the sources it came from
    name: str  # base name, for sentences
    read: Callable[[], bytes]
    head: bytes
    format: Format


class Series(Protocol):
    """Files that form images only together."""

    @property
    def files(self) -> Sequence[File]: ...

    @property
    def images(self) -> int:
        """How many, as far as can be told before they are decoded."""
        ...

    def drafts(self, container: str) -> Iterator[Draft]:
        """The image, or several; `container` is the name of what the files came in."""
        ...


def identify(head: bytes, name: str) -> Format:
    """The format of a file that begins with `head`. NearlError if no format knows it, or it is refused."""
    if not head:
        raise NearlError(f"{name} is empty (0 bytes); export or download it again.")
    for known in FORMATS.values():
        if known.sniff(head, name):
            if why := known.refuse(head, name):
                raise NearlError(why)
            return known
    readable = ", ".join(name for name, known in FORMATS.items() if type(known).read is not Format.read)
    raise NearlError(f"{name} is not an image that can be read here; use {readable} or a zip of them.")


def read_bytes(path: Path, name: str, size: int | None = None) -> bytes:
    """A file's content, or its first `size` bytes. NearlError if it is a folder, missing, too large or locked."""
    try:
        if path.is_dir():
            raise NearlError(f"{name} is a folder, not an image; choose the image files in it.")
        if path.stat().st_size > MAX_BYTES:
            raise NearlError(f"{name} is larger than {MAX_BYTES // 10**6} MB; save a smaller copy.")
        with path.open("rb") as file:
            return file.read() if size is None else file.read(size)
    except FileNotFoundError:
        raise NearlError(f"{name} does not exist; check the path.") from None
    except OSError as error:
        raise NearlError(f"{name} cannot be read ({error.strerror or error}); check its permissions.") from None
