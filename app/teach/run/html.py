"""What the Teach tab shows of a run: progress, results, and the images behind a number.

Results are shown as nearl.measure.evaluate makes them; a figure that is None is "too few to say".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.html import render, views
from app.html.views import plural
from app.teach.images.html import Thumb
from nearl.report import geometry
from nearl.report.words import FIGURES, FINDING_FIGURES, flattered, speaks_against, verdict

if TYPE_CHECKING:
    from app.visitor.shelf import Entry
    from app.work.run import Shown

SHOWN = ["balanced_accuracy", "auroc", "ece"]  # of FIGURES
UNKNOWN = "so nothing is known about how well it does on new ones."
TOO_FEW = f"Too few images to keep some aside, {UNKNOWN}"


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
    note: str = "",
) -> str:
    """What is being done, how far it is, the seconds left, the curves so far, and a sentence on how it is done."""
    unit = "Image" if phase == "checking" else "Step"
    return render(
        "teach/progress.html",
        title=phase_words(phase),
        by_turns=phase.startswith("fold"),
        share=min(step / steps, 1) if steps else 0,
        done=f"{unit} {step} of {steps}" if steps else "Loading the model and the images",
        left=duration(seconds),
        curves=geometry.curves(losses, held, steps),
        note=note,
    )


def cancelling(learned: bool) -> str:
    """A run that has been asked to stop. `learned`: whether there is something to keep of it."""
    words = "It stops at its next step; the best of what was learned is kept." if learned else "It stops in a moment."
    return render("teach/run.html", state="cancelling", words=words)


def badge(now: Shown) -> str:
    """A run that is going on, for the head of the page."""
    if now.cancelling:
        return views.badge("Teach", "Teaching is being cancelled")
    share = f", {100 * min(now.step / now.steps, 1):.0f}\u202f%" if now.steps and now.phase != "checking" else ""
    words = "Teaching waits for its turn" if now.place else f"{phase_words(now.phase)}{share}"
    return views.badge("Teach", words)


def ended(state: str, error: str) -> str:
    """A run without a result: failed or cancelled."""
    unchanged = f"Teaching {'stopped' if state == 'failed' else 'was cancelled'}; the model is as it was."
    return render("teach/run.html", state=state, words=(state == "failed" and error) or unchanged)


# --- its results


def opened(name: str, busy: bool, since: tuple[str, Entry | None] | None = None) -> str:
    """Whose result is on show, with the way back. `busy`: whether a run is going on; `since`: (state, adapter or None)
    of the last run, where it has ended."""
    back, words = "Close", ""
    if busy:
        back, words = "Back to the run", "Another run is going on."
    elif since is not None and since[1] is not None:
        back, words = "See its result", f"The latest run has ended; its adapter “{since[1].name}” is "
        words += "in use." if since[1].in_use else "on your shelf, not in use."
    elif since is not None:
        back = "See what it says"
        words = f"The latest run {'has failed' if since[0] == 'failed' else 'was cancelled'}; it left no adapter."
    return render("teach/opened.html", name=name, words=words, back=back)


def summary(
    results: Mapping | None,
    taught: int | None,
    in_use: bool,
    stopped: str,
    aside: int = 0,
    head: str = "",
    of: Mapping[str, str] = {},
) -> str:
    """The result in short: what the check supports, figures before and after with intervals, and which class was read
    as which, or how each finding is told; a button to use an adapter that is not in use.

    `taught`: how many images it was taught with, None where its adapter was deleted; `stopped`: "", "early" or
    "cancelled"; `aside`: how many were kept aside; `head`: of `opened`; `of`:
    the ids of its "run" and adapter ("item"), which every button sends.
    """
    results = results or {}
    measured, said, several = bool(results.get("frozen")), verdict(results), "findings" in results
    caution, how = results.get("too_few") or TOO_FEW, ""
    if aside and not measured and not results:
        were = "image kept aside was" if aside == 1 else "images kept aside were"
        caution = f"The {aside} {were} not read any more, {UNKNOWN}"
    if measured:
        n = plural(results["n"], "image")
        how = {
            "given": f"Checked on the {n} that came for testing.",
            "folds": f"Checked on all {n} by cross-validation, each by a model that was not taught with it.",
        }.get(results["kind"], f"Checked on {n} kept aside.")
        caution = (results.get("too_few") or f"{n} are too few to say more than a hint.") if results["few"] else ""
        caution = "" if "too few" in said else caution
    return render(
        "teach/summary.html", of=of, head=head, results=results, taught=taught, in_use=in_use, stopped=stopped,
        measured=measured, how=how, caution=caution, verdict=said, against=speaks_against(results),
        flattered=flattered(results), several=several, figures=FINDING_FIGURES if several else FIGURES,
        keys=list(FINDING_FIGURES) if several else SHOWN, confusions=geometry.confusions,
    )  # fmt: skip


def details(results: Mapping | None, curve: Mapping, thumbs: Sequence[Thumb] | None, of: Mapping[str, str] = {}) -> str:
    """The rest of the result: per class, certainty, mistakes, curves, downloads.

    `curve`: {"losses", "held", "steps"}; `thumbs`: the mistakes it was most certain of, marked with what each is, what
    it was read as and how certain; None where only the adapter is there, not the run that made it; `of`: as of
    `summary`.
    """
    measured = results if results and results.get("frozen") else None
    several = bool(measured) and "findings" in measured
    curves = geometry.curves(**curve, before=measured and measured["frozen"].get("balanced_accuracy"))
    return render(
        "teach/details.html", of=of, results=measured, thumbs=thumbs, curves=curves, several=several,
        reliability=geometry.reliability(measured) if measured and not several else None,
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
