"""Drawing maps: which ones can be drawn, and from a classifier and images to heat maps."""

from __future__ import annotations

from collections.abc import Sequence

from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.explain.card import MapCard
from nearl.explain.heatmap import Heatmap, seen_box
from nearl.explain.registry import MAPS
from nearl.explain.request import MapRequest
from nearl.explain.score import OTHERS, Scorer, randomised
from nearl.explain.trace import Trace
from nearl.reading.classifier import Classifier

BATCH = 16


def refusal(card: MapCard, scorer: Scorer) -> str:
    """Why a map cannot be drawn of a model, in a sentence; "" if it can."""
    if card.adapter and not scorer.adapted:
        return f"“{card.name}” shows what teaching changed, so it needs an adapter."
    return scorer.method.supports(card) or card.unfit(scorer.backbone)


def available(classifier: Classifier, adapted: bool, slow: bool = True) -> list[MapCard]:
    """The maps that can be drawn of the frozen or the adapted model; none where no map can be."""
    try:
        scorer = Scorer(classifier, adapted)
    except NearlError:
        return []
    return [card for card in MAPS.values() if (slow or not card.slow) and not refusal(card, scorer)]


def scorer_of(classifier: Classifier, request: MapRequest) -> Scorer:
    """The model that a request is about: frozen or adapted, itself or a randomised control.

    Raises NearlError for an adapted model without an adapter, or one that no map can be drawn of.
    """
    scorer = Scorer(classifier, request.adapted)
    if request.control is None:
        return scorer
    source = randomised(classifier, request.control) if scorer.adapted else classifier
    return Scorer(source, scorer.adapted, request.control)


def look(
    classifier: Classifier, records: Sequence[ImageRecord], request: MapRequest, gradient: bool | None = None
) -> Trace:
    """Run the model that a request is about, once, over some images; every map of them is drawn from the trace.

    ``gradient`` None: if the map needs it. Raises NearlError as `scorer_of` does.
    """
    return Trace(scorer_of(classifier, request), records, MAPS[request.map].gradient if gradient is None else gradient)


def draw(trace: Trace, request: MapRequest) -> list[Heatmap]:
    """One map of every image of a trace, which is not run again for it (slow maps run the model in addition).

    ``adapted`` and ``control`` are the trace's own. Raises NearlError for a map, class, layer or head that is not
    there, and for a map that needs an adapter, or a gradient, that the trace has not.
    """
    card, score, classes = MAPS[request.map], request.score, trace.scorer.classes
    if trace.scorer.findings and score.against == OTHERS:
        score = score._replace(against=score.class_index ^ 1)  # present against absent, and the other way round
    check(trace.scorer, request)
    if card.gradient and not trace.gradient:
        raise NearlError(f"{card.name} needs a gradient, and this pass through the model was made without.")
    if card.adapter and request.layer is not None and request.layer not in trace.updates:
        numbers = ", ".join(str(k + 1) for k in trace.updates)
        raise NearlError(f"Layer {request.layer + 1} was not adapted; choose one of {numbers}.")
    against = score.words(classes) if card.by_class else ""
    return [
        Heatmap(
            values.astype("float32"),
            seen_box(trace.backbone, record.size),
            record.size,
            classes[score.class_index],
            card.key,
            card.name,
            card.units,
            trace.scorer.adapted,
            card.signed,
            against,
            request.layer,
            request.head,
        )
        for record, values in zip(trace.records, card.draw(trace, score, request.layer, request.head), strict=True)
    ]


def explain(classifier: Classifier, records: Sequence[ImageRecord], request: MapRequest) -> list[Heatmap]:
    """The map that is asked for, for every image; an image's map does not depend on the others.

    Raises NearlError as `draw` and `look` do.
    """
    scorer, maps = scorer_of(classifier, request), []
    check(scorer, request)
    for start in range(0, len(records), BATCH):
        trace = Trace(scorer, records[start : start + BATCH], gradient=MAPS[request.map].gradient)
        maps += draw(trace, request)
    return maps


def heatmaps(
    classifier: Classifier, records: Sequence[ImageRecord], map: str = "gradcam", class_index: int = 0, **more
) -> list[Heatmap]:
    """As `explain`, for the request's fields by name."""
    return explain(classifier, records, MapRequest(map, class_index, **more))


def gradcam(classifier: Classifier, record: ImageRecord, class_index: int, adapted: bool | None = None) -> Heatmap:
    """The quick map: Grad-CAM of one class above the others."""
    return explain(classifier, [record], MapRequest("gradcam", class_index, adapted=adapted))[0]


def check(scorer: Scorer, request: MapRequest) -> None:
    """Raise NearlError for a map, class, layer or head that is not there or that the model cannot show."""
    card, tower = MAPS[request.map], scorer.backbone.vision
    request.score.weights(len(scorer.classes))
    reason = refusal(card, scorer)
    if reason:
        raise NearlError(reason)
    for name, value, count, takes in (
        ("layer", request.layer, tower.depth, card.layers),
        ("head", request.head, tower.heads, card.heads),
    ):
        if value is not None and not takes:
            raise NearlError(f"“{card.name}” has no {name} to choose.")
        if value is not None and not 0 <= value < count:
            raise NearlError(f"There is no {name} {value + 1}; the image tower has {count} of them.")
