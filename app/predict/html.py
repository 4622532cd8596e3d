"""What the Predict tab shows: the image, the reading, how far to trust it, and all images at a glance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from app.context import set_title
from app.html import render, views
from app.predict import findings
from app.predict.scan import html as scan_views
from app.predict.study import html as study_views
from app.visitor.workspace import Workspace

if TYPE_CHECKING:
    from app.predict.actions import Recognised
    from nearl.reading.classifier import Prediction

MOST_WORDS = 6  # unknown words named in one note
UNLIKE_SHORT = "unlike those it was taught with"
UNFAMILIAR = (
    "This image is unlike those that the model was trained on, so until you teach it, its answer is little more than a "
    "guess."
)
UNTAUGHT_KIND = "A guess: this image is unlike those that this adapter was taught with."
EARLIER = (
    "The classes below were chosen for the image before: check that they fit this one, then press “Read the image”."
)
NONE_CLOSE = "No ready set comes close to it."
STALE = (
    "The classes below are for other images, so it was not read with them: choose others, then press “Read the image”."
)
UNFAMILIAR_SHORT = "unlike what the model knows"


# --- the reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """The reading of one image."""

    classes: Sequence[str]
    before: Sequence[float]  # probability of each class before teaching
    after: Sequence[float] | None = None  # the same after teaching, None without an adapter
    untaught: Sequence[str] = ()  # classes that teaching did not cover
    unknown: Sequence[str] = ()  # words of the prompts that the model was never trained on
    trusted: str = ""  # of `trust`
    closer: Sequence[tuple[str, str]] = ()  # (name, title) of ready sets whose prompts are closer to the image
    doubt: str = ""  # why the answer is no more than a guess, in a sentence
    measured: str = ""  # how often the prompts are right on test images, in a sentence
    kind: str = ""  # of the image, where the model knows it
    beside: Mapping[str, str] = field(default_factory=dict)  # what to say beside the name of a ready set
    unfamiliar: str = ""  # that the image is unlike the model's training images, in sentences
    adapter: str = ""  # the name of the adapter in use
    tested: bool = True  # `measured` is about images of its kind, as far as the model can tell
    alien: bool = False  # it is the visitor's own image, and the model does not know its kind
    weak: bool = False  # the model does not know its kind, so that `closer` is no more than the nearest


def reading(r: Reading) -> str:
    """The reading in a sentence, its bars and what they mean."""
    taught = r.after is not None
    return render(
        "predict/reading.html",
        classes=r.classes,
        before=_shares(r.before),
        after=_shares(r.after) if taught else None,
        untaught=[name for name in r.classes if name in set(r.untaught)] if taught else [],
        unknown=_unknown(r.unknown),
        trusted=r.trusted,
        closer=r.closer,
        unfamiliar=r.unfamiliar if not taught else "",
        doubt=r.doubt,
        measured=r.measured if not taught else "",
        untested=not r.tested,
        kind=r.kind,
        beside=r.beside,
        adapter=r.adapter if taught else "",
        alien=r.alien and not taught,
        weak=r.weak,
    )


def _shares(p: Sequence[float]) -> list[float]:
    return np.asarray(p).tolist()


def unknown_words(workspace: Workspace) -> list[str]:
    """Words of the prompts that the model ignores; none of a ready set, which was measured as it is."""
    from nearl.reading.claims import Claims

    classifier = workspace.viewing.classifier
    return [] if Claims(classifier.backbone, classifier.prompt_set).unchanged else classifier.unknown_words()


def _unknown(words: Sequence[str]) -> str:
    if not words:
        return ""
    listed = ", ".join(f"“{word}”" for word in words[:MOST_WORDS]) + (" and others" if len(words) > MOST_WORDS else "")
    noun = "word" if len(words) == 1 else "words"
    return f"The model ignores the unknown {noun} {listed}; use other words."


def reading_empty(
    has_image: bool,
    closer: Sequence[tuple[str, str]] = (),
    adapter: str = "",
    found: Recognised | None = None,
    own: bool = True,
) -> str:
    """What to do before there is a reading. `closer`: (name, title) of ready sets that fit the image better; `found`:
    what the model makes of the image, where it can tell; `own`: it is the visitor's, not an example."""
    words = "The reading appears here once there is an image."
    if has_image:
        words = "Check that the classes below fit this image, then press “Read the image”."
    if has_image and found is not None and found.weak:
        none = "" if found.close else f" {NONE_CLOSE}"
        words = f"{UNFAMILIAR}{none} {EARLIER if found.earlier else words}"
    elif has_image and found is not None and found.measured:
        words = f"To the model, this image is of the kind “{found.title}”. {words if found.fits else STALE}"
    kind, beside = (found.title, found.beside) if found is not None else ("", {})
    weak = found is not None and found.weak
    unfit = has_image and own and found is not None and not found.fits
    return render(
        "predict/waiting.html", words=words, busy=False, closer=closer, adapter=adapter, kind=kind, beside=beside,
        unfit=unfit, weak=weak,
    )  # fmt: skip


def reading_busy(loading: bool, words: str = "Reading the image.") -> str:
    words = "The model is still loading; the reading follows." if loading else words
    return render(
        "predict/waiting.html", words=words, busy=True, closer=(), adapter="", kind="", beside={}, unfit=False,
        weak=False,
    )  # fmt: skip


def trust(
    calibrated: bool,
    coverage: float | None,
    among: Sequence[str] | None,
    unlike: bool | None,
    edited: bool,
    notes: Sequence[str],
) -> str:
    """How far the shares after teaching can be trusted, for one image; None where it was not measured.

    `among`: the classes that hold the true one as often as `coverage` (0..1) says; `unlike`: whether the image is
    unlike those taught with; `edited`: the prompts are no longer those it was measured with; `notes`: what is missing
    and why, first of all the edit.
    """
    first = 1 if edited else 0
    return render(
        "predict/trust.html", calibrated=calibrated, coverage=coverage, among=among, unlike=unlike, edited=edited,
        warnings=notes[:first], notes=notes[first:],
    )  # fmt: skip


def table(
    files: Sequence[str],
    classes: Sequence[str],
    before: np.ndarray,
    after: np.ndarray | None,
    unlike: Sequence[bool] | None = None,
    doubts: Sequence[str] = (),
) -> str:
    """All images at a glance: the closest class of each, before and after teaching.

    `before`, `after`: probabilities (B, C); `unlike`: which images are unlike those taught with; `doubts`: for each
    what to say beside the answer before teaching.
    """
    rows = [
        (
            name,
            _shares(before[i]),
            doubts[i] if doubts else "",
            None if after is None else _shares(after[i]),
            UNLIKE_SHORT if unlike and unlike[i] else "",
        )
        for i, name in enumerate(files)
    ]
    return render("predict/table.html", classes=classes, rows=rows, taught=after is not None)


# --- of a workspace ---------------------------------------------------------------------------------------------------


def viewer_html(workspace: Workspace, layer: tuple[str | None, str] = (None, "")) -> str:
    if not workspace.viewing.records:
        return views.viewer_empty()
    record = workspace.viewing.record
    box = None
    if workspace.viewing.classifier is not None:
        from nearl.explain.heatmap import seen_box

        box = seen_box(workspace.viewing.classifier.backbone, record.size)
    notes = [workspace.viewing.credit, *record.notes, scan_views.caution(record)]
    return views.viewer(
        record, workspace.viewing.synthetic, layer, notes, scan_views.marks(record, box), scan_views.facts(record)
    )


def filmstrip_html(workspace: Workspace) -> str:
    if len(workspace.viewing.records) < 2:
        return ""
    items = [(views.data_uri(r.image(), views.THUMB_SIDE), r.name) for r in workspace.viewing.records]
    return views.strip(items, workspace.viewing.selected, "Your images", True)


def problems_html(workspace: Workspace) -> str:
    """The files that were left out, and which image is still on show where they were all."""
    viewing = workspace.viewing
    still = viewing.record.name if viewing.refused and viewing.record is not None else ""
    return views.problem_list(viewing.problems, still=still)


def in_use(workspace: Workspace) -> str:
    """The name of the adapter that Predict reads with; "" for none."""
    entry = workspace.shelf.entry(workspace.shelf.in_use) if workspace.shelf.adapter is not None else None
    return "" if entry is None else entry.name


def doubt_of(workspace: Workspace, i: int) -> str:
    """Why the answer for image `i` is no more than a guess, in a sentence; "" where nothing says so."""
    prediction, closer = workspace.viewing.prediction, workspace.viewing.closer[i]
    if prediction.adapted is not None:
        unlike = prediction.trust["unlike"] if prediction.trust else None
        return UNTAUGHT_KIND if unlike and unlike[i] else ""
    claims = prediction.claims
    examples = workspace.viewing.synthetic and findings.asked(workspace) is None  # which come with their classes
    if claims is None or (examples and not claims[i].kind):
        return ""
    return claims[i].doubt or ("A guess: the prompts of another ready set fit this image far better." if closer else "")


def reading_html(workspace: Workspace) -> str:
    """The reading of the image on show. While it is not read, what the model makes of it."""
    with workspace.lock:  # another event may bring other images
        return _reading_html(workspace) + study_views.section(workspace)


def _reading_html(workspace: Workspace) -> str:
    prediction, found = workspace.viewing.prediction, workspace.viewing.found
    if prediction is None:
        offered = [(name, set_title(name)) for name in found.sets] if found is not None else []
        return reading_empty(bool(workspace.viewing.records), offered, in_use(workspace), found, workspace.viewing.own)
    i = workspace.viewing.selected
    after = None if prediction.adapted is None else prediction.adapted[i]
    untaught = workspace.viewing.classifier.untaught() if after is not None else []
    unknown = unknown_words(workspace)
    closer = [(name, set_title(name)) for name in workspace.viewing.closer[i]]
    odd = prediction.unfamiliar is not None and prediction.unfamiliar[i] and not workspace.viewing.synthetic
    trusted = trust_html(prediction, i)
    backbone, claims = workspace.viewing.classifier.backbone, prediction.claims
    unlike = ""
    if odd:  # a doubt says the first part already
        unlike = f"{'' if claims else UNFAMILIAR} {backbone.familiar.caution()}".strip()
    kind = backbone.measured.title(claims[i].kind) if claims else ""
    weak = bool(claims) and not claims[i].kind
    beside = backbone.measured.beside if claims and not weak else {}
    alien = weak and workspace.viewing.own
    if findings.asked(workspace) is not None:
        taught = after is not None
        about = {
            "doubt": doubt_of(workspace, i), "unknown": _unknown(unknown), "closer": closer, "kind": kind,
            "adapter": in_use(workspace) if taught else "", "unfamiliar": "" if taught else unlike, "beside": beside,
            "measured": "" if taught else prediction.measured, "alien": alien and not taught,
            "weak": weak,
        }  # fmt: skip
        return findings.reading(workspace, trusted, about)
    from nearl.reading.claims import NOT_THESE

    fits = tested(workspace, i)
    return reading(
        Reading(
            prediction.classes,
            prediction.frozen[i],
            after,
            untaught,
            unknown,
            trusted,
            closer,
            doubt_of(workspace, i),
            prediction.measured if fits else NOT_THESE,
            kind,
            beside,
            unlike,
            in_use(workspace),
            fits,
            alien,
            weak,
        )
    )


def tested(workspace: Workspace, i: int) -> bool:
    """Whether image `i` is, as far as the model can tell, of the kind of the test images of these prompts."""
    claims = workspace.viewing.prediction.claims
    return not claims or claims[i].fits or (workspace.viewing.synthetic and not claims[i].kind)


def trust_html(prediction: Prediction, i: int) -> str:
    """How far the reading of image `i` can be trusted; "" where the adapter does not say."""
    found = prediction.trust
    if found is None:
        return ""
    from nearl.reading.trust import OTHER_PROMPTS

    pick = lambda name: None if found[name] is None else found[name][i]  # noqa: E731
    edited = OTHER_PROMPTS in found["notes"]
    return trust(found["calibrated"], found["coverage"], pick("sets"), pick("unlike"), edited, found["notes"])


def table_html(workspace: Workspace) -> str:
    prediction = workspace.viewing.prediction
    if prediction is None or len(workspace.viewing.records) < 2:
        return ""
    names = [r.name for r in workspace.viewing.records]
    unlike = prediction.trust["unlike"] if prediction.trust else None
    doubts = [_short_doubt(workspace, i) for i in range(len(names))]
    if findings.asked(workspace) is not None:
        return findings.table(
            workspace, doubts, [UNLIKE_SHORT if unlike and unlike[i] else "" for i in range(len(names))]
        )
    return table(names, prediction.classes, prediction.frozen, prediction.adapted, unlike, doubts)


def _short_doubt(workspace: Workspace, i: int) -> str:
    """What to say beside the answer for image `i` before teaching, in a few words."""
    viewing, prediction = workspace.viewing, workspace.viewing.prediction
    taught = prediction.adapted is not None
    if prediction.unfamiliar is not None and prediction.unfamiliar[i] and not viewing.synthetic and not taught:
        return UNFAMILIAR_SHORT
    if viewing.closer[i]:
        return "other prompts fit better"
    return "a guess" if doubt_of(workspace, i) and not taught else ""
