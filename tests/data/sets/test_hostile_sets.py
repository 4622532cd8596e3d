"""Hostile and odd zips and pictures: each gets its sentence, or is simply read; a good set can be read afterwards."""

from __future__ import annotations

import stat
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.support.hostile import (
    GOOD,
    LEADS,
    PICTURES,
    Case,
    altered,
    endless_directory,
    huge_png,
    judge,
    lazy,
    noise,
    overlapping,
    packed,
    png,
    saved,
    special,
    zipped,
)


def more(**files: bytes) -> dict[str, bytes]:
    return {**GOOD, **{name.replace("__", "/"): data for name, data in files.items()}}


ZIPS = [
    *(
        Case(f"an entry {name!r}", zipped({**GOOD, name: png()}), refused=LEADS)
        for name in (
            "../evil.png",
            "/etc/evil.png",
            "C:/evil.png",
            "..\\evil.png",
            "//host/evil.png",
            "cat/../../e.png",
            "C:\\evil.png",
            "cat/../horse/9.png",
        )
    ),
    Case(
        "10,000 entries", lazy(lambda: {f"cat/{i}.png": b"" for i in range(10_000)}), refused="10000 entries; at most"
    ),
    Case("an endless directory", lazy(endless_directory), refused="lists far too many entries"),
    Case("entries over one another", zipped(overlapping()), refused="overlapping entries"),
    Case("an entry over the directory", zipped(altered("cat/x.png", packed=9999)), refused="overlapping entries"),
    Case("an entry behind the end", zipped(altered("cat/x.png", offset=10**8)), refused="overlapping entries"),
    Case(
        "a bomb by its own word", zipped(altered("cat/x.png", size=700_000_000)), refused="unpacks to more than 600 MB"
    ),
    Case(
        "a zip64 size of 4 exabytes",
        zipped(altered("cat/x.png123456789012", size=0xFFFFFFFF, extra=struct.pack("<HHQ", 1, 8, 2**62))),
        refused="unpacks to more than 600 MB",
    ),
    Case(
        "a zip64 field cut short",
        zipped(altered("cat/x.png123456", size=0xFFFFFFFF, extra=struct.pack("<HHH", 1, 2, 7))),
        refused="not a zip file, or a damaged one",
    ),
    Case(
        "a name that is not the UTF-8 it says it is",
        zipped(altered("cat/grün.png", name=b"cat/gr\xff\xfen.png", flags=0x800)),
        refused="or a damaged one",
    ),
    Case("locked throughout", lazy(lambda: _locked(packed(GOOD))), refused="locked with a password; make it again"),
    Case("no bytes", zipped(b""), refused="not a zip file"),
    Case("text called zip", zipped(b"hello " * 99), refused="not a zip file"),
    Case("another archive called zip", zipped(b"Rar!\x1a\x07\x01\x00" + bytes(99)), refused="not a zip file"),
    Case("a zip cut short", zipped(packed(GOOD)[:-60]), refused="not a zip file, or a damaged one"),
    Case("an empty zip", zipped({}), refused="no class folders"),
    Case("images without folders", zipped(PICTURES), refused="no class folders"),
    Case(
        "one class",
        zipped({"cat/1.png": png()}),
        refused="at least two classes with images that can be read, but has 1",
    ),
    Case("no image can be read", zipped({"cat/1.png": b"x", "horse/1.png": b"y"}), refused="but has 0"),
    Case(
        "only a test folder", zipped({f"test/{name}": data for name, data in GOOD.items()}), refused="no train folder"
    ),
    Case(
        "a class only in test",
        zipped({**{f"train/{name}": data for name, data in GOOD.items()}, "test/cow/1.png": png()}),
        refused="“cow”",
    ),
    Case("one class in two spellings", zipped(more(Cat__9=png(9))), counts={"Cat": 3, "horse": 2}),
    Case(
        "an archive in it",
        zipped(more(cat__more=b"x") | {"cat/more.zip": packed(GOOD)}),
        named={"more": "not an image", "more.zip": "is an archive inside the zip"},
    ),
    Case(
        "an archive that is called a picture",
        zipped({**GOOD, "cat/x.png": packed({"1.png": png()})}),
        named={"x.png": "is an archive inside the set"},
    ),
    Case(
        "a packed tar", zipped({**GOOD, "cat/x.tar.gz": b"\x1f\x8b" + bytes(50)}), named={"x.tar.gz": "is an archive"}
    ),
    Case("a link", zipped(special("cat/x.png", b"/etc/passwd", stat.S_IFLNK | 0o777)), named={"x.png": "is a link"}),
    Case(
        "a link upwards", zipped(special("cat/x.png", b"../../..", stat.S_IFLNK | 0o777)), named={"x.png": "is a link"}
    ),
    Case("a device", zipped(special("cat/x.png", b"", stat.S_IFBLK | 0o666)), named={"x.png": "a special file"}),
    Case("a pipe", zipped(special("cat/x.png", b"", stat.S_IFIFO | 0o666)), named={"x.png": "a special file"}),
    Case("NUL in a name", zipped(altered("cat/xx.png", name=b"cat/x\x00.png")), named={"x.png": "forbidden character"}),
    Case("a bomb", lazy(lambda: {**GOOD, "cat/x.png": bytes(5_000_000)}), named={"x.png": "unpacks to far more"}),
    Case("larger than it says", zipped(altered("cat/x.png", size=40)), named={"x.png": "damaged inside the zip"}),
    Case("smaller than it says", zipped(altered("cat/x.png", size=90_000)), named={"x.png": "damaged inside the zip"}),
    Case("another checksum", zipped(altered("cat/x.png", crc=1234)), named={"x.png": "damaged inside the zip"}),
    Case(
        "another name in its own header",
        zipped(altered("cat/x.png", local=True, name=b"cat/y.png")),
        named={"x.png": "damaged inside the zip"},
    ),
    Case(
        "said to be deflated but is not",
        zipped(altered("cat/x.png", method=zipfile.ZIP_DEFLATED)),
        named={"x.png": "damaged inside the zip"},
    ),
    Case("one locked entry", zipped(altered("cat/x.png", flags=1)), named={"x.png": "locked with a password"}),
    Case("packed with bzip2", zipped(altered("cat/x.png", method=zipfile.ZIP_BZIP2)), named={"x.png": "in a rare way"}),
    Case("packed with LZMA", zipped(altered("cat/x.png", method=zipfile.ZIP_LZMA)), named={"x.png": "in a rare way"}),
    Case(
        "forty folders deep", zipped({**GOOD, "cat/" + "a/" * 40 + "x.png": png()}), named={"x.png": "too long a path"}
    ),
    Case("a name of 5,000 letters", zipped({**GOOD, "cat/" + "a" * 5000: png()}), named={"a" * 120: "too long a path"}),
    Case("no name at all", zipped({**GOOD, "\u200b": png()}), named={"image": "has no name"}),
    Case(
        "header sizes that lie, as with a data descriptor",
        zipped(altered("cat/x.png", local=True, size=7, packed=3, crc=5)),
        counts={"cat": 3, "horse": 2},
    ),
    Case("bytes before the zip", zipped(b"#!/bin/sh\nexit\n" * 20 + packed(GOOD))),
    Case("a comment of 60 kB", lazy(lambda: _commented())),
    Case("empty folders", zipped({**GOOD, "cow/": b"", "cat/deep/": b""}), named={"cow": "has no image"}),
    Case("backslashes for slashes", zipped({name.replace("/", "\\"): data for name, data in GOOD.items()})),
    Case(
        "UTF-8 that is not declared",
        lazy(lambda: _undeclared({"grün": png(1), "weiß": png(2)})),
        counts={"grün": 1, "weiß": 1},
    ),
    Case(
        "code page 437",
        lazy(lambda: _undeclared({"grün": png(1), "weiß": png(2)}, "cp437")),
        counts={"grün": 1, "weiß": 1},
    ),
    Case(
        "one name composed in two ways",
        zipped({"caf\u00e9/1.png": png(1), "cafe\u0301/2.png": png(2), "tea/1.png": png(3)}),
        counts={"café": 2, "tea": 1},
    ),
    Case(
        "letters that cannot be seen",
        zipped({"c\u202eat\u200b/1.png": png(1), "horse\x07/1.png": png(2)}),
        counts={"cat": 1, "horse": 1},
    ),
    Case(
        "markup for a name",
        zipped({"<script>x<\u2215script>/1.png": png(1), "=1+1/1.png": png(2)}),
        counts={"<script>x<∕script>": 1, "=1+1": 1},
    ),
    Case("reserved names", zipped({"con/nul.png": png(1), "aux/com1.png": png(2)}), counts={"aux": 1, "con": 1}),
    Case(
        "what a system leaves behind",
        zipped({**GOOD, "__MACOSX/cat/._1.png": b"x", "cat/.DS_Store": b"x", "cat/Thumbs.db": b"x", "readme.md": b"x"}),
    ),
    Case(
        "200 classes",
        lazy(lambda: {f"c{i:03}/1.png": png(i) for i in range(200)}),
        counts={f"c{i:03}": 1 for i in range(200)},
        blocking="200 classes; at most 64",
    ),
    Case(
        "one picture under two labels",
        zipped(more(horse__copy=GOOD["cat/1.png"])),
        counts={"cat": 2, "horse": 3},
        caution="1 image has more than one label (1.png, copy)",
    ),
    Case(
        "one picture five times",
        zipped({**GOOD, **{f"cat/{i}.png": GOOD["cat/1.png"] for i in range(5, 9)}}),
        counts={"cat": 6, "horse": 2},
        caution="4 images are in a class more than once",
    ),
    Case(
        "a broken prompts.json",
        zipped(more(**{"prompts.json": b"{" * 9999})),
        named={"prompts.json": "not a valid JSON"},
    ),
    Case(
        "a prompts.json that is a list", zipped({**GOOD, "prompts.json": b"[1]"}), named={"prompts.json": "not a valid"}
    ),
    Case(
        "a third kind of split",
        zipped({**{f"train/{name}": data for name, data in GOOD.items()}, "extra/cat/1.png": png()}),
        named={"extra": "neither train nor test"},
    ),
    Case("an image beside the folders", zipped({**GOOD, "x.png": png()}), named={"x.png": "outside the class folders"}),
    Case("one entry twice", lazy(lambda: _twice()), named={"1.png": "more than once; only the last one is used"}),
]
NOTHING = "is not an image that can be read"
DEEP = Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30))
BROKEN = [
    Case(what, zipped({**GOOD, f"cat/{name}": data}), named={name: gist})
    for what, name, data, gist in (
        ("an empty file", "x.png", b"", "is empty (0 bytes)"),
        ("text", "x.png", b"nothing to see", NOTHING),
        ("a picture of 400 megapixels", "x.png", huge_png(), "megapixels"),
        ("a picture of one pixel", "x.png", png(1, (1, 1)), "only 1 x 1 pixels"),
        ("a picture cut short", "x.jpg", saved(noise(), "JPEG")[:900], "cut short"),
        ("a document", "x.pdf", b"%PDF-1.7 " + bytes(99), "a PDF document"),
        ("a drawing in markup", "x.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", NOTHING),
        ("a program", "x.png", b"\x7fELF" + bytes(99), NOTHING),
        ("a DICOM header and nothing else", "x.dcm", bytes(128) + b"DICM", "x.dcm"),
    )
]
RARE = [
    Case(what, zipped({**GOOD, "cat/x.png": data}), counts={"cat": 3, "horse": 2})
    for what, data in (
        ("a film", saved(noise(1), "GIF", save_all=True, append_images=[noise(2)])),
        ("print colours", saved(noise().convert("CMYK"), "JPEG")),
        ("16 bits", saved(DEEP, "PNG")),
        ("very long and thin", png(3, (6000, 17))),
    )
]


def _locked(data: bytes) -> bytes:
    raw = bytearray(data)
    at = raw.find(b"PK\x01\x02")
    while at >= 0:
        raw[at + 8] |= 1
        at = raw.find(b"PK\x01\x02", at + 4)
    return bytes(raw)


def _commented() -> bytes:
    raw = packed(GOOD)
    return raw[:-2] + struct.pack("<H", 60_000) + b"c" * 60_000


def _undeclared(classes: dict[str, bytes], encoding: str = "utf-8") -> bytes:
    """Names beyond ASCII without the flag that says which letters they are in."""
    plain = {name: f"{'x' * (len(name.encode(encoding)) - 1)}{i}" for i, name in enumerate(classes)}
    raw = packed({f"{plain[name]}/1.png": data for name, data in classes.items()})
    for name, stand_in in plain.items():
        raw = raw.replace(stand_in.encode() + b"/1.png", name.encode(encoding) + b"/1.png")
    return raw


def _twice() -> bytes:
    return packed({**GOOD, "cat/Z.png": png(200)}).replace(b"cat/Z.png", b"cat/1.png")


CASES = [*ZIPS, *BROKEN, *RARE]


def test_there_are_enough_of_them():
    assert len(CASES) >= 60 and len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_it_gets_its_sentence_and_a_good_set_is_read_afterwards(case, tmp_path):
    judge(case, tmp_path)
