"""A file format from outside the package, in a plugin module (``NEARL_PLUGINS=tests.support.toy_format``).

A toy file is the line "TOY <width> <height>" and then a grey byte for each pixel.
"""

from __future__ import annotations

import numpy as np

from nearl.data.formats.base import FORMATS, Format
from nearl.data.formats.drafts import Draft
from nearl.errors import NearlError


class Toy(Format):
    def sniff(self, head: bytes, name: str) -> bool:
        return head.startswith(b"TOY ")

    def read(self, data: bytes, name: str, max_side: int | None = None) -> Draft:
        line, _, pixels = data.partition(b"\n")
        width, height = map(int, line.split()[1:])
        if len(pixels) != width * height:
            raise NearlError(f"{name} is a toy file that is cut short; save it again.")
        grey = np.frombuffer(pixels, np.uint8).reshape(height, width, 1)
        return Draft.picture(name, grey.repeat(3, axis=2), ["A toy."])


def toy(grey: np.ndarray) -> bytes:
    """uint8 [H, W] as the bytes of a toy file."""
    return f"TOY {grey.shape[1]} {grey.shape[0]}\n".encode() + grey.tobytes()


FORMATS.register("toy", Toy())
