"""Odd and hostile sets for the tests, made byte by byte: zips that lie, tables that do not fit, files that are none."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nearl.data.checks import check
from nearl.data.sets.labelled import LabelledSet, resolve_splits
from nearl.errors import NearlError

CENTRAL, LOCAL = b"PK\x01\x02", b"PK\x03\x04"


def png(shade: int = 100, size: tuple[int, int] = (20, 20), mode: str = "RGB") -> bytes:
    return saved(Image.new("RGB", size, (shade, 10, 10)).convert(mode), "PNG")


def saved(picture: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def noise(seed: int = 0, side: int = 60) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def huge_png(side: int = 20_000) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


GOOD = {f"{label}/{i}.png": png(50 * i + len(label)) for label in ("cat", "horse") for i in (1, 2)}


def packed(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def special(name: str, content: bytes, mode: int) -> bytes:
    """The good set and an entry of another kind: a link, a pipe, a device."""
    buffer = io.BytesIO(packed(GOOD))
    entry = zipfile.ZipInfo(name)
    entry.external_attr = mode << 16
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(entry, content)
    return buffer.getvalue()


def altered(entry: str, local: bool = False, **fields) -> bytes:
    """The good set and an entry of which the directory (or with `local` its own header) says something else.

    fields: flags, method, crc, packed, size, offset, name (of the same length), extra (in place of the last bytes of
    the name, which becomes shorter); they replace what is true.
    """
    buffer = io.BytesIO(packed(GOOD))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(entry, png(77))
    raw = bytearray(buffer.getvalue())
    written = entry.encode()
    at = raw.index(written) - 30 if local else raw.rindex(written) - 46
    assert raw[at : at + 4] == (LOCAL if local else CENTRAL)
    places = (
        {"flags": (6, "<H"), "method": (8, "<H"), "crc": (14, "<I"), "packed": (18, "<I"), "size": (22, "<I")}
        if local
        else {"flags": (8, "<H"), "method": (10, "<H"), "crc": (16, "<I"), "packed": (20, "<I"), "size": (24, "<I"),
              "offset": (42, "<I")}
    )  # fmt: skip
    for what, value in fields.items():
        if what == "name":
            start = at + (30 if local else 46)
            raw[start : start + len(written)] = value
        elif what == "extra":
            struct.pack_into("<HH", raw, at + 28, len(written) - len(value), len(value))
            raw[at + 46 + len(written) - len(value) : at + 46 + len(written)] = value
        else:
            place, kind = places[what]
            struct.pack_into(kind, raw, at + place, value)
    return bytes(raw)


def overlapping(copies: int = 40) -> bytes:
    """A directory whose entries all point at one and the same compressed file."""
    body = packed({"cat/0.png": png(1), "horse/0.png": png(2)})
    end = body.rindex(b"PK\x05\x06")
    size, start = struct.unpack_from("<II", body, end + 12)
    entry = body[start : body.index(CENTRAL, start + 4)]
    directory = body[start : start + size] + b"".join(
        entry.replace(b"cat/0.png", f"cat/{i}.png".encode()[:9].ljust(9, b"g")) for i in range(1, copies)
    )
    count = copies + 1
    return body[:start] + directory + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), start, 0)


def endless_directory(size: int = 17_000_000) -> bytes:
    body = CENTRAL + bytes(size - 4)
    return body + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 60_000, 60_000, size, 0, 0)


class Foreign(zipfile.ZipInfo):
    """An entry whose name is written in a code page, without saying so."""

    def __init__(self, name: str, codec: str):
        super().__init__("x")
        self.comment = name.encode(codec)

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.comment, 0


def named_in(codec: str, names: dict[str, str]) -> Callable[[Path], None]:
    """A zip as the file managers of many countries write it."""

    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for place, name in enumerate(names):
                archive.writestr(Foreign(name, codec), png(9 * place + 103))

    return make


def written(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


COUNTS = {"cat": 2, "horse": 2}
PICTURES = {f"{i}.png": png(40 * i) for i in (1, 2, 3, 4)}
LEADS = "leads outside the zip"


@dataclass
class Case:
    """make: writes what is brought below a folder and reads it. refused: the gist of the one sentence; else named:
    {file: gist} of every problem, and the images of each class. blocking, caution: gists of the check's sentences."""

    name: str
    make: Callable[[Path], LabelledSet]
    refused: str = ""
    named: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict(COUNTS))
    blocking: str = ""
    caution: str = ""


def zipped(content: bytes | dict[str, bytes]) -> Callable[[Path], LabelledSet]:
    def make(folder: Path) -> LabelledSet:
        path = folder / "set.zip"
        path.write_bytes(content if isinstance(content, bytes) else packed(content))
        return resolve_splits(path)[0]

    return make


def lazy(content: Callable[[], bytes | dict[str, bytes]]) -> Callable[[Path], LabelledSet]:
    return lambda folder: zipped(content())(folder)


def judge(case: Case, tmp_path: Path) -> None:
    """The case gets its sentences and no others, and a good set is read afterwards."""
    folder = tmp_path / "inside"
    folder.mkdir()
    if case.refused:
        with pytest.raises(NearlError) as caught:
            case.make(folder)
        text = str(caught.value)
        assert case.refused in text and "\n" not in text and text.endswith((".", ".)")) and len(text) < 500
    else:
        found = case.make(folder)
        assert found.counts() == case.counts
        assert {problem.name for problem in found.problems} == set(case.named)
        for problem in found.problems:
            assert case.named[problem.name] in problem.reason and "\n" not in problem.reason
        if case.blocking or case.caution:
            result = check(found)
            assert case.blocking in result.blocking and bool(case.blocking) == bool(result.blocking)
            assert not case.caution or any(case.caution in caution for caution in result.cautions)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inside"]  # nothing was unpacked beside it
    good = zipped(GOOD)(tmp_path)
    assert good.counts() == COUNTS and not good.problems
