"""What maps cost, as ratios to the frozen forward pass.

``PYTHONPATH=. python benchmarks/maps.py [--backbone NAME --weights random]``

One image, as in the app. The quantities are timed in rounds that take turns, so that a busy machine slows all of them
alike; the median over the rounds is used. Goals: one Grad-CAM <= 3.5 x; raw attention and novelty out of the
prediction's own forward pass <= 1.3 x that pass; C classes cost one forward and C backward passes, so the second class
costs less than the first. Score-CAM and occlusion are slow by nature and are given in passes.
"""

from __future__ import annotations

import argparse
import json
import logging

import torch
from speed import medians, taught

from nearl.backbones import load_backbone
from nearl.explain import MapRequest, Scorer, Trace, available, draw
from nearl.explain.maps.occlusion import windows
from nearl.explain.render import heat_layer


def ratios(name: str, weights: str, rounds: int) -> dict:
    backbone = load_backbone(name, weights=weights)
    data, _, _, classifier = taught(backbone, 1)
    frozen, adapted = Scorer(classifier, False), Scorer(classifier, True)
    record = data.records[1:2]
    pixels = backbone.pixels([r.image() for r in record])
    quick = [m.key for m in available(classifier, True, slow=False)]
    drawn = draw(Trace(frozen, record), MapRequest("gradcam", 1))[0]  # imports the package, which takes seconds

    @torch.no_grad()
    def frozen_forward():
        backbone.encode_image(pixels)

    @torch.no_grad()
    def frozen_prediction():
        frozen.logits(backbone.pixels([r.image() for r in record]))

    @torch.no_grad()
    def adapted_prediction():
        adapted.logits(backbone.pixels([r.image() for r in record]))

    def gradcam():
        draw(Trace(frozen, record), MapRequest("gradcam", 1))

    def attention():
        draw(Trace(frozen, record, gradient=False), MapRequest("attention", 1))

    def attention_and_novelty():
        trace = Trace(adapted, record, gradient=False)
        draw(trace, MapRequest("attention", 1)), draw(trace, MapRequest("novelty", 1))

    def every_quick_map_of_one_class():
        trace = Trace(adapted, record)
        for key in quick:
            draw(trace, MapRequest(key, 1))

    def every_quick_map_of_both_classes():
        trace = Trace(adapted, record)
        for key in quick:
            draw(trace, MapRequest(key, 0)), draw(trace, MapRequest(key, 1))

    def redraw():
        heat_layer(drawn)

    tasks = (
        frozen_forward, frozen_prediction, adapted_prediction, gradcam, attention, attention_and_novelty,
        every_quick_map_of_one_class, every_quick_map_of_both_classes, redraw,
    )  # fmt: skip
    t = medians({task.__name__: task for task in tasks}, rounds)
    ratio = lambda task, base: round(t[task] / t[base], 2)  # noqa: E731
    return {
        "backbone": name,
        "weights": weights,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "frozen_forward_seconds": round(t["frozen_forward"], 4),
        "gradcam_over_frozen_forward": ratio("gradcam", "frozen_forward"),
        "attention_over_prediction": ratio("attention", "frozen_prediction"),
        "attention_and_novelty_over_prediction": ratio("attention_and_novelty", "adapted_prediction"),
        "every_quick_map_of_one_class_over_frozen_forward": ratio("every_quick_map_of_one_class", "frozen_forward"),
        "second_class_over_first": round(
            t["every_quick_map_of_both_classes"] / t["every_quick_map_of_one_class"] - 1, 2
        ),
        "redraw_seconds": round(t["redraw"], 4),
        "occlusion_passes": len(windows(backbone.vision.grid)),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", help="default: both ViT-B-16 with random weights and the embedded backbone")
    parser.add_argument("--weights", default="pretrained", choices=["pretrained", "random"])
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    chosen = [(args.backbone, args.weights)] if args.backbone else [("embedded", "pretrained"), ("ViT-B-16", "random")]
    for name, weights in chosen:
        print(json.dumps(ratios(name, weights, args.rounds)), flush=True)
