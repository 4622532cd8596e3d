"""What the Explain tab shows of a workspace: the maps of a view, words and layers, and the view as a file.

A visit to the model draws every quick map of one image and class at once; what has been drawn stays in the workspace
until its images, prompts or adapter change, so switching method, layer, colours or view asks the model nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from app.engine import Engine
from app.explain.choice import CLASSES, COMPARE, IMAGES, ONE, Choice
from app.explain.drawing import complete, drawn
from app.html.views import plural
from app.predict.actions import AFTER
from app.visitor.workspace import Workspace
from nearl.data.images import ImageRecord
from nearl.resources import ASSETS

if TYPE_CHECKING:
    from nearl.explain import Heatmap
    from nearl.explain.layers import Profile
    from nearl.explain.words import Words

MOMENTS = {False: "before teaching", True: "after teaching", None: "what teaching changed"}
SAME_CONTROL = (
    "The scrambled model gives exactly this map, so it is not drawn again: nothing was taught to the part of the model "
    "that this map shows. It says what stands out in the image, not what decided."
)


@dataclass(frozen=True)
class Panel:
    """One image of a view with its map."""

    record: ImageRecord
    heatmap: Heatmap
    title: str
    span: tuple[float, float] | None = None
    """Ends of its colour bar; None for those of the map itself."""
    note: str = ""
    """What to know of it beside its caption."""


def panels(engine: Engine, workspace: Workspace, choice: Choice) -> list[Panel]:
    """The images and maps of a settled choice; the model is asked for what has not been drawn yet."""
    complete(engine, workspace, choice)
    with workspace.lock:  # so that the image is the one that the maps are of
        return _panels(workspace.viewing.record, drawn(engine, workspace, choice), workspace, choice)


def _panels(
    record: ImageRecord, found: Sequence[Sequence[Heatmap]], workspace: Workspace, choice: Choice
) -> list[Panel]:
    """The panels of these maps, of the image on show, as `drawn` gives them."""
    from nearl.explain import MAPS, difference

    card = MAPS[choice.method]
    if choice.view == COMPARE:
        (before,), (after,) = found
        span = _span([before, after]) if card.same_units else None
        both = [Panel(record, m, MOMENTS[m.adapted], span) for m in (before, after)]
        return [*both, Panel(record, difference(before, after, card.same_units), MOMENTS[None])]
    if choice.view == CLASSES:
        return [Panel(record, m, m.class_name, _span(found[0])) for m in found[0]]
    if choice.view == IMAGES:
        return [Panel(r, m, r.name) for r, m in zip(workspace.viewing.records, found[0], strict=True)]
    shown = Panel(record, found[0][0], MOMENTS[choice.when == AFTER])
    if not choice.control:
        return [shown]
    control = found[1][0]
    if np.array_equal(control.values, shown.heatmap.values):
        return [replace(shown, note=SAME_CONTROL)]
    return [shown, Panel(record, control, "control: the same map of a scrambled model")]


def _span(maps: Sequence[Heatmap]) -> tuple[float, float]:
    return min(m.range[0] for m in maps), max(m.range[1] for m in maps)


def word_shares(engine: Engine, workspace: Workspace, choice: Choice) -> list[Words]:
    """The words of the chosen class's prompts, for the selected image; empty where they cannot be told apart."""
    from nearl.explain import MapRequest, look
    from nearl.explain.words import words
    from nearl.methods.shows import Shows

    record, adapted = workspace.viewing.record, choice.when == AFTER
    classifier = workspace.viewing.classifier
    if Shows.WORDS not in (classifier.method if adapted else classifier.zero_shot).shows:
        return []
    index = list(workspace.viewing.prediction.classes).index(choice.class_name)

    def draw() -> list[Words]:
        with engine.device_lock:
            return words(look(classifier, [record], MapRequest(adapted=adapted), gradient=False), index)

    return workspace.maps.once(("words", record.digest, adapted, choice.class_name), draw)


def layer_profile(engine: Engine, workspace: Workspace) -> Profile:
    """How much teaching added in each layer, for the selected image."""
    from nearl.explain import MapRequest, look
    from nearl.explain.layers import profile

    record, classifier = workspace.viewing.record, workspace.viewing.classifier

    def draw() -> Profile:
        with engine.device_lock:
            return profile(look(classifier, [record], MapRequest(adapted=True), gradient=False))

    return workspace.maps.once(("profile", record.digest), draw)


BY_EYE = {"959013f29d68": (11, 40)}  # by weights, Grad-CAMs that a reader found plausible, of how many; see PLAUSIBLE
PLAUSIBLE = "In general: of {1} Grad-CAMs of this model on real test images, a reader found {0} plausible."


def plausible(workspace: Workspace, method: str) -> str:
    """How plausible such maps of the model in use are on real images, in a sentence; "" where nobody has looked."""
    if method != "gradcam":
        return ""
    found = BY_EYE.get(workspace.viewing.classifier.backbone.identity["weights"][:12])
    return PLAUSIBLE.format(*found) if found else ""


@lru_cache(maxsize=1)
def _measured() -> dict:
    path = ASSETS / "faithfulness.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


@dataclass(frozen=True)
class Measured:
    """How often a map points at the lesion of a phantom, and whether that is clearly better than two controls."""

    hits: float
    chance: float
    """How often a random point does."""
    control: float
    """How often the same map of a randomised model does."""
    beats_chance: bool
    beats_control: bool


def measured(workspace: Workspace, method: str) -> Measured | None:
    """None where the map was not measured on the model in use."""
    found = _measured()
    identity = workspace.viewing.classifier.backbone.identity
    if not found or found["backbone"]["weights"] != identity["weights"] or method not in found["beats_chance"]:
        return None
    hits = {row["which"]: row["pointing"]["mean"] for row in found["rows"] if row["method"] == method}
    return Measured(
        hits["map"],
        found["chance"]["pointing"],
        hits["randomised model"],
        found["beats_chance"][method],
        found["beats_control"][method],
    )


def figure_of(workspace: Workspace, shown: Sequence[Panel], opacity: float, how: dict, view: str = ONE) -> str:
    """The view as a PNG with scales, caption and notice, in the workspace's private folder; returns its path. It names
    no file, whose name may be a person's."""
    from nearl.explain.render import Cell, figure, save_figure, sheet
    from nearl.explain.report import caption

    first = shown[0]
    lines = caption(first.heatmap, workspace.viewing.classifier, what=_drawn(shown, view), every=view == CLASSES)
    lines += sorted({p.heatmap.caution(p.record) for p in shown if p.heatmap.adapted is not None} - {""})
    lines += ["Synthetic image."] if workspace.viewing.synthetic else []
    if len(shown) == 1:
        picture = figure(first.record.image(), first.heatmap, lines, opacity, **how)
    else:
        titles = [f"image {n}" if view == IMAGES else p.title for n, p in enumerate(shown, start=1)]
        cells = [Cell(p.record.image(), p.heatmap, title, p.span) for p, title in zip(shown, titles, strict=True)]
        picture = sheet(cells, lines, opacity, **how)
    path = workspace.download("map.png")
    save_figure(picture, path, lines)
    return str(path)


def _drawn(shown: Sequence[Panel], view: str) -> str:
    """What a view of several images shows, for its caption; "" for one map."""
    moment = MOMENTS[shown[0].heatmap.adapted]
    if view == COMPARE:
        return "before teaching, after teaching, and what teaching changed"
    if view == CLASSES:
        return f"{moment}, a map for each class, all on one scale"
    if view == IMAGES:
        return f"{moment}, {plural(len(shown), 'image')}, each on a scale of its own"
    return f"{moment}, and at the right, as a control, the same map of a scrambled model" if len(shown) > 1 else ""


VIEWS = {COMPARE: "before-and-after", CLASSES: "all-classes", IMAGES: "all-images"}


def file_name(workspace: Workspace, choice: Choice, shown: Sequence[Panel]) -> str:
    """What the browser calls the file of a settled choice: image, map, class and moment."""
    from nearl.explain import MAPS

    card, image = MAPS[choice.method], re.sub(r"\.\w+( \(|$)", r"\1", workspace.viewing.record.name)
    parts = [image if choice.view != IMAGES else "", card.key.replace("+", "p")]
    parts += [choice.class_name] if card.by_class and choice.view != CLASSES else []
    parts += [VIEWS[choice.view]] if choice.view in VIEWS else []
    parts += [choice.when] if choice.view != COMPARE else []
    parts += ["with-control"] if choice.view == ONE and len(shown) > 1 else []
    tidy = [re.sub(r"[^\w.-]+", "-", part).strip("-.")[:60] for part in parts]
    return "_".join(part for part in tidy if part) + ".png"
