"""What the Compare tab shows: the methods as cards, and the table and charts that fill in while they are taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.html import render, space, views
from app.html.charts import scatter
from app.html.views import plural, quiet
from app.teach.run.html import duration
from nearl.report.comparison import few_words, flattered_words
from nearl.report.words import points

UNTAUGHT = "zero-shot"
HEADS = [
    ("Method", ""),
    ("Correct", "balanced accuracy and its 95 % interval"),
    ("Ranks classes", "AUROC, 50 % is chance"),
    ("Calibration error", "lower is better"),
    ("Trained parameters", ""),
    ("To teach", "slower while the machine is busy"),
    ("To read an image", "not seen before"),
    ("", ""),
]


@dataclass(frozen=True)
class Status:
    """Where a comparison stands."""

    head: str  # HTML of it: of `going_on`, `headline` or a message
    at_work: str = ""  # the method that is being taught
    step: str = ""  # how far it is
    going_on: bool = False


def cards(groups: Sequence) -> str:
    """All methods in their groups, (title, cards), each with a tick, its idea and what is trained."""
    return render("compare/cards.html", columns=[groups[:2], *([group] for group in groups[2:])])


def empty() -> str:
    return render("compare/empty.html")


def plan(sentence: str) -> str:
    return quiet(sentence)


def history(kept: Sequence) -> str:
    """The comparisons that are kept (title, key, facts, shown), newest first; "" where there is no other to go to."""
    return render("compare/history.html", kept=kept) if any(not one.shown for one in kept) else ""


def headline(words: str) -> str:
    return render("compare/headline.html", words=words)


def badge(place: int, done: int, total: int) -> str:
    """A comparison that is going on, for the head of the page. `place`: in the queue, 0 when it is at work."""
    return views.badge("Compare", "Comparing waits for its turn" if place else f"Comparing, {done} of {total} done")


def used(name: str) -> str:
    """That Predict now reads with a method of this name, with a link to it."""
    from nearl.methods import card

    words = "Predict now reads with the model as it is, before teaching."
    if name != UNTAUGHT:
        words = f"{card(name).title} is now in use, and on your shelf in Teach."
    return render("compare/used.html", words=words)


def comparison(
    lines: Sequence[Mapping],
    status: Status,
    about: str,
    answers: Sequence[str] = (),
    seeds: int = 1,
    classes: Sequence[str] = (),
    key: str = "",
) -> str:
    """What is known so far.

    `lines`: as of `nearl.runs.scores`; `about`: which images; `answers`: what NEARL gains by a part of it, in
    sentences; `key`: the id of the run, which every button sends.
    """
    done = [line for line in lines if line["done"]]
    return render(
        "compare/comparison.html",
        HEADS=HEADS,
        key=key,
        lines=lines,
        head=status.head,
        at_work=status.at_work,
        step=status.step,
        going_on=status.going_on,
        about=about,
        answers=answers,
        seeds=seeds,
        done=done,
        few=plural(done[0]["n"], "image") if any(line["few"] for line in done) else "",
        hint=few_words,
        drop=drop_words,
        notes=_notes(done, status.going_on),
        chance=1 / len(classes) if classes else 0,
        scatter=scatter(done),
        spaces=space.spaces(done, classes),
    )


def drop_words(drop: Mapping) -> str:
    """By how much a method is worse on the other source, with its interval."""
    value, (low, high) = -drop["value"], sorted(-end for end in drop["interval"])
    return f"{points(value)} points ({points(low)} to {points(high)})"


def _notes(done: Sequence[Mapping], going_on: bool) -> str:
    """How far apart two methods have to be, and why the best looks better than it is."""
    if not done:
        return ""
    several = any(line["done"] > 1 for line in done)
    over = "other random draws of training images" if several else "other images of this kind"
    words = (
        f"A line across a bar is the 95 % interval over {over}. Where the lines of two methods overlap widely, these "
        "images cannot tell them apart."
    )
    if len(done) > 2 and not going_on:
        words += " The best of many looks better here than it will be: it was picked by these very images."
    return " ".join(filter(None, (words, flattered_words(done))))


def at_work(method: str, title: str) -> str:
    """What is being done with a method; "" before there is one."""
    return f"{'Measuring' if method == UNTAUGHT else 'Teaching'} {title}" if title else ""


def going_on(place: int, done: int, total: int, doing: str, left: float | None, note: str = "") -> str:
    """Where a comparison stands. `place`: in the queue, 0 when it is at work; `doing`: of `at_work`; `note`: a
    sentence on how it is done."""
    if place:
        words, more = "Waiting for its turn", "Another run is in progress; what is finished stays."
        more = more if place == 1 else f"{place} runs are before it; what is finished stays."
    else:
        words = doing or "Preparing the model and the images"
        more = f"{done} of {total} done" + (f"; this one: {duration(left)}" if left is not None else "")
    return render("compare/going_on.html", words=words, more=more, done=done, total=total, note=note)
