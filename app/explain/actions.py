"""What the Explain tab does with a workspace: draw each map that is asked for once, and show it again at no cost.

A visit to the model draws every quick map of one image and class at once; what has been drawn stays in the workspace
until its images, prompts or adapter change, so switching method, layer, colours or view asks the model nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from app.engine import Engine
from app.predict.actions import AFTER, BEFORE, closest
from app.visitor.maps import MapKey
from app.visitor.workspace import Workspace
from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.resources import ASSETS

if TYPE_CHECKING:
    from nearl.explain import Heatmap, MapCard, MapRequest, Trace
    from nearl.explain.layers import Profile
    from nearl.explain.words import Words

ONE, COMPARE, CLASSES, IMAGES = "one", "compare", "classes", "images"
DEFAULT = "gradcam"  # a map that can be drawn of every model
CONTROL_SEED = 0
BATCH = 8
MOMENTS = {False: "before teaching", True: "after teaching", None: "what teaching changed"}


@dataclass(frozen=True)
class Choice:
    """What the visitor asks to see."""

    view: str = ONE
    """ONE map, COMPARE before and after teaching, all CLASSES or all IMAGES."""
    when: str = BEFORE
    """BEFORE or AFTER teaching."""
    class_name: str = ""
    """"" for the class closest to the image."""
    method: str = DEFAULT
    """Key of a map in `nearl.explain`."""
    layer: int = 0
    """From 1; 0 for the map's own choice."""
    head: int = 0
    """From 1; 0 for the mean of all."""
    control: bool = False
    """Whether the same map of a scrambled model is shown too."""


@dataclass(frozen=True)
class Panel:
    """One image of a view with its map."""

    record: ImageRecord
    heatmap: Heatmap
    title: str
    span: tuple[float, float] | None = None
    """Ends of its colour bar; None for those of the map itself."""


def settle(workspace: Workspace, choice: Choice) -> Choice:
    """The choice, as near as possible to the one asked for, that this workspace can show.

    NearlError without a reading.
    """
    from nearl.explain import MAPS

    viewing = workspace.viewing
    if viewing.prediction is None or not viewing.records:
        raise NearlError("There is no reading yet; read an image in Predict first.")
    if choice.class_name not in viewing.prediction.classes:
        choice = replace(choice, class_name=closest(workspace))
    if choice.method not in {card.key for card in offered(workspace)}:
        choice = replace(choice, method=DEFAULT)
    card = MAPS[choice.method]
    whens, views = whens_of(workspace, card), views_of(workspace, card)
    return replace(
        choice,
        when=choice.when if choice.when in whens else whens[0],
        view=choice.view if choice.view in views else ONE,
        layer=min(choice.layer, viewing.classifier.backbone.vision.depth) if card.layers else 0,
        head=min(choice.head, heads(workspace)) if card.heads else 0,
    )


def refusal(workspace: Workspace, card: MapCard, when: str) -> str:
    """ "" if a map can be drawn of the model BEFORE or AFTER teaching, else why not, in a sentence."""
    classifier = workspace.viewing.classifier
    if when == AFTER and classifier.method is None:
        return f"“{card.name}” after teaching needs an adapter; teach first, or use one of your shelf."
    if when == BEFORE and card.adapter:
        return f"“{card.name}” shows what teaching changed, so there is none before it."
    method = classifier.method if when == AFTER else classifier.zero_shot
    return method.supports(card) or card.unfit(method.tower)


def whens_of(workspace: Workspace, card: MapCard) -> list[str]:
    """The moments, BEFORE and AFTER teaching, of which a map can be drawn."""
    return [when for when in (BEFORE, AFTER) if not refusal(workspace, card, when)]


def offered(workspace: Workspace) -> list[MapCard]:
    """The maps that can be drawn now."""
    from nearl.explain import MAPS

    return [card for card in MAPS.values() if whens_of(workspace, card)]


def missing(workspace: Workspace, card: MapCard) -> str:
    """Why a map cannot be drawn after teaching, where something was taught; else ""."""
    return refusal(workspace, card, AFTER) if workspace.viewing.prediction.adapted is not None else ""


def heads(workspace: Workspace) -> int:
    return workspace.viewing.classifier.backbone.vision.heads


def views_of(workspace: Workspace, card: MapCard) -> list[str]:
    """The views that make sense for a map of this workspace."""
    viewing = workspace.viewing
    possible = {
        ONE: True,
        COMPARE: len(whens_of(workspace, card)) == 2,
        CLASSES: card.by_class and len(viewing.prediction.classes) > 1,
        IMAGES: len(viewing.records) > 1,
    }
    return [view for view, can in possible.items() if can]


def panels(engine: Engine, workspace: Workspace, choice: Choice) -> list[Panel]:
    """The images and maps of a settled choice; the model is asked for what has not been drawn yet."""
    from nearl.explain import MAPS, difference

    card, viewing = MAPS[choice.method], workspace.viewing
    record, name, adapted = viewing.record, choice.class_name, choice.when == AFTER
    ask = partial(_maps, engine, workspace, choice)
    if choice.view == COMPARE:
        before, after = (ask([record], [name], adapted=taught)[0] for taught in (False, True))
        span = _span([before, after]) if card.same_units else None
        both = [Panel(record, m, MOMENTS[m.adapted], span) for m in (before, after)]
        return [*both, Panel(record, difference(before, after, card.same_units), MOMENTS[None])]
    if choice.view == CLASSES:
        maps = ask([record], list(viewing.prediction.classes), adapted=adapted)
        return [Panel(record, m, m.class_name, _span(maps)) for m in maps]
    if choice.view == IMAGES:
        maps = ask(viewing.records, [name], adapted=adapted)
        return [Panel(r, m, r.name) for r, m in zip(viewing.records, maps, strict=True)]
    shown = [Panel(record, ask([record], [name], adapted=adapted)[0], MOMENTS[adapted])]
    if choice.control:
        (control,) = ask([record], [name], adapted=adapted, control=True)
        shown.append(Panel(record, control, "control: the same map of a scrambled model"))
    return shown


def _span(maps: Sequence[Heatmap]) -> tuple[float, float]:
    return min(m.range[0] for m in maps), max(m.range[1] for m in maps)


def _maps(
    engine: Engine,
    workspace: Workspace,
    choice: Choice,
    records: Sequence[ImageRecord],
    classes: Sequence[str],
    adapted: bool,
    control: bool = False,
) -> list[Heatmap]:
    """One map for each image and class, from the workspace or, together for what is missing, from the model."""
    from nearl.explain import MAPS, MapRequest, draw, look

    card, maps, viewing = MAPS[choice.method], workspace.maps, workspace.viewing
    layer, head = (value - 1 if value else None for value in (choice.layer, choice.head))
    seed = CONTROL_SEED if control else None
    requests = [
        MapRequest(
            card.key,
            list(viewing.prediction.classes).index(name),
            layer=layer,
            head=head,
            adapted=adapted,
            control=seed,
        )
        for name in classes
    ]
    key = lambda record, request: MapKey(record.digest, request.canonical())  # noqa: E731

    with workspace.lock:
        missing = [r for r in records if any(key(r, request) not in maps for request in requests)]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            with engine.device_lock:
                trace = look(viewing.classifier, batch, requests[0], card.gradient or len(batch) == 1)
                for request in requests if card.by_class else requests[:1]:
                    for one in _bundle(trace, workspace, request, whole=len(batch) == 1):
                        keys = [key(record, one) for record in batch]
                        if any(k not in maps for k in keys):
                            maps.keep(zip(keys, draw(trace, one), strict=True))
        return [
            replace(maps[key(record, request)], class_name=name)
            for record in records
            for request, name in zip(requests, classes, strict=True)
        ]


def _bundle(trace: Trace, workspace: Workspace, request: MapRequest, whole: bool) -> set[MapRequest]:
    """The map that is asked for and, if ``whole``, those that the same pass gives besides."""
    from nearl.explain import MAPS, available

    wanted = {request}
    if whole and not MAPS[request.map].slow:
        for other in available(workspace.viewing.classifier, trace.scorer.adapted, slow=False):
            of = lambda layer, head, key=other.key: replace(request, map=key, layer=layer, head=head)  # noqa: E731
            wanted.add(of(None, None))
            if other.layers and (other.gradient or other.heads or other.adapter):
                blocks = sorted(trace.updates) if other.adapter else range(trace.tower.depth)
                wanted |= {of(k, None) for k in blocks}
                if other.heads:
                    wanted |= {of(k, h) for k in (None, *blocks) for h in range(trace.tower.heads)}
    return wanted


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

    record = workspace.viewing.record

    def draw() -> Profile:
        with engine.device_lock:
            return profile(look(workspace.viewing.classifier, [record], MapRequest(adapted=True), gradient=False))

    return workspace.maps.once(("profile", record.digest), draw)


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


def figure_of(workspace: Workspace, shown: Sequence[Panel], opacity: float, how: dict) -> str:
    """The view as a PNG with its caption, in the workspace's private folder; returns its path."""
    from nearl.explain import overlay
    from nearl.explain.render import figure, save_figure, sheet
    from nearl.explain.report import caption

    lines = caption(shown[0].heatmap, workspace.viewing.classifier)
    synthetic = ["Synthetic image."] if workspace.viewing.synthetic else []
    if len(shown) == 1:
        lines += filter(None, [shown[0].heatmap.caution(shown[0].record.image())])
        picture = figure(shown[0].record.image(), shown[0].heatmap, [*lines, *synthetic], opacity, **how)
    else:
        pictures = []
        for number, p in enumerate(shown, start=1):
            title = f"image {number}" if p.title == p.record.name else p.title  # a file's name may be a person's
            pictures.append((overlay(p.record.image(), p.heatmap, opacity, span=p.span, **how), title))
        picture = sheet(pictures, columns=4, side=320, caption=[*lines, *synthetic])
    path = workspace.download("map.png")
    save_figure(picture, path, [*lines, *synthetic])
    return str(path)
