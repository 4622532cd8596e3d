"""HTML of the Teach tab up to the result: the labelled set and its thumbnails, the check before teaching, the run.

Buttons carry `data-act` and what they are about as numbers, never as names; assets/page/act.js sends them to the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from app.html.views import esc, message, per_cent, plural

PAGE = 24  # thumbnails shown at a time
MOST_GROUPS = 6  # groups of equal images shown with their thumbnails
MOST_PROBLEMS = 40  # files named one by one
POINTS = 200  # of a curve

Thumb = tuple[int, str, str, Sequence[str]]  # index in the set, data address, file, marks such as "copy"


def quiet(words: str) -> str:
    return f'<p class="quiet">{esc(words)}</p>'


def act(words: str, act: str, look: str = "text", label: str = "", **data: object) -> str:
    """A button that sends `act` and `data` (numbers or words of our own) to the page. `label`: for a screen reader.

    `look`: "text" (looks like a link) or "small" (a quiet button).
    """
    given = "".join(f' data-{name}="{esc(value)}"' for name, value in data.items())
    name = f' aria-label="{esc(label)}"' if label else ""
    return f'<button type="button" class="act {look}" data-act="{act}"{given}{name}>{esc(words)}</button>'


def options(classes: Sequence[str], but: int | None = None) -> str:
    return "".join(f'<option value="{i}">{esc(name)}</option>' for i, name in enumerate(classes) if i != but)


# --------------------------------------------------------------------------------------------------------- the set


def labelled_set(counts: Mapping[str, int], opened: int | None, page: int, thumbs: Sequence[Thumb]) -> str:
    """The classes with their numbers and, of the one that is open, a page of thumbnails to tick."""
    classes = list(counts)
    most = max(counts.values(), default=0)
    rows = "".join(_class_row(classes, i, counts[name], most, i == opened) for i, name in enumerate(classes))
    words = f"{plural(sum(counts.values()), 'image')} in {plural(len(classes), 'class', 'classes')}"
    grid = "" if opened is None or opened >= len(classes) else _grid(classes, opened, page, counts, thumbs)
    state = "" if opened is None else opened
    return (
        f'<section class="set" data-state data-open="{state}" data-page="{page}"><div class="set-head"><h3>{words}</h3>'
        f'{act("Forget these images", "forget")}</div><ul class="classes">{rows}</ul>{grid}</section>'
    )


def _class_row(classes: Sequence[str], index: int, count: int, most: int, opened: bool) -> str:
    name = classes[index]
    show = act(
        "Hide images" if opened else "Show images", "close" if opened else "open",
        label=f"{'Hide' if opened else 'Show'} the images of {name}", **{"class": index},
    ) if count else ""  # fmt: skip
    merge = ""
    if len(classes) > 2:
        merge = (
            f'<form data-act="merge" data-class="{index}"><label>Put its images into<select name="to">'
            f'{options(classes, index)}</select></label><button type="submit" class="act small">Merge</button></form>'
        )
    edit = (
        f'<details><summary aria-label="Edit the class {esc(name)}">Edit</summary><div class="edit">'
        f'<form data-act="rename" data-class="{index}"><label>Another name<input type="text" name="to" maxlength="100" '
        f'value="{esc(name)}" autocomplete="off"></label><button type="submit" class="act small">Rename</button></form>'
        f"{merge}{act('Remove this class and its images', 'drop', **{'class': index})}</div></details>"
    )
    width = 100 * count / most if most else 0
    return (
        f'<li class="{"open" if opened else ""}"><span class="name">{esc(name)}</span>'
        f'<span class="track" aria-hidden="true"><i style="width:{width:.1f}%"></i></span>'
        f'<span class="number">{count}</span><span class="do">{show}{edit}</span></li>'
    )


def _grid(classes: Sequence[str], opened: int, page: int, counts: Mapping[str, int], thumbs: Sequence[Thumb]) -> str:
    name, total = classes[opened], counts[classes[opened]]
    first = page * PAGE
    pages = ""
    if total > PAGE:
        earlier = act("Earlier", "page", look="small", to=page - 1) if page else ""
        later = act("Later", "page", look="small", to=page + 1) if first + PAGE < total else ""
        pages = f'<span class="pages">{earlier}{later}</span>'
    items = "".join(_tick(*thumb) for thumb in thumbs)
    move = ""
    if len(classes) > 1:
        move = (
            f'<form data-act="move"><label class="sr-only" for="move-to">Class to move the ticked images to</label>'
            f'<select id="move-to" name="to">{options(classes, opened)}</select>'
            '<button type="submit" class="act small">Move the ticked there</button></form>'
        )
    return (
        f'<div class="grid"><div class="grid-head"><h4>{esc(name)}: {first + 1} to {first + len(thumbs)} of {total}'
        f'</h4>{pages}</div><ul class="thumbs">{items}</ul>'
        f'<div class="grid-foot">{act("Remove the ticked", "remove", look="small")}{move}</div></div>'
    )


def _tick(index: int, src: str, file: str, marks: Sequence[str]) -> str:
    words = "".join(f'<span class="mark">{esc(mark)}</span>' for mark in marks)
    return (
        f'<li><label title="{esc(file)}"><input type="checkbox" data-index="{index}" aria-label="{esc(file)}">'
        f'<img src="{esc(src)}" alt="">{words}</label></li>'
    )


# -------------------------------------------------------------------------------------------------------- the check


def check(
    sides: Sequence[int],
    aside: str,
    cautions: Sequence[str],
    blocking: str = "",
    groups: str = "",
    problems: Sequence = (),
) -> str:
    """What was found before teaching. `aside`: what will be kept aside and why; `groups`: from `equal_images`."""
    facts = []
    if any(sides):
        facts.append(("Sizes", _sizes(sides)))
    if aside and not blocking:
        facts.append(("Kept aside", aside))
    rows = "".join(f"<dt>{word}</dt><dd>{esc(value)}</dd>" for word, value in facts)
    stop = message(blocking, "error") if blocking else ""
    return (
        f'<div class="check"><dl class="facts">{rows}</dl>{stop}{"".join(message(c) for c in cautions)}{groups}'
        f"{left_out(problems)}</div>"
    )


def _sizes(sides: Sequence[int]) -> str:
    low_w, high_w, low_h, high_h = sides
    if (low_w, low_h) == (high_w, high_h):
        return f"all {low_w} × {low_h} pixels"
    return f"{low_w} to {high_w} pixels wide, {low_h} to {high_h} high"


def left_out(problems: Sequence) -> str:
    """The files that could not be used, by name and reason."""
    if not problems:
        return ""
    rows = "".join(f"<li>{esc(p.reason)}</li>" for p in problems[:MOST_PROBLEMS])
    if len(problems) > MOST_PROBLEMS:
        rows += f"<li>and {len(problems) - MOST_PROBLEMS} more</li>"
    return (
        f'<div class="note caution" role="alert"><strong>Left out, {plural(len(problems), "file")}:</strong>'
        f"<ul>{rows}</ul></div>"
    )


def equal_images(
    conflicts: Sequence[Sequence[Thumb]],
    copies: Sequence[Sequence[Thumb]],
    near: Sequence[Sequence[Thumb]],
    classes: Sequence[str],
) -> str:
    """Groups of equal images with their thumbnails (marks: their class): those with more than one label, copies of one
    label, and pictures that are nearly the same. A group's number in `data-group` is its place in its own list.
    """
    out = ""
    if conflicts:
        shown = "".join(_group(group, i, classes) for i, group in enumerate(conflicts[:MOST_GROUPS]))
        out += f"<h3>The same image in different classes</h3>{shown}{_more(conflicts)}"
    if copies:
        shown = "".join(_group(group, i, ()) for i, group in enumerate(copies[:MOST_GROUPS]))
        spare = sum(len(group) - 1 for group in copies)
        keep = act(f"Keep one of each, remove {spare}", "keep-one", look="small")
        out += f"<h3>Copies within a class</h3>{shown}{_more(copies)}{keep}"
    if near:
        shown = "".join(_group(group, i, ()) for i, group in enumerate(near[:MOST_GROUPS]))
        why = quiet("They are never split between the images to learn from and those to check on.")
        out += f"<h3>Nearly the same</h3>{why}{shown}{_more(near)}"
    return f'<section class="equal">{out}</section>' if out else ""


def _more(groups: Sequence) -> str:
    return quiet(f"and {len(groups) - MOST_GROUPS} more like these") if len(groups) > MOST_GROUPS else ""


def _group(group: Sequence[Thumb], number: int, classes: Sequence[str]) -> str:
    items = "".join(
        f'<li title="{esc(file)}"><img src="{esc(src)}" alt="{esc(file)}">'
        f"{''.join(f'<span>{esc(mark)}</span>' for mark in marks)}</li>"
        for _, src, file, marks in group
    )
    found = {mark for *_, marks in group for mark in marks}
    settle = "".join(
        act(f"All are “{name}”", "settle", look="small", group=number, to=i)
        for i, name in enumerate(classes)
        if name in found
    )
    if settle:
        settle = (
            f'<div class="grid-foot">{settle}{act("Remove them", "settle", look="small", group=number, to=-1)}</div>'
        )
    return f'<div class="group"><ul class="thumbs">{items}</ul>{settle}</div>'


# ---------------------------------------------------------------------------------------------------------- the run


def run_empty() -> str:
    return (
        '<div class="progress empty"><p>The learning curve and the result appear here.</p>'
        "<p class='quiet'>Some of your images are kept aside and used only to check what was learnt.</p></div>"
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


def waiting(place: int) -> str:
    """A run in the queue; `place` 1 is the next one."""
    before = "Another run is going on; yours is the next." if place <= 1 else f"{place} runs are before yours."
    return (
        f'<section class="progress" aria-live="polite"><p class="headline">Waiting for its turn</p>{quiet(before)}'
        f"{quiet('You may leave this page; the run goes on and is found again when you come back.')}</section>"
    )


def phase_words(phase: str) -> str:
    """The name of a run's phase, as a visitor reads it."""
    if phase.startswith("fold"):
        return f"Checking by turns: part {esc(phase.removeprefix('fold').strip())}"
    return {"checking": "Checking on images kept aside", "": "Getting the images ready"}.get(phase, "Teaching")


def progress(
    phase: str,
    step: int,
    steps: int,
    seconds: float | None,
    losses: Sequence[tuple[int, float]],
    held: Sequence[tuple[int, float]],
) -> str:
    """What is being done, how far it is, how long is left, and the curve so far."""
    share = 0 if not steps else min(100 * step / steps, 100)
    unit = "Image" if phase == "checking" else "Step"
    done = f"{unit} {step} of {steps}" if steps else "Loading the model and the images"
    why = ""
    if phase.startswith("fold"):
        why = quiet("The set is small, so it is taught several times, each time with another part kept aside.")
    return (
        f'<section class="progress" aria-live="off"><p class="headline">{phase_words(phase)}</p>{why}'
        f'<div class="track" role="progressbar" aria-label="Teaching" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{share:.0f}"><i style="width:{share:.1f}%"></i></div>'
        f'<p class="quiet steps"><span>{done}</span><span>{duration(seconds)}</span></p>'
        f"{curves(losses, held, steps)}</section>"
    )


def ended(state: str, error: str) -> str:
    """A run without a result: failed or cancelled."""
    if state == "failed":
        words = message(error or "Teaching stopped; the model is as it was.", "error")
    else:
        words = message("Teaching was cancelled; the model is as it was.")
    return f'<section class="progress ended">{words}</section>'


def curves(losses: Iterable[tuple[int, float]], held: Iterable[tuple[int, float]], steps: int) -> str:
    """Two small curves over the same steps: the error while teaching and, where it is measured, what is right on the
    images kept aside."""
    losses, held = list(losses), list(held)
    if len(losses) < 2:
        return '<div class="curve-empty"></div>'
    top = max(max(v for _, v in losses), 1e-6)
    words = f"Error while teaching, from {losses[0][1]:.2f} to {losses[-1][1]:.2f} (lower is better)"
    out = _curve(losses, steps, top, words, ("", ""), "loss")
    if held:
        words = f"Right on images kept aside, from {per_cent(held[0][1])} to {per_cent(held[-1][1])}"
        out += _curve(held, steps, 1.0, words, (per_cent(1.0), per_cent(0.0)), "held")
    return f'<div class="curves">{out}</div>'


def _curve(
    points: Sequence[tuple[int, float]], steps: int, top: float, words: str, ends: tuple[str, str], kind: str
) -> str:
    width, height = 480.0, 96.0
    if len(points) > POINTS:
        points = [*points[:: len(points) // POINTS], points[-1]]
    places = [(width * s / max(steps, 1), height - height * min(max(v, 0), top) / top) for s, v in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = places if kind == "held" else places[-1:]
    marks = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in dots)
    axis = (
        f'<span class="top" aria-hidden="true">{ends[0]}</span><span class="bottom" aria-hidden="true">{ends[1]}</span>'
    )
    return (
        f'<figure class="curve {kind}"><div class="plot">{axis if ends[0] else ""}'
        f'<svg viewBox="0 -4 {width:.0f} {height + 8:.0f}" preserveAspectRatio="none" role="img" aria-label="{words}">'
        f'<line x1="0" y1="{height:.0f}" x2="{width:.0f}" y2="{height:.0f}"/>'
        f'<polyline points="{path}"/><path class="end" d="{marks}"/></svg></div>'
        f"<figcaption>{words}</figcaption></figure>"
    )
