"""What the embedded backbone is worth, on test splits.

``PYTHONPATH=. python benchmarks/backbone.py --out runs/backbone.json``

zero-shot: balanced accuracy on the pretraining sets with the prompt ensembles of assets/prompts. modality: which kind
of picture, over all sets; and the same read without words, by a logistic regression on the pooled patch tokens of the
pretraining images and of drawn skin: what the image tower itself knows of it. unfamiliar: which images are called
unlike those learned from. rewordings, negations: ``rewordings.yaml``. transfer: a linear probe on 16 images per class
of the sets that were kept out of pretraining, on the pooled patch tokens before the projection, on the same of randomly
initialised copies, and on histograms of oriented gradients and of colours.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml
from skimage.feature import hog
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler

from nearl.backbones import Backbone, load_backbone
from nearl.data.phantoms.kinds import phantom_set
from nearl.data.sets.labelled import LabelledSet, resolve_splits
from nearl.data.splits import draw_support
from nearl.measure.evaluate import evaluate
from nearl.measure.intervals import student
from nearl.prompts import PromptSet, ready_sets
from nearl.reading.classifier import Classifier

LEARNED = (
    "brain_mri_tumor", "chest_xray_pneumonia", "lung_ct", "breast_ultrasound", "blood_wbc", "knee_xray_oa",
    "oral_histology", "cervical_cytology",
)  # fmt: skip
KEPT_OUT = (
    "dermoscopy_melanoma", "skin_lesion_clinical", "colon_histology", "osteosarcoma_histology", "malaria_cells",
    "leukocytes_aml",
)  # fmt: skip
ASKED = yaml.safe_load((Path(__file__).parent / "rewordings.yaml").read_text(encoding="utf-8"))


def regression(x: np.ndarray, labels: list[int]) -> GridSearchCV:
    """Logistic regression, L2 strength chosen inside the support set."""
    folds = max(2, min(4, int(np.bincount(labels).min())))
    one = LogisticRegression(class_weight="balanced", max_iter=2000)
    return GridSearchCV(one, {"C": np.logspace(-1, 5, 7)}, scoring="balanced_accuracy", cv=folds).fit(x, labels)


def read(classifier: Classifier, prompts: PromptSet, test: LabelledSet) -> np.ndarray:
    classifier.set_prompts(prompts)
    return classifier.predict(test.records).frozen


def zero_shot(classifier: Classifier, tests: dict[str, LabelledSet]) -> dict[str, dict]:
    results = {}
    for name in LEARNED:
        prompts = PromptSet.load(ready_sets()[name]).for_classes(tests[name].classes)
        results[name] = evaluate(read(classifier, prompts, tests[name]), np.array(tests[name].labels))
    return results


def modality(classifier: Classifier, tests: dict[str, LabelledSet]) -> dict:
    """Share of right answers per set and the mean over sets, each asked among all modalities."""
    names = tuple(ASKED["modalities"])
    prompts = PromptSet("modality", names, tuple(tuple(ASKED["modalities"][n]["prompts"]) for n in names))
    right = {}
    for index, name in enumerate(names):
        for folder in ASKED["modalities"][name]["sets"]:
            right[folder] = float((read(classifier, prompts, tests[folder]).argmax(1) == index).mean())
    learned = [right[name] for name in LEARNED]
    return {"sets": right, "mean": float(np.mean([*right.values()])), "mean_of_learned": float(np.mean(learned))}


def modality_without_words(data: Path, backbone: Backbone, tests: dict[str, LabelledSet], most: int = 200) -> dict:
    """As `modality`, from the features of at most `most` train images of each pretraining set and as many phantoms of
    skin, of which no pretraining set has any."""
    features, rng = pooled_tokens(backbone), np.random.default_rng(0)
    number = {folder: i for i, entry in enumerate(ASKED["modalities"].values()) for folder in entry["sets"]}
    x, y = [features(phantom_set("skin", most // 2))], [number["skin_lesion_clinical"]] * most
    for name in LEARNED:
        train, _ = resolve_splits(data / name)
        x.append(features(train.subset(rng.permutation(len(train))[:most].tolist())))
        y += [number[name]] * len(x[-1])
    scale = StandardScaler().fit(np.concatenate(x))
    regression = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
    regression.fit(scale.transform(np.concatenate(x)), y)
    right = {s: float(regression.score(scale.transform(features(t)), [number[s]] * len(t))) for s, t in tests.items()}
    return {"sets": right, "mean": float(np.mean([*right.values()]))}


def unfamiliar(classifier: Classifier, tests: dict[str, LabelledSet]) -> dict[str, float]:
    """Share of each set's images that are called unlike those learned from."""
    return {name: float(np.mean(classifier.predict(test.records).unfamiliar)) for name, test in tests.items()}


def rewordings(classifier: Classifier, tests: dict[str, LabelledSet], ensembles: dict[str, dict]) -> list[dict]:
    """Balanced accuracy with each rewording, and how much less than the ensemble of assets/prompts it is."""
    rows = []
    for name, entries in ASKED["rewordings"].items():
        for entry in entries:
            texts = {label: text for label, text in entry.items() if label != "kind"}
            prompts = PromptSet(entry["kind"], tuple(texts), tuple((t,) for t in texts.values()))
            prompts = prompts.for_classes(tests[name].classes)
            accuracy = evaluate(read(classifier, prompts, tests[name]), np.array(tests[name].labels), draws=2)
            drop = ensembles[name]["balanced_accuracy"] - accuracy["balanced_accuracy"]
            rows.append({"set": name, **entry, "balanced_accuracy": accuracy["balanced_accuracy"], "drop": drop})
    return rows


def negations(backbone: Backbone, classifier: Classifier, tests: dict[str, LabelledSet]) -> list[dict]:
    """For each prompt and its denial, the share of pairs of images, one of the prompt's classes and one of the others,
    that the two rank in opposite order; and the share that each of the two ranks correctly."""
    rows = []
    for entry in ASKED["negations"]:
        test = tests[entry["set"]]
        with torch.no_grad():
            text = backbone.encode_text(backbone.tokenize([entry["prompt"], entry["denied"]])).float()
            scores = (classifier.image_features(test.records) @ text.T).cpu().numpy()
        inside = np.isin(np.array(test.classes)[test.labels], entry["of"])
        prompt, denied = (scores[inside, i][:, None] - scores[~inside, i][None] for i in (0, 1))
        rows.append(
            {
                **entry,
                "flipped": float((prompt * denied < 0).mean()),
                "prompt_right": float((prompt > 0).mean()),
                "denied_right": float((denied < 0).mean()),
            }
        )
    return rows


def pooled_tokens(backbone: Backbone) -> Callable[[LabelledSet], np.ndarray]:
    """Records -> [N, width]: the mean of the last layer's patch tokens."""

    @torch.no_grad()
    def features(data: LabelledSet) -> np.ndarray:
        trunk, found = backbone.model.visual.trunk, []
        for start in range(0, len(data), 16):
            records = data.records[start : start + 16]
            pixels = backbone.normalise(torch.stack([backbone.to_uint8(r.image()) for r in records]))
            found.append(trunk.forward_features(pixels)[:, 1:].mean(1).cpu().numpy())
        return np.concatenate(found)

    return features


def hog_and_colours(data: LabelledSet) -> np.ndarray:
    """Records -> [N, 1812]: oriented gradients of the grey picture at 128 x 128 and 16-bin histograms of colour."""
    rows = []
    for record in data.records:
        picture = record.image().resize((128, 128))
        gradients = hog(np.asarray(picture.convert("L")), pixels_per_cell=(16, 16), cells_per_block=(2, 2))
        pixels = np.asarray(picture)
        colours = [np.histogram(pixels[..., c], 16, (0, 256))[0] / pixels[..., c].size for c in range(3)]
        rows.append(np.concatenate([gradients, *colours]))
    return np.stack(rows)


def random_copy(seed: int) -> Backbone:
    return load_backbone("embedded", weights="random", seed=seed)


def transfer(data: Path, backbone: Backbone, shots: int, seeds: range, copies: int = 5) -> dict[str, dict]:
    """Balanced accuracy per set and kind of features: of each support set, the mean over `copies` of random copies.

    Also how much better the backbone is than the copies, with the 95 % interval for the sampling of test images.
    """
    kinds = {
        "embedded": [pooled_tokens(backbone)],
        "random copy": [pooled_tokens(random_copy(seed)) for seed in range(copies)],
        "HOG + colours": [hog_and_colours],
    }
    results: dict[str, dict] = {}
    for name in KEPT_OUT:
        train, test = resolve_splits(data / name)
        supports = [draw_support(train.labels, shots, seed) for seed in seeds]
        used = sorted({i for support in supports for i in support})
        row_of = {i: row for row, i in enumerate(used)}
        results[name], y = {}, np.array(test.labels)
        right = {kind: np.zeros((len(networks), len(supports), len(y))) for kind, networks in kinds.items()}
        for kind, networks in kinds.items():
            for n, features in enumerate(networks):
                x, x_test = features(train.subset(used)), features(test)
                for s, support in enumerate(supports):
                    rows = [row_of[i] for i in support]
                    scale = StandardScaler().fit(x[rows])
                    labels = [train.labels[i] for i in support]
                    said = regression(scale.transform(x[rows]), labels).predict(scale.transform(x_test))
                    right[kind][n, s] = said == y
            balanced = np.mean([right[kind][..., y == c].mean(-1) for c in np.unique(y)], 0)
            values, each = balanced.mean(0), balanced.mean(1)
            half = student(values.tolist())[1]
            results[name][kind] = {"mean": float(values.mean()), "half_interval": half, "runs": values.tolist()}
            print(f"{name:24} {kind:14} {values.mean():.3f} ± {half:.3f}", end="  ", flush=True)
            print(f"copies {each.min():.2f} to {each.max():.2f}" if len(each) > 1 else "", flush=True)
        lead = right["embedded"].mean((0, 1)) - right["random copy"].mean((0, 1))
        results[name]["lead"] = found = _mean_over_classes(lead, y)
        print(f"{name:24} embedded minus random copy {found[0]:+.3f} ({found[1]:+.3f} to {found[2]:+.3f})", flush=True)
    return results


def _mean_over_classes(values: np.ndarray, y: np.ndarray, draws: int = 5000) -> list[float]:
    """The mean over classes of values [N] of images with classes y [N], and its bootstrap interval, drawn per class."""
    rng = np.random.default_rng(0)
    groups = [values[y == c] for c in np.unique(y)]
    drawn = np.mean([rng.choice(group, (draws, len(group))).mean(1) for group in groups], 0)
    return [float(np.mean([group.mean() for group in groups])), *np.quantile(drawn, [0.025, 0.975]).tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("NEARL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--out", type=Path, default=Path("runs/backbone.json"))
    parser.add_argument("--no-transfer", action="store_true", help="leave the linear probes out")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    backbone = load_backbone(args.backbone)
    tests = {name: resolve_splits(Path(args.data) / name)[1] for name in (*LEARNED, *KEPT_OUT)}
    classifier = Classifier(backbone, PromptSet("none", ("none",), (("none",),)))
    result: dict = {"weights": backbone.identity["weights"], "zero_shot": zero_shot(classifier, tests)}
    for name, row in result["zero_shot"].items():
        low, high = row["balanced_accuracy_interval"]
        print(f"{name:24} {row['balanced_accuracy']:.3f} ({low:.2f}-{high:.2f})  AUROC {row['auroc']:.3f}", flush=True)
    result["modality"] = modality(classifier, tests)
    print("modality", json.dumps(result["modality"]), flush=True)
    result["modality_without_words"] = modality_without_words(Path(args.data), backbone, tests)
    print("without words", json.dumps(result["modality_without_words"]), flush=True)
    result["unfamiliar"] = unfamiliar(classifier, tests)
    print("unfamiliar", json.dumps(result["unfamiliar"]), flush=True)
    result["rewordings"] = rewordings(classifier, tests, result["zero_shot"])
    for row in result["rewordings"]:
        print(f"{row['set']:22} {row['kind']:9} {row['balanced_accuracy']:.3f}  drop {row['drop']:+.3f}")
    print(f"mean drop of {len(result['rewordings'])}: {np.mean([row['drop'] for row in result['rewordings']]):.4f}")
    result["negations"] = negations(backbone, classifier, tests)
    for row in result["negations"]:
        print(f"{row['prompt'][:40]:40} flipped {row['flipped']:.2f}  right {row['prompt_right']:.2f}", end="")
        print(f"  denied right {row['denied_right']:.2f}")
    flipped = np.mean([row["flipped"] for row in result["negations"]])
    print(f"pairs flipped, mean of {len(result['negations'])}: {flipped:.3f}", flush=True)
    if not args.no_transfer:
        result["transfer"] = transfer(Path(args.data), backbone, 16, range(5))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
