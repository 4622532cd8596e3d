"""Where the maps of the untaught embedded backbone point on real images: into masks drawn by hand, and inside the
head, the body or the cell. Part of ``backbone.py``.

The control is the same map with the coordinates of the image embedding scrambled before they are scored: it keeps the
image and loses what the words mean. Chance is the share of the patches that the mask touches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np
from backbone_sets import Store, prompts_of
from PIL import Image

from nearl.backbones import Backbone
from nearl.data.images import ImageRecord
from nearl.explain import Heatmap, MapRequest, Scorer, Trace, draw
from nearl.explain.faithfulness import place_measures
from nearl.explain.outside import covered, patient
from nearl.reading.classifier import Classifier

FINDINGS = ("breast_ultrasound", "brain_mri_lesions", "colonoscopy_polyp", "foot_ulcer", "thyroid_ultrasound")
ORGANS = ("liver_ct", "cardiac_mri", "octa_plexus", "ultrasound_anatomy")
INSIDE = {  # what the peak should lie inside of
    "brain_mri_tumor": "head", "brain_mri_healthy": "head", "chest_xray_pneumonia": "body", "chest_xray_adult": "body",
    "blood_wbc": "cell", "blood_cells_pbc": "cell", "malaria_cells_gray": "cell on black",
}  # fmt: skip
MAPS = ("gradcam", "relevance", "evidence")
MOST, BATCH = 48, 8  # images of each set; images in one pass


def on_masks(backbone: Backbone, store: Store) -> dict:
    """By set and map {"n", "hits", "control", "chance", "energy", "area"}: peaks on the mask, those of the control, the
    sum of chances, and shares of the map and of the image inside it; and over all sets of findings and of organs."""
    result: dict = {}
    for name in (*FINDINGS, *ORGANS):
        folder = store.data / name / "masks" / "test"
        test = store.part(name, "test")
        masks: dict[int, np.ndarray] = {}
        for i, (record, label) in enumerate(zip(test.records, test.labels, strict=True)):
            path = folder / test.classes[label] / f"{record.name.rsplit('.', 1)[0]}.png"
            if path.is_file():
                masks[i] = np.asarray(Image.open(path).convert("L")) > 127
        chosen = _some(list(masks))
        prompts, numbers = prompts_of(name, test.classes)
        classes = [numbers[test.labels[i]] for i in chosen]
        found = {key: dict.fromkeys(("n", "hits", "control", "chance", "energy", "area"), 0.0) for key in MAPS}
        rows = _maps(Classifier(backbone, prompts), [test.records[i] for i in chosen], classes)
        for i, key, heatmap, control in rows:
            share = covered(masks[chosen[i]], heatmap.box, heatmap.values.shape)
            own, other = place_measures(heatmap.values, share), place_measures(control.values, share)
            more = (1, own["pointing"], other["pointing"], (share > 0).mean(), own["energy"], share.mean())
            for column, value in zip(found[key], more, strict=True):
                found[key][column] += float(value)
        result[name] = found
        print(f"{name:22}", *(f"{key} {_words(row)}" for key, row in found.items()), sep="  ", flush=True)
    for group, names in (("findings", FINDINGS), ("organs", ORGANS)):
        result[group] = {key: {c: sum(result[n][key][c] for n in names) for c in result[names[0]][key]} for key in MAPS}
        print(f"{group:22}", *(f"{key} {_words(row)}" for key, row in result[group].items()), sep="  ", flush=True)
    return result


def peaks(backbone: Backbone, store: Store) -> dict:
    """By set and map of the class that is answered {"n", "inside", "chance"}: peaks inside the head, body or cell."""
    result: dict = {}
    for name, what in INSIDE.items():
        test = store.part(name, "test")
        records = [test.records[i] for i in _some(list(range(len(test))))]
        prompts, _ = prompts_of(name, test.classes)
        classifier = Classifier(backbone, prompts)
        said = classifier.predict(records).frozen.argmax(1).tolist()
        found = {key: dict.fromkeys(("n", "inside", "chance"), 0.0) for key in MAPS}
        for i, key, heatmap, _ in _maps(classifier, records, said, control=False):
            shown = region(records[i].image(), what)
            x, y = shown.shape[1] / records[i].size[0], shown.shape[0] / records[i].size[1]
            left, top, right, bottom = heatmap.box
            share = covered(shown, (left * x, top * y, right * x, bottom * y), heatmap.values.shape)
            more = (1, share[heatmap.peak] >= 0.25, (share >= 0.25).mean())
            for column, value in zip(found[key], more, strict=True):
                found[key][column] += float(value)
        result[name] = {"inside": what, **found}
        words = (f"{key} {row['inside'] / row['n']:.2f}" for key, row in found.items())
        print(f"{name:22} inside the {what}", *words, sep="  ", flush=True)
    return result


def region(image: Image.Image, what: str) -> np.ndarray:
    """bool [H, W]: the patient, or the stained cell nearest to the middle with a rim of cytoplasm (our choice)."""
    if what != "cell":
        return patient(image)
    from scipy.ndimage import binary_dilation, label
    from skimage.filters import gaussian, threshold_otsu

    green = gaussian(np.asarray(image.convert("RGB").resize((128, 128)))[..., 1].astype(float), 2)
    parts, count = label(green < threshold_otsu(green))
    if not count:
        return np.ones((128, 128), bool)
    y, x = np.mgrid[:128, :128] - 63.5
    weight = np.exp(-(x**2 + y**2) / (2 * 40**2))
    best = 1 + int(np.argmax([weight[parts == k].sum() for k in range(1, count + 1)]))
    return binary_dilation(parts == best, iterations=10)


def _some(items: list[int]) -> list[int]:
    """At most `MOST` of the items, spread evenly."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(len(items), MOST)).round().astype(int))]


def _maps(
    classifier: Classifier, records: list[ImageRecord], classes: list[int], control: bool = True
) -> Iterator[tuple[int, str, Heatmap, Heatmap]]:
    """(number of the record, map, heat map of its class, the control's) of every record and map."""
    scorers: list[Scorer] = [Scorer(classifier, False), *([Scorer(classifier, False, head_seed=0)] if control else [])]
    groups: dict[int, list[int]] = defaultdict(list)
    for i, number in enumerate(classes):
        groups[number].append(i)
    for number, members in groups.items():
        for start in range(0, len(members), BATCH):
            batch = members[start : start + BATCH]
            traces = [Trace(scorer, [records[i] for i in batch]) for scorer in scorers]
            for key in MAPS:
                drawn = [draw(trace, MapRequest(key, number)) for trace in traces]
                for i, *both in zip(batch, drawn[0], drawn[-1], strict=True):
                    yield i, key, *both


_words: Callable[[dict], str] = lambda row: (  # noqa: E731
    f"{row['hits'] / row['n']:.2f} (control {row['control'] / row['n']:.2f}, chance {row['chance'] / row['n']:.2f})"
)
