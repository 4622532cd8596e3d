"""All maps by key, and the one call that draws them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nearl.backbones import Backbone
from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.explain.card import Method
from nearl.explain.heatmap import Heatmap, seen_box
from nearl.explain.maps import attention, cam, evidence, novelty, occlusion, relevance
from nearl.explain.score import OTHERS, Score, Scorer
from nearl.explain.trace import Trace
from nearl.reading.classifier import Classifier

METHODS: dict[str, Method] = {
    method.key: method
    for module in (cam, relevance, evidence, attention, novelty, occlusion)
    for method in module.METHODS
}
BATCH = 16


def available(classifier: Classifier, adapted: bool, slow: bool = True) -> list[Method]:
    """The maps that can be drawn of the frozen or the adapted model."""
    method = classifier.method if adapted else classifier.zero_shot
    if method is None:
        return []
    return [m for m in METHODS.values() if m.fits(classifier.backbone) and not method.supports(m) and slow >= m.slow]


def draw(trace: Trace, method: str, score: Score, layer: int | None = None, head: int | None = None) -> list[Heatmap]:
    """One map of every image of a trace, which is not run again for it (``slow`` methods run the model besides).

    Raises NearlError for a method, class, layer or head that is not there, and for a method that needs an adapter, or
    a gradient, that the trace has not.
    """
    card = _check(trace.scorer, method, layer, head)
    score.weights(len(trace.scorer.classes))
    if card.gradient and not trace.gradient:
        raise NearlError(f"{card.name} needs a gradient, and this pass through the model was made without.")
    if card.adapter and layer is not None and layer not in trace.updates:
        raise NearlError(f"Layer {layer + 1} was not adapted; choose one of {_numbers(trace.updates)}.")
    against = score.words(trace.scorer.classes) if card.by_class else ""
    return [
        Heatmap(
            values.astype("float32"),
            seen_box(trace.backbone, record.size),
            record.size,
            trace.scorer.classes[score.class_index],
            card.key,
            card.name,
            card.units,
            trace.scorer.adapted,
            card.signed,
            against,
            layer,
            head,
        )
        for record, values in zip(trace.records, card.draw(trace, score, layer, head), strict=True)
    ]


def explain(
    classifier: Classifier,
    records: Sequence[ImageRecord],
    method: str,
    class_index: int,
    adapted: bool | None = None,
    against: int | str = OTHERS,
    layer: int | None = None,
    head: int | None = None,
) -> list[Heatmap]:
    """The map of one class for every image, of the adapted model (default if there is one) or the frozen one.

    An image's map does not depend on the others. Raises NearlError as ``draw`` does, and for an adapted map without an
    adapter.
    """
    scorer, score = Scorer(classifier, adapted), Score(class_index, against)
    card = _check(scorer, method, layer, head)
    score.weights(len(scorer.classes))
    maps = []
    for start in range(0, len(records), BATCH):
        trace = Trace(scorer, records[start : start + BATCH], gradient=card.gradient)
        maps += draw(trace, method, score, layer, head)
    return maps


def _check(scorer: Scorer, method: str, layer: int | None, head: int | None) -> Method:
    if method not in METHODS:
        raise NearlError(f"There is no map called '{method}'; choose one of {', '.join(METHODS)}.")
    card, backbone = METHODS[method], scorer.classifier.backbone
    tower = backbone.vision
    if card.adapter and not scorer.adapted:
        raise NearlError(f"“{card.name}” shows what teaching changed, so it needs an adapter.")
    if reason := scorer.method.supports(card):
        raise NearlError(reason)
    if not card.fits(backbone):
        raise NearlError(f"“{card.name}” needs a model that averages its patches, which '{backbone.name}' does not.")
    heads = head_count(backbone)
    for name, value, count, takes in (("layer", layer, tower.depth, card.layers), ("head", head, heads, card.heads)):
        if value is not None and not takes:
            raise NearlError(f"“{card.name}” has no {name} to choose.")
        if value is not None and not 0 <= value < count:
            raise NearlError(f"There is no {name} {value + 1}; the image tower has {count} of them.")
    return card


def head_count(backbone: Backbone) -> int:
    """Attention heads in each vision block."""
    return backbone.vision.heads


def _numbers(blocks: Iterable[int]) -> str:
    return ", ".join(str(k + 1) for k in blocks)
