"""The worker process of the sandbox: decodes what `nearl.data.sandbox.client` sends, with limited memory.

A message in either direction is one letter, a length and so many bytes. To the worker: J, a job as JSON, followed by B,
the content, for every source that is not a path. From it: H, a draft's header; D, a piece of its numbers; E, a problem,
which also ends the draft that was being sent; Z, the job is done.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import struct
import sys
from pathlib import Path
from typing import BinaryIO

HEAD = struct.Struct("<cQ")


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


def _status(key: str) -> int:
    """A figure of this process in bytes; 0 where the system does not tell."""
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        return next((1024 * int(line.split()[1]) for line in status if line.startswith(key)), 0)
    return 0


def address_space() -> int:
    """The address space that this process has now, in bytes; 0 where the system does not tell."""
    return _status("VmSize")


def memory_peak() -> int:
    """The most memory that this process ever held, in bytes; 0 where the system does not tell."""
    if peak := _status("VmHWM"):  # getrusage would count the parent's memory in
        return peak
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def main(limit: int) -> None:
    """Serve jobs from stdin until it is closed."""
    inward = os.fdopen(os.dup(0), "rb")
    outward = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
    with open(os.devnull, "r+b") as nowhere:  # decoders may print, even names; nothing of it may mix with messages
        for number in (0, 1, 2):
            os.dup2(nowhere.fileno(), number)
    logging.disable(logging.CRITICAL)
    from nearl.data.formats.drafts import Draft
    from nearl.data.sandbox.reader import read, too_much
    from nearl.errors import NearlError
    from nearl.registry import load_plugins

    before = address_space()
    load_plugins()
    limit += address_space() - before  # what plugins import, perhaps torch, does not count
    with contextlib.suppress(ImportError, ValueError, OSError):  # only some systems limit memory
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            _, size = receive_head(inward)
        except EOFError:
            return
        job = json.loads(inward.read(size))
        sources = []
        for name, path in job["sources"]:
            content = Path(path) if path is not None else inward.read(receive_head(inward)[1])
            sources.append((name, content))
        try:
            for item in read(sources, job["max_side"]):
                if not isinstance(item, Draft):
                    send(outward, b"E", json.dumps([item[0], *item[1]]).encode())
                    continue
                send(outward, b"H", json.dumps(item.header()).encode())
                try:
                    for chunk in item.chunks:
                        send(outward, b"D", memoryview(chunk).cast("B"))
                except NearlError as error:
                    send(outward, b"E", json.dumps([item.source, item.name, str(error)]).encode())
                except MemoryError:
                    send(outward, b"E", json.dumps([item.source, item.name, too_much(item.name)]).encode())
                outward.flush()
        except MemoryError:
            name = sources[0][0] if len(sources) == 1 else "One of the files"
            send(outward, b"E", json.dumps([0, name, too_much(name)]).encode())
        send(outward, b"Z", json.dumps({"peak": memory_peak()}).encode())
        outward.flush()
        sources = item = None


if __name__ == "__main__":
    main(int(sys.argv[1]))
