"""Every map of one image and class, written to a folder with its numbers: what ``python -m nearl explain`` does."""

from __future__ import annotations

import datetime
from dataclasses import asdict, replace
from pathlib import Path

from nearl.adapters.taught import taught_with
from nearl.data.images import ImageRecord
from nearl.explain.card import MapCard
from nearl.explain.drawing import draw, explain, refusal
from nearl.explain.heatmap import Heatmap, difference
from nearl.explain.layers import profile
from nearl.explain.registry import MAPS
from nearl.explain.render import figure, overlay, save_figure
from nearl.explain.request import MapRequest, class_index
from nearl.explain.score import Scorer
from nearl.explain.trace import Trace
from nearl.explain.words import words
from nearl.methods.shows import Shows
from nearl.reading.classifier import Classifier

ALL = "all"
MOMENTS = {None: "after less before teaching", False: "before teaching", True: "after teaching"}


def caption(
    heatmap: Heatmap, classifier: Classifier, when: datetime.date | None = None, what: str = "", every: bool = False
) -> list[str]:
    """The lines under a figure: map, class and prompts, model and adapter, date.

    ``what``: what is drawn, in place of the map's own moment, where it is more than this map. ``every``: there is a map
    of each class, and this is the first of them.
    """
    taught = "no adapter"
    if classifier.method is not None:
        adapter = classifier.method.adapter()
        taught = f"adapter {adapter.version[:8]}, taught on {taught_with(adapter.meta)} images"
    layer = "" if heatmap.layer is None else f", layer {heatmap.layer + 1}"
    head = "" if heatmap.head is None else f", head {heatmap.head + 1}"
    folder, name = "local-dir:", classifier.backbone.name
    model = Path(name.removeprefix(folder)).name if name.startswith(folder) else name  # no paths of this machine
    first, prompt = _about_class(heatmap, classifier, every)
    return [
        f"{heatmap.name}{layer}{head}, {what or MOMENTS[heatmap.adapted]}. {first}",
        *prompt,
        f"Model: {model}, {taught}. {when or datetime.datetime.now(datetime.timezone.utc).date()}.",
    ]


def _about_class(heatmap: Heatmap, classifier: Classifier, every: bool) -> tuple[str, list[str]]:
    """The sentence about the class that a map is of, and the line with its prompts."""
    classes = classifier.prompt_set.classes
    if every:
        return f"Classes, each against the rest: {', '.join(classes)}.", []
    if not MAPS[heatmap.method].by_class:
        return "It is the same for every class.", []
    prompts = classifier.prompt_set.texts()[class_index(classes, heatmap.class_name)]
    more = f" and {len(prompts) - 1} more" if len(prompts) > 1 else ""
    against = f", against {heatmap.against}" if heatmap.against else ""
    return f"Class: {heatmap.class_name}{against}.", [f"Prompt: “{prompts[0]}”{more}."]


def write_maps(
    classifier: Classifier, record: ImageRecord, request: MapRequest, out: Path, opacity: float = 0.6, **how
) -> dict:
    """Write, for each map and model, the overlay in the image's own size and a figure with colour bar and caption.

    ``request.map`` may be "all", for every map that the model can draw, each with layer and head where it takes them.
    Maps are drawn before teaching and, where there is an adapter, after it, with the difference of both. ``how`` goes
    to ``heat_layer``. One forward pass of each model, one backward pass, and those of the slow maps.

    Returns {"maps", "words", "profile", "left_out"}, plain lists and numbers; "left_out" are sentences that say what
    cannot be drawn. Raises NearlError for names that are not there, and where nothing can be drawn.
    """
    asked = list(MAPS.values()) if request.map == ALL else [MAPS[request.map]]
    drawn: dict[str, list[Heatmap]] = {}
    found = {"words": [], "profile": None}
    for adapted in (False, True) if classifier.mapped else (False,):
        trace = Trace(Scorer(classifier, adapted), [record])
        refused = {card.key: refusal(card, trace.scorer) for card in asked}
        for card in asked:
            if not refused[card.key]:
                drawn.setdefault(card.key, []).extend(draw(trace, _fitted(request, card)))
        if request.map == ALL:
            if Shows.WORDS in trace.method.shows:
                found["words"] += [{"adapted": adapted, **asdict(w)} for w in words(trace, request.score.class_index)]
            found["profile"] = asdict(profile(trace)) if any(map(trace.method.updates, ("vision", "text"))) else None
    if not drawn:
        explain(classifier, [record], replace(request, adapted=None))  # raises, and says why
    if classifier.method is not None and not classifier.mapped:
        refused = {ALL: Shows.TOKENS.value.format(title=classifier.method.card.title)}
    maps = []
    for key, pair in drawn.items():
        if len(pair) == 2:
            pair = [*pair, difference(*pair, MAPS[key].same_units)]  # type: ignore[call-arg]
        maps += [_write(classifier, record, heatmap, out, opacity, how) for heatmap in pair]
    return {"maps": maps, **found, "left_out": list(filter(None, refused.values()))}


def _fitted(request: MapRequest, card: MapCard) -> MapRequest:
    """The request for one of several maps, with layer and head where it takes them."""
    return replace(
        request,
        map=card.key,
        layer=request.layer if card.layers else None,
        head=request.head if card.heads else None,
    )


def _write(classifier: Classifier, record: ImageRecord, heatmap: Heatmap, out: Path, opacity: float, how: dict) -> dict:
    """Write the overlay and the figure of a map; returns its numbers."""
    kind = {None: "difference", False: "frozen", True: "adapted"}[heatmap.adapted]
    stem = f"{heatmap.method.replace('+', 'p')}-{kind}"  # not the file's own name, which may hold a person's
    lines = [*caption(heatmap, classifier), *filter(None, [heatmap.caution(record)])]
    png, page = out / f"{stem}.png", out / f"{stem}-figure.png"
    save_figure(overlay(record.image(), heatmap, opacity, **how), png, lines)
    save_figure(figure(record.image(), heatmap, lines, opacity, **how), page, lines)
    (row, column), (rows, columns) = heatmap.peak, heatmap.values.shape
    height, width = classifier.backbone.image_size
    return {
        "method": heatmap.method,
        "adapted": heatmap.adapted,
        "class": heatmap.class_name,
        "against": heatmap.against,
        "units": heatmap.units,
        "layer": heatmap.layer,
        "head": heatmap.head,
        "png": str(png),
        "figure": str(page),
        "blank": heatmap.blank,
        "peak": [int((row + 0.5) * height / rows), int((column + 0.5) * width / columns)],
        "values": [[round(float(v), 6) for v in line] for line in heatmap.values],
    }
