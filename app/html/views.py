"""HTML for the page, drawn from result objects. Every text that a user can influence passes through `esc`."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from nearl import NOTICE

VIEW_SIDE = 1024  # longer side, in pixels, of the picture sent to the page
THUMB_SIDE = 128
UNLIKE_SHORT = "unlike those taught on"
MAX_WORDS = 6  # unknown words named in one note
UNLIKE = (
    "This image is unlike those it was taught on; do not rely on what it says. "
    "One in twenty images like them is called so too."
)

UNFAMILIAR = (
    "This picture is unlike those that the model has learned from, so until you teach it, its answer is little more "
    "than a guess. A few ordinary pictures are called so too."
)
UNFAMILIAR_SHORT = "unlike what the model knows"


def esc(text: object) -> str:
    """Text made safe for HTML, in elements and in quoted attributes."""
    return html.escape(str(text), quote=True)


def per_cent(value: float) -> str:
    """0.714 -> "71 %" with a narrow no-break space; shares under half a per cent say so rather than 0."""
    if 0 < value < 0.005:
        return "&lt; 1\u202f%"
    if 0.995 < value < 1:
        return "&gt; 99\u202f%"
    return f"{100 * value:.0f}\u202f%"


def plural(n: int, one: str, many: str | None = None) -> str:
    """3, "image" -> "3 images"."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def data_uri(image: Image.Image, side: int = VIEW_SIDE) -> str:
    """A picture as a PNG data address, shrunk to `side` if it is larger; alpha is kept."""
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


# ---------------------------------------------------------------------------------------------------------- messages


def message(text: str, kind: str = "caution") -> str:
    """One sentence where its cause is. `kind`: "caution" (amber) or "error"; both are spoken by a screen reader."""
    if not text:
        return ""
    word = {"caution": "Note", "error": "Not done"}[kind]
    return f'<p class="note {kind}" role="alert"><strong>{word}:</strong> {esc(text)}</p>'


def problem_list(problems: Sequence, lead: str = "Left out") -> str:
    """What was left out and why, one sentence per line (each names its file)."""
    if not problems:
        return ""
    rows = "".join(f"<li>{esc(p.reason)}</li>" for p in problems)
    return f'<div class="note caution" role="alert"><strong>{esc(lead)}:</strong><ul>{rows}</ul></div>'


# ------------------------------------------------------------------------------------------------------------ header


def header(model: str, notice: str = "") -> str:
    """The strip at the top that never scrolls away. `notice`: why another model than the one asked for is in use."""
    return (
        '<div class="bar"><h1 class="wordmark">NEARL-CLIP</h1>'
        f'<span class="notice">{esc(NOTICE)}</span>'
        f'<span class="model">{model}</span></div>{message(notice)}'
    )


def model_line(name: str, state: str) -> str:
    """Which model is loaded, or what it is waiting for; `state` is "ready", "loading" or a sentence."""
    if state == "ready":
        return f"Model: <strong>{esc(name)}</strong>"
    if state == "loading":
        return f"Model: <strong>{esc(name)}</strong>, loading"
    return f'<span class="alarm">{esc(state)}</span>'


# ------------------------------------------------------------------------------------------------------------ viewer


def viewer_empty() -> str:
    return (
        '<div class="viewer empty"><p>Drop an image here, or paste one,<br>or choose an example below.</p>'
        "<p class='quiet'>Images stay in this session and are forgotten afterwards.</p></div>"
    )


def viewer(
    picture: str,
    name: str,
    size: tuple[int, int],
    synthetic: bool,
    heat: str | None = None,
    caption: str = "",
    notes: Sequence[str] = (),
    marks: str = "",
    facts: Sequence[str] = (),
) -> str:
    """The image with its own aspect ratio and, above it, the map as a second layer whose opacity is set in CSS.

    `picture` and `heat` are data addresses; `caption` says in words what the map shows ("" if there is none); `notes`
    say what decoding had to change and what to check. `marks`: an SVG over the picture; `facts`: short words under it.
    """
    layer = f'<img class="map" src="{heat}" alt="{esc(caption)}">' if heat else ""
    tag = '<span class="tag">Synthetic</span>' if synthetic else ""
    words = "".join(f"<p>{esc(text)}</p>" for text in (caption, *notes) if text)
    return (
        f'<figure class="viewer"><div class="stage"><div class="zoomed"><img class="base" src="{picture}" '
        f'alt="{esc(name)}">{layer}{marks}</div></div>'
        f'<figcaption><span class="file">{esc(name)}</span><span>{size[0]} × {size[1]}</span>'
        f"{''.join(f'<span>{esc(fact)}</span>' for fact in facts)}{tag}</figcaption>"
        f"{words}</figure>"
    )


def strip(items: Sequence[tuple[str, str]], selected: int, label: str) -> str:
    """A row of buttons with pictures: (data address, name). Pressing one sends its index to the page."""
    if not items:
        return ""
    buttons = "".join(
        f'<button type="button" data-pick="{i}" aria-pressed="{"true" if i == selected else "false"}" '
        f'title="{esc(name)}"><img src="{src}" alt=""><span>{esc(name)}</span></button>'
        for i, (src, name) in enumerate(items)
    )
    return f'<div class="strip" role="group" aria-label="{esc(label)}">{buttons}</div>'


# ------------------------------------------------------------------------------------------------------------- bars


def bar(kind: str, word: str, value: float | None, interval: tuple[float, float] | None = None) -> str:
    """One labelled bar. `kind`: "before" (outline) or "after" (filled). `interval` is drawn as a whisker."""
    if value is None:
        return f'<div class="bar-line {kind}"><dt>{word}</dt><dd class="none">not taught yet</dd></div>'
    width = f"{100 * min(max(float(value), 0.0), 1.0):.1f}%"
    whisker, words = "", ""
    if interval:
        low, high = (100 * min(max(float(v), 0.0), 1.0) for v in interval)
        whisker = f'<s style="left:{low:.1f}%;width:{max(high - low, 0.5):.1f}%"></s>'
        words = f'<span class="range">{low:.0f} to {high:.0f}\u202f%</span>'
    return (
        f'<div class="bar-line {kind}"><dt>{word}</dt><dd><span class="track"><i style="width:{width}"></i>{whisker}'
        f'</span><span class="value">{per_cent(float(value))}</span>{words}</dd></div>'
    )


def bars(classes: Sequence[str], before: Sequence[float], after: Sequence[float] | None, untaught: set[str]) -> str:
    """Per class, in class order: the share before teaching and, if there is an adapter, after it."""
    blocks = []
    for i, name in enumerate(classes):
        lines = bar("before", "before", float(before[i]))
        if after is not None:
            lines += bar("after", "after", float(after[i]))
        mark = '<span class="untaught">never taught</span>' if name in untaught else ""
        blocks.append(f'<div class="bar-class"><h3>{esc(name)}{mark}</h3><dl>{lines}</dl></div>')
    return f'<div class="bars">{"".join(blocks)}</div>'


def headline(classes: Sequence[str], before: Sequence[float], after: Sequence[float] | None) -> str:
    """The reading in one sentence."""

    def best(p: Sequence[float]) -> str:
        top = int(np.argmax(p))
        return f"<strong>{esc(classes[top])}</strong>, {per_cent(float(p[top]))}"

    if after is None:
        return f'<p class="headline">Closest to {best(before)}</p>'
    return (
        f'<p class="headline">After teaching, closest to {best(after)}</p>'
        f'<p class="quiet">Before teaching, closest to {best(before)}</p>'
    )


def reading_empty(has_image: bool) -> str:
    words = (
        "Check that the classes below fit this image, then press “Read the image”."
        if has_image
        else "The reading appears here once there is an image."
    )
    return f'<div class="reading empty"><p>{words}</p></div>'


def reading_busy(loading: bool) -> str:
    words = "The model is still loading; the reading follows." if loading else "Reading the image."
    return f'<div class="reading empty" role="status"><p>{words}</p></div>'


def reading(
    classes: Sequence[str],
    before: Sequence[float],
    after: Sequence[float] | None,
    untaught: Iterable[str] = (),
    unknown: Sequence[str] = (),
    trusted: str = "",
    closer: Sequence[tuple[str, str]] = (),
    unfamiliar: bool = False,
) -> str:
    """One image's reading: the sentence, the bars and what they mean.

    untaught: classes that teaching did not cover. unknown: words of the prompts that the model was never trained on.
    trusted: from `trust`. closer: (name, title) of ready sets whose words are closer to the image, to choose from.
    unfamiliar: the image is unlike those that the model has learned from.
    """
    missing = [c for c in classes if c in set(untaught)] if after is not None else []
    notes = ""
    odd = message(UNFAMILIAR, "caution") if unfamiliar and after is None else ""
    if unknown:
        listed = ", ".join(f"“{word}”" for word in unknown[:MAX_WORDS]) + (" and others" * (len(unknown) > MAX_WORDS))
        notes += message(f"The model does not know {listed} and reads past it; use other words or a larger model.")
    if missing:
        names = ", ".join(missing)
        notes += message(f"The model was never taught {names}; for that, only your words count.")
    if after is None:
        notes += (
            '<p class="quiet">Nothing has been taught yet, so there is only a “before”. '
            '<a href="#teach" data-tab="Teach">Teach it from a few images</a></p>'
        )
    return (
        '<section class="reading" aria-live="polite"><h2 class="sr-only">Reading</h2>'
        f"{headline(classes, before, after)}{odd}{_closer(closer)}{bars(classes, before, after, set(missing))}"
        '<p class="quiet">Shares are relative to your prompts: they add up to 100 % over the classes you wrote, '
        f"and say nothing about what you left out.</p>{trusted}{notes}</section>"
    )


def _closer(sets: Sequence[tuple[str, str]]) -> str:
    if not sets:
        return ""
    buttons = " ".join(
        f'<button type="button" data-pick="{esc(name)}">Use “{esc(title)}”</button>' for name, title in sets
    )
    return (
        '<div class="note caution"><strong>Note:</strong> To the model this picture is closer to the words of another '
        f"ready set than to these. {buttons}</div>"
    )


def trust(
    calibrated: bool,
    coverage: float | None,
    among: Sequence[str] | None,
    unlike: bool | None,
    edited: bool,
    notes: Sequence[str],
) -> str:
    """How far the shares after teaching can be trusted, for one image.

    `among`: the classes that hold the true one as often as `coverage` (0..1) says; `unlike`: whether the image is
    unlike those taught with; `edited`: the prompts are no longer those it was measured with; `notes`: what is missing
    and why. None where it was not measured.
    """
    rows = [("Shares", "calibrated on images kept aside" if calibrated else "not calibrated", not calibrated)]
    if among is not None and coverage:
        lead = f"in {10 * coverage:.0f} of 10 such images the true class is among"
        names = ", ".join(f'<span class="sure">{esc(name)}</span>' for name in among)
        rows.append(("Not ruled out", f"{names} <span class='quiet'>({lead} those named here)</span>", False))
    elif edited:
        rows.append(("Not ruled out", "switched off, because the prompts were edited", True))
    if unlike is not None:
        rows.append(
            ("This image", "unlike those it was taught on" if unlike else "like those it was taught on", unlike)
        )
    facts = "".join(f"<dt>{word}</dt><dd{' class=off' * off}>{value}</dd>" for word, value, off in rows)
    warn = message(UNLIKE) if unlike else ""
    if edited:
        warn += message(notes[0]) if notes else ""
        notes = notes[1:]
    more = "".join(f'<p class="quiet">{esc(note)}</p>' for note in notes)
    return f'<div class="trust"><h3>How far to trust it</h3>{warn}<dl class="facts">{facts}</dl>{more}</div>'


def table(
    files: Sequence[str],
    classes: Sequence[str],
    before: np.ndarray,
    after: np.ndarray | None,
    unlike: Sequence[bool] | None = None,
    closer: Sequence[Sequence[str]] = (),
    unfamiliar: Sequence[bool] | None = None,
) -> str:
    """All images at a glance: the closest class before and after.

    `unlike`: which are unlike those taught with; `closer`: for each the ready sets that fit it better; `unfamiliar`:
    which are unlike those that the model has learned from.
    """

    def cell(p: Sequence[float], mark: str = "") -> str:
        top = int(np.argmax(p))
        odd = f' <span class="untaught">{mark}</span>' if mark else ""
        return f"<td>{esc(classes[top])} <span class='value'>{per_cent(float(p[top]))}</span>{odd}</td>"

    head = "<th scope='col'>Image</th><th scope='col'>Before teaching</th>"
    head += "<th scope='col'>After teaching</th>" if after is not None else ""

    def doubt(i: int) -> str:
        if unfamiliar and unfamiliar[i] and after is None:
            return UNFAMILIAR_SHORT
        return "other words fit better" if closer and closer[i] else ""

    rows = "".join(
        f"<tr><th scope='row'>{esc(name)}</th>{cell(before[i], doubt(i))}"
        f"{cell(after[i], UNLIKE_SHORT if unlike and unlike[i] else '') if after is not None else ''}</tr>"
        for i, name in enumerate(files)
    )
    return (
        f'<div class="table-wrap"><table class="plain"><caption>All {len(files)} images</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
