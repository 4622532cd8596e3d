"""HTML for the page, drawn from result objects. Every text that a user can influence passes through `esc`."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from PIL import Image

from nearl import NOTICE

VIEW_SIDE = 1024  # longer side, in pixels, of the picture sent to the page
THUMB_SIDE = 128
MAX_WORDS = 6  # unknown words named in one note


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
        '<div class="viewer empty"><p>Choose an example below,<br>or bring an image of your own.</p>'
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
) -> str:
    """One image's reading: the sentence, the bars and what they mean.

    untaught: classes that teaching did not cover. unknown: words of the prompts that the model was never trained on.
    trusted: from `trust`.
    """
    missing = [c for c in classes if c in set(untaught)] if after is not None else []
    notes = ""
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
        f"{headline(classes, before, after)}{bars(classes, before, after, set(missing))}"
        '<p class="quiet">Shares are relative to your prompts: they add up to 100 % over the classes you wrote, '
        f"and say nothing about what you left out.</p>{trusted}{notes}</section>"
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
    warn = message("This image is unlike those it was taught on; do not rely on what it says.") if unlike else ""
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
) -> str:
    """All images at a glance: the closest class before and after; `unlike`: which are unlike those taught with."""

    def cell(p: Sequence[float], mark: bool = False) -> str:
        top = int(np.argmax(p))
        odd = ' <span class="untaught">unlike those taught on</span>' if mark else ""
        return f"<td>{esc(classes[top])} <span class='value'>{per_cent(float(p[top]))}</span>{odd}</td>"

    head = "<th scope='col'>Image</th><th scope='col'>Before teaching</th>"
    head += "<th scope='col'>After teaching</th>" if after is not None else ""
    rows = "".join(
        f"<tr><th scope='row'>{esc(name)}</th>{cell(before[i])}"
        f"{cell(after[i], bool(unlike and unlike[i])) if after is not None else ''}</tr>"
        for i, name in enumerate(files)
    )
    return (
        f'<div class="table-wrap"><table class="plain"><caption>All {len(files)} images</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


# ------------------------------------------------------------------------------------------------------------- teach


def check_empty(words: str) -> str:
    return f'<p class="quiet">{esc(words)}</p>'


def check(counts: Mapping[str, int], problems: Sequence, cautions: Sequence[str], test: int | None) -> str:
    """What was found before teaching: images per class, files left out, and what looks thin.

    `test`: how many images came separately to check on, or None.
    """
    aside = f'<p class="quiet">Another {plural(test, "image")} to check on afterwards.</p>' if test else ""
    total = sum(counts.values())
    rows = "".join(f"<tr><th scope='row'>{esc(c)}</th><td class='number'>{n}</td></tr>" for c, n in counts.items())
    return (
        f'<div class="check"><table class="plain"><caption>{plural(total, "image")} in '
        f"{plural(len(counts), 'class', 'classes')}</caption>"
        "<thead><tr><th scope='col'>Class</th><th scope='col' class='number'>Images</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{aside}{''.join(message(c) for c in cautions)}{problem_list(problems)}</div>"
    )


def duration(seconds: float | None) -> str:
    """Seconds left, in words that do not pretend to precision."""
    if seconds is None:
        return ""
    if seconds < 10:
        return "a few seconds left"
    if seconds < 90:
        return f"about {5 * round(seconds / 5):.0f} seconds left"
    return f"about {round(seconds / 60):.0f} minutes left"


def curve(losses: Sequence[tuple[int, float]], steps: int) -> str:
    """The error over the steps as a small line, with its first and last value in words."""
    if len(losses) < 2:
        return '<div class="curve-empty"></div>'
    width, height = 480.0, 120.0
    points = losses if len(losses) <= 200 else [*losses[:: max(len(losses) // 200, 1)], losses[-1]]
    top = max(max(v for _, v in points), 1e-6)
    path = " ".join(f"{width * s / max(steps, 1):.1f},{height - (height - 8) * v / top:.1f}" for s, v in points)
    last_x, last_y = path.split(" ")[-1].split(",")
    words = f"Error while teaching, from {points[0][1]:.2f} to {points[-1][1]:.2f}"
    return (
        f'<figure class="curve"><svg viewBox="0 -4 {width:.0f} {height + 8:.0f}" preserveAspectRatio="none" role="img" '
        f'aria-label="{words}"><line x1="0" y1="{height:.0f}" x2="{width:.0f}" y2="{height:.0f}"/>'
        f'<polyline points="{path}"/><path class="end" d="M{last_x} {last_y}h0"/></svg>'
        f"<figcaption>{words} (lower is better)</figcaption></figure>"
    )


def progress(step: int, steps: int, words: str, seconds: float | None, losses: Sequence[tuple[int, float]]) -> str:
    """What is being done, how far it is and how long is left."""
    share = 0 if not steps else 100 * step / steps
    left = duration(seconds)
    return (
        f'<section class="progress" aria-live="off"><p class="headline">{esc(words)}</p>'
        f'<div class="track" role="progressbar" aria-label="Teaching" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{share:.0f}"><i style="width:{share:.1f}%"></i></div>'
        f'<p class="quiet"><span>Step {step} of {steps}</span><span>{left}</span></p>{curve(losses, steps)}</section>'
    )


def teach_empty() -> str:
    return (
        '<div class="progress empty"><p>The loss curve and the result appear here.</p>'
        "<p class='quiet'>Some of your images are kept aside and used only to check what was learnt.</p></div>"
    )


def result(held_out: Mapping | None, n_taught: int, losses: Sequence[tuple[int, float]], steps: int) -> str:
    """After teaching: balanced accuracy on images that were kept aside, before and after, or why there is none.

    `held_out`: {"n", "few", "before": {"value", "interval"}, "after": {...}}, or None if nothing was kept aside.
    """
    head = f'<p class="headline">Taught with {plural(n_taught, "image")}. It is now in use in '
    head += '<a href="#predict" data-tab="Predict">Predict</a>.</p>'
    if held_out is None:
        score = '<p class="note caution"><strong>Note:</strong> Too few images to keep some aside, so nothing is known '
        score += "about how well it does on new ones.</p>"
    else:
        lines = "".join(
            bar(kind, kind, held_out[kind]["value"], held_out[kind].get("interval")) for kind in ("before", "after")
        )
        drawn = any(held_out[kind].get("interval") for kind in ("before", "after"))
        whiskers = "The line across a bar is its 95 % interval." if drawn else ""
        score = (
            "<h3>Right on images it had not seen (balanced over the classes)</h3>"
            f'<dl class="bars wide">{lines}</dl>'
            f'<p class="quiet">Checked on {plural(held_out["n"], "image")} kept aside. {whiskers}</p>'
        )
        if held_out["few"]:
            score += message(f"{plural(held_out['n'], 'image')} are too few to say more than a hint.")
    return f'<section class="progress done">{head}{score}{curve(losses, steps)}</section>'


def adapter_empty() -> str:
    return '<p class="quiet">Nothing has been taught yet. What you teach is used in Predict at once.</p>'


def adapter(name: str, counts: Mapping[str, int], created: str) -> str:
    """The adapter in use: its name, the images of each class it was taught with, and when."""
    taught = ", ".join(f"{n} {esc(c)}" for c, n in counts.items())
    return (
        f'<dl class="facts"><dt>Taught with</dt><dd>{taught}</dd><dt>Images from</dt><dd>{esc(name)}</dd>'
        f"<dt>Made</dt><dd>{esc(created[:16].replace('T', ' '))} UTC</dd></dl>"
    )
