"""What the Teach tab shows: the labelled set, the check before teaching, the run and its result, the adapters.

Buttons carry `data-act` and what they are about as numbers, never as names; assets/page/act.js sends them to the page.
A result is shown as nearl.measure.evaluate makes it; a figure that is None is "too few to say".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from app.html import render
from app.html.views import plural
from nearl.report import geometry
from nearl.report.words import FIGURES

PAGE = 24  # thumbnails shown at a time
MOST_GROUPS = 6  # groups of equal images shown with their thumbnails
MOST_PROBLEMS = 40  # files named one by one
MOST_CLASSES = 6  # named on the card of an adapter
TOO_FEW = "Too few images to keep some aside, so nothing is known about how well it does on new ones."

Thumb = tuple[int, str, str, Sequence[str]]  # index in the set, data address, file, marks such as "copy"


# --- the labelled set ------------------------------------------------------------------------------------------------


def labelled_set(counts: Mapping[str, int], opened: int | None, page: int, thumbs: Sequence[Thumb]) -> str:
    """The classes with their numbers of images and, of the class `opened`, a page of thumbnails to tick."""
    return render(
        "teach/set.html", classes=list(counts), counts=list(counts.values()), page=page, per_page=PAGE, thumbs=thumbs,
        opened=opened if opened is not None and opened < len(counts) else None,
    )  # fmt: skip


def check(
    sides: Sequence[int],
    aside: str,
    cautions: Sequence[str],
    blocking: str = "",
    groups: str = "",
    problems: Sequence = (),
) -> str:
    """What was found before teaching.

    `sides`: least and greatest width, least and greatest height, in pixels; `aside`: what will be kept aside and why;
    `blocking`: why it cannot be taught, or ""; `groups`: of `equal_images`.
    """
    return render(
        "teach/check.html", sides=sides, aside=aside, cautions=cautions, blocking=blocking, groups=groups,
        problems=problems, most=MOST_PROBLEMS,
    )  # fmt: skip


def left_out(problems: Sequence) -> str:
    """The files that could not be used, by name and reason."""
    return render("teach/left_out.html", problems=problems, most=MOST_PROBLEMS)


def equal_images(
    conflicts: Sequence[Sequence[Thumb]],
    copies: Sequence[Sequence[Thumb]],
    near: Sequence[Sequence[Thumb]],
    classes: Sequence[str],
) -> str:
    """Groups of equal images with their thumbnails (marks: their class): those with several labels, copies of one
    label, and images that are nearly the same. A group's number in `data-group` is its place in its own list."""
    if not (conflicts or copies or near):
        return ""
    shown = [[(*thumb[:3], tuple(thumb[3])) for thumb in group] for group in conflicts[:MOST_GROUPS]]
    return render(
        "teach/equal.html", conflicts=[*shown, *conflicts[MOST_GROUPS:]], copies=copies, near=near,
        classes=list(classes), most=MOST_GROUPS,
    )  # fmt: skip


# --- the run ---------------------------------------------------------------------------------------------------------


def run_empty() -> str:
    return render("teach/run.html", state="none")


def duration(seconds: float | None) -> str:
    """The time left, roughly; "" if it is not known."""
    if seconds is None:
        return ""
    if seconds < 10:
        return "a few seconds left"
    if seconds < 90:
        return f"about {5 * round(seconds / 5):.0f} seconds left"
    return f"about {round(seconds / 60):.0f} minutes left"


def waiting(place: int) -> str:
    """A run in the queue; `place` 1 is the next one."""
    words = "Another run is in progress; yours is next." if place <= 1 else f"{place} runs are before yours."
    return render("teach/run.html", state="waiting", words=words)


def phase_words(phase: str) -> str:
    """The name of a run's phase, as a visitor reads it."""
    if phase.startswith("fold"):
        return f"Cross-validation: part {phase.removeprefix('fold').strip()}"
    return {"checking": "Checking on images kept aside", "": "Preparing the images"}.get(phase, "Teaching")


def progress(
    phase: str,
    step: int,
    steps: int,
    seconds: float | None,
    losses: Sequence[tuple[int, float]],
    held: Sequence[tuple[int, float]],
) -> str:
    """What is being done, how far it is, the seconds left, and the curves so far."""
    unit = "Image" if phase == "checking" else "Step"
    return render(
        "teach/progress.html",
        title=phase_words(phase),
        by_turns=phase.startswith("fold"),
        share=min(step / steps, 1) if steps else 0,
        done=f"{unit} {step} of {steps}" if steps else "Loading the model and the images",
        left=duration(seconds),
        curves=geometry.curves(losses, held, steps),
    )


def ended(state: str, error: str) -> str:
    """A run without a result: failed or cancelled."""
    unchanged = f"Teaching {'stopped' if state == 'failed' else 'was cancelled'}; the model is as it was."
    return render("teach/run.html", state=state, words=(state == "failed" and error) or unchanged)


# --- the result ------------------------------------------------------------------------------------------------------


def summary(results: Mapping | None, taught: int, in_use: bool, stopped: str) -> str:
    """The result in short: figures before and after with intervals, and which class was read as which.

    `taught`: how many images it was taught with; `stopped`: "", "early" or "cancelled".
    """
    results = results or {}
    measured = bool(results.get("frozen"))
    caution, how = results.get("too_few") or TOO_FEW, ""
    if measured:
        n = plural(results["n"], "image")
        how = {
            "given": f"Checked on the {n} that came for testing.",
            "folds": f"Checked on all {n} by cross-validation, each by a model that was not taught with it.",
        }.get(results["kind"], f"Checked on {n} kept aside.")
        caution = (results.get("too_few") or f"{n} are too few to say more than a hint.") if results["few"] else ""
    return render(
        "teach/summary.html", results=results, taught=taught, in_use=in_use, stopped=stopped, measured=measured,
        how=how, caution=caution, FIGURES=FIGURES, confusions=geometry.confusions,
    )  # fmt: skip


def details(results: Mapping | None, curve: Mapping, thumbs: Sequence[Thumb]) -> str:
    """The rest of the result: per class, certainty, mistakes, curves, downloads.

    `curve`: {"losses", "held", "steps"}; `thumbs`: the mistakes it was most certain of, marked with what each is, what
    it was read as and how certain.
    """
    measured = results if results and results.get("frozen") else None
    return render(
        "teach/details.html", results=measured, thumbs=thumbs, curves=geometry.curves(**curve),
        reliability=geometry.reliability(measured) if measured else None,
    )  # fmt: skip


def cell_images(
    words: str,
    state: Mapping[str, object],
    thumbs: Sequence[Thumb],
    shown: int | None = None,
    picture: str = "",
    maps: Sequence[tuple[str, int, str, bool]] = (),
) -> str:
    """The images behind a number.

    `state`: which number, sent with every button; `thumbs`: their index is the row's; `picture`: the viewer of the row
    `shown`; `maps`: (label, class index, when, pressed) of the maps it can have.
    """
    return render(
        "teach/cell.html", words=words, state=state, thumbs=thumbs, shown=shown, picture=picture, maps=maps
    )  # fmt: skip


# --- the shelf -------------------------------------------------------------------------------------------------------


def shelf(items: Sequence) -> str:
    """The adapters, newest first. An item has id, name, classes, created, figures, method and in_use; the buttons
    carry its place in this list."""
    return render("teach/shelf.html", items=items, most=MOST_CLASSES)


def comparison(picture: str, name: str, columns: Iterable[tuple[str, Sequence[str], Sequence[float]]]) -> str:
    """Adapters side by side on one image: (adapter's name, classes, probabilities after teaching)."""
    columns = [(title, classes, np.asarray(shares).tolist()) for title, classes, shares in columns]
    return render("teach/comparison.html", picture=picture, name=name, columns=columns)
