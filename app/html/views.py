"""What several tabs show: messages, the header, the viewer and rows of small images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from PIL import Image

from app.html import render
from nearl import NOTICE
from nearl.data.images import ImageRecord
from nearl.report.words import per_cent, plural

__all__ = [
    "THUMB_SIDE", "VIEW_SIDE", "badge", "data_uri", "header", "message", "per_cent", "plural", "problem_list", "quiet",
    "section", "strip", "viewer", "viewer_empty",
]  # fmt: skip

VIEW_SIDE = 1024  # longer side, in pixels, of the image sent to the page
THUMB_SIDE = 128


def data_uri(image: Image.Image, side: int = VIEW_SIDE, quality: int = 88) -> str:
    """The image as a data address, at most `side` pixels long: PNG, which keeps alpha, or JPEG of this quality for a
    thumbnail."""
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side))
    small = side <= THUMB_SIDE and image.mode in ("L", "RGB")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG" if small else "PNG", quality=quality)
    kind = "jpeg" if small else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def message(text: str, kind: str = "caution") -> str:
    """A sentence beside its cause, "" for none. `kind`: "caution" (amber) or "error"; screen readers speak both."""
    return render("note.html", text=text, kind=kind) if text else ""


def problem_list(problems: Sequence, lead: str = "Left out", still: str = "") -> str:
    """The files that were left out, one sentence per line, which names the file and says why. `still`: the image
    that is shown all the same."""
    return render("problems.html", problems=problems, lead=lead, still=still) if problems else ""


def quiet(words: str) -> str:
    """A sentence in small grey type."""
    return render("quiet.html", words=words)


def section(words: str, tag: str = "") -> str:
    """The heading of a part of a tab, with a tag such as "Synthetic"."""
    return render("section.html", words=words, tag=tag)


def header(model: str, state: str, notice: str = "", measured: bool = True, aside: str = "") -> str:
    """The strip at the top of the page. `state`: "ready", "loading" or what is wrong in a sentence; `notice`: why
    another model than the one asked for is in use; `measured`: whether what was measured of the embedded model may be
    said, which the prompt editor reads here; `aside`: the name of the adapter that was put aside with its model."""
    return render(
        "header.html", model=model, state=state, notice=notice, purpose=NOTICE, measured=measured, aside=aside
    )  # fmt: skip


def badge(tab: str, words: str) -> str:
    """That a run of a tab is going on, as a link to the tab; for the head of the page."""
    return render("badge.html", tab=tab, words=words)


def viewer_empty() -> str:
    return render("viewer.html", picture=None)


def viewer(
    record: ImageRecord,
    synthetic: bool,
    map_layer: tuple[str | None, str] = (None, ""),
    notes: Sequence[str] = (),
    marks: str = "",
    facts: Sequence[str] = (),
) -> str:
    """The image in its own aspect ratio and, above it, the map as a second layer whose opacity is set in CSS.

    `map_layer`: (data address of the map or None, what it shows in words); `notes`: what decoding had to change and
    what to check; `marks`: an SVG over the image; `facts`: short words under it.
    """
    return render(
        "viewer.html", picture=data_uri(record.image()), digest=record.digest[:12], name=record.name, size=record.size,
        synthetic=synthetic, heat=map_layer[0], caption=map_layer[1], notes=notes, marks=marks, facts=facts,
    )  # fmt: skip


def strip(items: Sequence[tuple[str, str]], selected: int, label: str, files: bool = False) -> str:
    """A row of buttons with images: (data address, name). Pressing one sends its index to the page. `files`: the names
    are those of files, whose ends tell them apart."""
    return render("strip.html", items=items, selected=selected, label=label, files=files) if items else ""
