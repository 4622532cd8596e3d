"""Messages between the app and a worker of the sandbox: one letter, a length and so many bytes.

To the worker: J, a job as JSON, followed by B, the content, for every source that is not a path; G, go on with a job
for one turn; C, forget a job. From it: R, it has started; F, the file that is worked on from now on; N, how many files
and images there are; H, a draft's header; D, a piece of its numbers; E, a problem, which also ends the draft that was
being sent; U, files of which nothing more will come; Z, the turn is over.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

HEAD = struct.Struct("<cQ")

Source = tuple[str, "bytes | Path"]  # name and content: a file, folder or zip
Key = tuple[int, int]  # a file: number of its source, and its place in it; -1 for the opening of a folder or zip


def send(stream: BinaryIO, kind: bytes, body: bytes | memoryview = b"") -> None:
    """Write one message."""
    stream.write(HEAD.pack(kind, len(body)))
    stream.write(body)


def receive_head(stream: BinaryIO) -> tuple[bytes, int]:
    """(letter, length) of the next message. EOFError at the end of the stream."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        raise EOFError
    return HEAD.unpack(head)
