"""The encoding of text that does not name it: UTF-8, else the national code page in which the text makes sense.

A code page fits if nearly all characters beyond ASCII are common ones of its language and few of them stand inside a
Latin word, as they do where an accented letter was taken for the first half of an ideograph (our choice).
"""

from __future__ import annotations

from collections.abc import Callable

FITS = 0.7  # share of characters beyond ASCII that have to be common ones
SAMPLE = 200_000  # bytes that are looked at
KOREAN = 6  # Hangul and common Chinese characters share their codes; so many, all of them Hangul, are Korean


def encoding_of(data: bytes, dos: bool = False) -> str:
    """The name of a codec that decodes `data`: "utf-8", "gbk", "cp932", "big5", "cp949", "cp1251", "cp1252"...

    dos: the bytes are names in a zip, where Western names are in code page 437 and Russian ones in 866.
    """
    if _decodes(data, "utf-8"):
        return "utf-8"
    sample = data[:SAMPLE]
    if len(sample) < len(data):  # cut between lines, never inside a character
        sample = sample[: sample.rfind(b"\n") + 1] or sample
    scores = {codec: _score(sample, codec, common) for codec, common in _COMMON.items()}
    best = max(scores, key=lambda codec: scores[codec])
    if scores[best] >= FITS and _decodes(data, best):
        return "cp949" if best == "gbk" and _korean(sample) else best
    cyrillic = {codec: _cyrillic(sample, codec) for codec in (("cp866", "cp1251") if dos else ("cp1251",))}
    best = max(cyrillic, key=lambda codec: cyrillic[codec])
    if cyrillic[best] >= FITS:
        return best
    western = ("cp437", "cp1252", "latin-1") if dos else ("cp1252", "latin-1")
    return max((codec for codec in western if _decodes(data, codec)), key=lambda codec: _latin(sample, codec))


def _decodes(data: bytes, codec: str) -> bool:
    try:
        data.decode(codec)
    except UnicodeDecodeError:
        return False
    return True


def _score(data: bytes, codec: str, common: Callable[[bytes], bool]) -> float:
    """Share of characters beyond ASCII that are common in the language of a code page of two bytes; 0 where most stand
    inside a Latin word."""
    try:
        text = data.decode(codec)
    except UnicodeDecodeError:
        return 0.0
    places = _beyond(text)
    return sum(common(text[i].encode(codec)) for i in places) / max(len(places), 1)


def _beyond(text: str) -> list[int]:
    """The places of characters beyond ASCII; none where most stand beside a Latin letter."""
    places = [i for i, c in enumerate(text) if not c.isascii()]
    inside = sum(any(c.isascii() and c.isalpha() for c in text[max(0, i - 1) : i + 2]) for i in places)
    return [] if inside > len(places) / 2 else places


def _gbk(c: bytes) -> bool:  # level 1 of GB 2312, and full-width punctuation
    return len(c) == 2 and c[1] >= 0xA1 and (0xB0 <= c[0] <= 0xD7 or c[0] in (0xA1, 0xA3))


def _japanese(c: bytes) -> bool:  # punctuation, kana and level 1 of JIS X 0208
    return len(c) == 2 and (c[0] in (0x81, 0x83) or (c[0] == 0x82 and c[1] >= 0x9F) or 0x88 <= c[0] <= 0x98)


def _big5(c: bytes) -> bool:  # punctuation and the frequently used characters
    return len(c) == 2 and (c[0] == 0xA1 or 0xA4 <= c[0] <= 0xC6)


_COMMON = {"gbk": _gbk, "cp932": _japanese, "big5": _big5}


def _korean(data: bytes) -> bool:
    pairs = [c.encode("gbk") for c in data.decode("gbk") if not c.isascii()]
    return len(pairs) >= KOREAN and all(len(c) == 2 and 0xB0 <= c[0] <= 0xC8 for c in pairs) and _decodes(data, "cp949")


def _cyrillic(data: bytes, codec: str) -> float:
    """Share of characters beyond ASCII that are Cyrillic letters beside another one."""
    text = data.decode(codec, errors="replace")
    places = _beyond(text)
    letters = {i for i in places if "\u0400" <= text[i] <= "\u045f"}
    return sum(i in letters and bool({i - 1, i + 1} & letters) for i in places) / max(len(places), 1)


def _latin(data: bytes, codec: str) -> float:
    """Share of characters beyond ASCII that are Latin letters."""
    beyond = [c for c in data.decode(codec, errors="replace") if not c.isascii()]
    return sum("\u00c0" <= c <= "\u024f" and c.isalpha() for c in beyond) / max(len(beyond), 1)
