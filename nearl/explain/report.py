"""Every map of one image and class, written to a folder with its numbers: what ``python -m nearl explain`` does."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.explain.heatmap import Heatmap, difference
from nearl.explain.maps.novelty import profile
from nearl.explain.registry import METHODS, available, draw
from nearl.explain.render import figure, overlay, save_figure
from nearl.explain.score import OTHERS, Score, Scorer
from nearl.explain.trace import Trace
from nearl.explain.words import words
from nearl.methods.shows import Shows
from nearl.prompts import class_key
from nearl.reading.classifier import Classifier

ALL = "all"


def class_index(classes: Sequence[str], name: str) -> int:
    """The place of a class by name, by `class_key`. Raises NearlError if it is not there."""
    names = [class_key(c) for c in classes]
    if class_key(name) not in names:
        raise NearlError(f"There is no class '{name}' among the prompts; they name {', '.join(classes)}.")
    return names.index(class_key(name))


def caption(heatmap: Heatmap, classifier: Classifier, when: datetime.date | None = None) -> list[str]:
    """The lines under a figure: method, class and prompts, model and adapter, date."""
    taught = "no adapter"
    if classifier.method is not None:
        adapter = classifier.method.adapter()
        taught = f"adapter {adapter.version[:8]}, taught on {sum(adapter.meta['support_counts'].values())} images"
    index = class_index(classifier.prompt_set.classes, heatmap.class_name)
    prompts = classifier.prompt_set.texts()[index]
    more = f" and {len(prompts) - 1} more" if len(prompts) > 1 else ""
    against = f", against {heatmap.against}" if heatmap.against else ""
    place = "".join(
        f", {name} {value + 1}"
        for name, value in (("layer", heatmap.layer), ("head", heatmap.head))
        if value is not None
    )
    model = (
        Path(classifier.backbone.name.removeprefix("local-dir:")).name
        if "local-dir:" in classifier.backbone.name
        else classifier.backbone.name
    )
    return [
        f"{heatmap.name}{place}, {moment(heatmap.adapted)}. Class: {heatmap.class_name}{against}.",
        f"Prompt: “{prompts[0]}”{more}.",
        f"Model: {model}, {taught}. {when or datetime.datetime.now(datetime.timezone.utc).date()}.",
    ]


def moment(adapted: bool | None) -> str:
    """In words, of which model a map is."""
    return {None: "after less before teaching", False: "before teaching", True: "after teaching"}[adapted]


def write_maps(
    classifier: Classifier,
    record: ImageRecord,
    name: str,
    out: Path,
    method: str = "gradcam",
    against: str | None = None,
    layer: int | None = None,
    head: int | None = None,
    opacity: float = 0.6,
    **how,
) -> dict:
    """``method``: a key, or "all" for every map that the model can draw. Writes, for each map and model, the overlay in
    the image's own size and a figure with colour bar and caption, and with an adapter the difference of both.

    ``against``: another class by name; default all others. ``how`` goes to ``heat_layer``. One forward pass of each
    model, one backward pass, and those of the slow methods.
    Returns {"maps", "words", "profile"}, plain lists and numbers. Raises NearlError for names that are not there.
    """
    classes = classifier.prompt_set.classes
    score = Score(class_index(classes, name), OTHERS if against is None else class_index(classes, against))
    if method != ALL and method not in METHODS:
        raise NearlError(f"There is no map called '{method}'; choose 'all' or one of {', '.join(METHODS)}.")
    drawn: dict[str, list[Heatmap]] = {}
    found = {"words": [], "profile": None}
    for adapted in (False, True) if classifier.mapped else (False,):
        trace = Trace(Scorer(classifier, adapted), [record])
        for card in available(classifier, adapted):
            if method in (ALL, card.key):
                options = {"layer": layer if card.layers else None, "head": head if card.heads else None}
                drawn.setdefault(card.key, []).extend(draw(trace, card.key, score, **options))
        if method == ALL:
            if Shows.WORDS in trace.scorer.method.shows:
                found["words"] += [{"adapted": adapted, **asdict(w)} for w in words(trace, score.class_index)]
            found["profile"] = asdict(profile(trace)) if trace.updates else None
    if not drawn:  # say why
        trace = Trace(Scorer(classifier), [record])
        draw(trace, method, score, layer, head)
    maps = []
    for key, pair in drawn.items():
        if len(pair) == 2:
            pair = [*pair, difference(*pair, METHODS[key].same_units)]
        maps += [_write(classifier, record, heatmap, out, opacity, how) for heatmap in pair]
    return {"maps": maps, **found}


def _write(classifier: Classifier, record: ImageRecord, heatmap: Heatmap, out: Path, opacity: float, how: dict) -> dict:
    kind = {None: "difference", False: "frozen", True: "adapted"}[heatmap.adapted]
    stem = f"{heatmap.method.replace('+', 'p')}-{kind}"  # not the file's own name, which may hold a person's
    lines = [*caption(heatmap, classifier), *filter(None, [heatmap.caution(record.image())])]
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
