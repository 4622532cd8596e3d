"""Is a map faithful? Measured where the truth is known: on phantoms whose lesion has an exact mask, against controls.

- pointing game (Zhang et al., ECCV 2016): the highest patch touches the lesion;
- energy: share of the map's positive values inside the lesion (Wang et al., Score-CAM, 2020);
- IoU of the k highest patches with the k patches that the lesion touches;
- deletion and insertion (Petsiuk et al., RISE, BMVC 2018): area under the class's probability while patches are hidden
  (lower is better) or brought back (higher is better) from the highest value down; hidden is the image's mean colour.

Controls: a random map, and the same map of a model whose adapter and head are randomised (Adebayo et al., NeurIPS
2018). A map that does as well under randomisation shows the image, not the model. The measures are taken on the grid of
patches (our choice), so the chance of the pointing game is the share of patches that the lesion touches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.stats import beta, spearmanr
from torch import Tensor

from nearl.adapters.store import load_adapter
from nearl.backbones import Backbone
from nearl.data.images import ImageRecord
from nearl.data.phantoms.kinds import CLASSES, make_phantom, phantom_set
from nearl.errors import NearlError
from nearl.explain.heatmap import Heatmap
from nearl.explain.maps.occlusion import cover
from nearl.explain.registry import METHODS, available, draw
from nearl.explain.score import Score, Scorer, randomised
from nearl.explain.trace import Trace
from nearl.methods import Task, make, restore
from nearl.prompts import PromptSet
from nearl.reading.classifier import Classifier
from nearl.train.recipe import Recipe

FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)  # of the patches; denser where the curves are steep (our choice)
BATCH = 16
TEACH_SEED, SCENE_SEED = 7001, 91_000_000  # apart from those of the examples, the tests and pretraining
MEASURES = ("pointing", "energy", "iou", "deletion", "insertion")
MAP, CONTROL, RANDOM = "map", "randomised model", "random map"


# ------------------------------------------------------------------------------------------------- measures of one map


def covered(mask: np.ndarray, box: tuple[float, float, float, float], grid: tuple[int, int]) -> np.ndarray:
    """Share of each patch that a mask (bool [height, width] of the image) covers, float32 [grid height, grid width].
    ``box``: what the model sees, as in a Heatmap; beyond the image there is nothing."""
    left, top, right, bottom = box
    fine = 8  # samples per patch and side
    ys = top + (np.arange(grid[0] * fine) + 0.5) * (bottom - top) / (grid[0] * fine)
    xs = left + (np.arange(grid[1] * fine) + 0.5) * (right - left) / (grid[1] * fine)
    rows, columns = np.floor(ys).astype(int), np.floor(xs).astype(int)
    inside = np.ix_((rows >= 0) & (rows < mask.shape[0]), (columns >= 0) & (columns < mask.shape[1]))
    samples = np.zeros((len(rows), len(columns)), np.float32)
    samples[inside] = mask[np.ix_(rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1))][inside]
    return samples.reshape(grid[0], fine, grid[1], fine).mean((1, 3))


def place_measures(values: np.ndarray, cover_share: np.ndarray) -> dict[str, float]:
    """Pointing, energy and IoU of raw values [grid height, grid width]; a map without a peak points nowhere."""
    touched = cover_share > 0
    if np.ptp(values) == 0:
        return {"pointing": 0.0, "energy": 0.0, "iou": 0.0}
    positive = np.maximum(values, 0)
    k = int(touched.sum())
    highest = np.zeros(values.size, bool)
    highest[np.argsort(-values, axis=None, kind="stable")[:k]] = True
    shared = (highest.reshape(values.shape) & touched).sum()
    return {
        "pointing": float(touched.flat[values.argmax()]),
        "energy": float((positive * cover_share).sum() / max(positive.sum(), 1e-30)),
        "iou": float(shared / max(2 * k - shared, 1)),
    }


@torch.no_grad()
def curve_measures(
    scorer: Scorer, pixels: Tensor, class_index: int, maps: Sequence[np.ndarray]
) -> list[dict[str, float]]:
    """Deletion and insertion of several maps of one image, normalised pixels [3, H, W], in one row of batches."""
    grid, fill = maps[0].shape, pixels.mean((1, 2), keepdim=True)
    inner = FRACTIONS[1:-1]
    hidden = [torch.zeros(grid, dtype=torch.bool), torch.ones(grid, dtype=torch.bool)]
    for values in maps:
        order = np.argsort(-values, axis=None, kind="stable")
        for share in inner:
            mask = torch.zeros(values.size, dtype=torch.bool)
            mask[torch.from_numpy(order[: round(share * values.size)].copy())] = True
            hidden += [mask.reshape(grid), ~mask.reshape(grid)]
    with scorer.backbone.lock:
        logits = [scorer.logits(cover(pixels, part, fill)) for part in torch.stack(hidden).split(BATCH)]
    p = torch.cat(logits).softmax(-1)[:, class_index].cpu().numpy()
    found = []
    for own in p[2:].reshape(len(maps), len(inner), 2):
        deletion, insertion = [p[0], *own[:, 0], p[1]], [p[1], *own[:, 1], p[0]]
        found.append(
            {n: float(np.trapezoid(y, FRACTIONS)) for n, y in (("deletion", deletion), ("insertion", insertion))}
        )
    return found


def mean_interval(values: Sequence[float], yes_no: bool = False, draws: int = 2000) -> dict:
    """Mean and 95 % interval for the sampling of images: bootstrap, or Jeffreys for ``yes_no`` values, which does not
    collapse where all are alike."""
    values = np.asarray(values, dtype=np.float64)
    if yes_no:
        hits, n = values.sum(), len(values)
        low, high = beta.ppf([0.025, 0.975], hits + 0.5, n - hits + 0.5)
    else:
        index = np.random.default_rng(0).integers(len(values), size=(draws, len(values)))
        low, high = np.quantile(values[index].mean(1), [0.025, 0.975])
    mean = float(values.mean())
    return {"mean": mean, "interval": [float(min(low, mean)), float(max(high, mean))], "n": len(values)}


# ----------------------------------------------------------------------------------------------------------- the study


def study(
    backbone: Backbone,
    kinds: Sequence[str],
    images: int = 200,
    adapter: str | None = None,
    shots: int = 16,
    curves: int = 60,
    methods: Sequence[str] | None = None,
    seed: int = 0,
    log: Callable[[str], None] = lambda line: None,
) -> dict:
    """All measures on ``images`` phantoms with a lesion, spread over ``kinds``, explaining "lesion" against "no
    lesion".

    The model is adapted with ``adapter`` (a path) or, without, with one taught for each kind on ``shots`` other
    phantoms per class (0: the frozen model, whose control has a randomised head alone). Curves and slow maps are taken
    on ``curves`` of the images, the same ones. Returns {"rows": [{"method", "which", measure: {"mean", "interval",
    "n"}, ...}], "chance": {...}, "agreement": {method: rank correlation of the map with its randomised control},
    "beats_chance": {method: bool}, ...}: pointing at least twice as often as chance, and more often than the random map
    beyond both intervals.
    """
    unknown = [m for m in methods or () if m not in METHODS]
    if unknown:
        raise NearlError(f"There is no map called '{unknown[0]}'; choose from {', '.join(METHODS)}.")
    if images < len(kinds) or curves < 1:
        raise NearlError(f"At least one image of each of the {len(kinds)} kinds is needed, and one for the curves.")
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    agreement: dict[str, list[float]] = {}
    chance: dict[str, list[float]] = {"pointing": [], "energy": [], "iou": []}
    right = []
    for number, kind in enumerate(kinds):
        share = lambda total, i=number: (i + 1) * total // len(kinds) - i * total // len(kinds)  # noqa: E731
        classifier = _taught(backbone, kind, adapter, shots, seed, log)
        one_kind = _Kind(classifier, kind, methods, seed)
        for start in range(0, share(images), BATCH):
            count = min(BATCH, share(images) - start)
            with_curves = max(0, min(count, max(share(curves), 1) - start))
            right += one_kind.measure(start, count, with_curves, found, agreement, chance)
            log(f"{kind}: {start + count} of {share(images)} phantoms")
    rows = [
        {"method": method, "which": which, **{m: mean_interval(v, m == "pointing") for m, v in values.items()}}
        for (method, which), values in found.items()
    ]
    luck = float(np.mean(chance["pointing"]))
    pointing = {(row["method"], row["which"]): row["pointing"] for row in rows}
    clearly = lambda one, other: one["interval"][0] > other["interval"][1]  # noqa: E731
    ours = {method: value for (method, which), value in pointing.items() if which == MAP}
    beats_chance = {m: bool(v["mean"] >= 2 * luck and clearly(v, pointing["random", RANDOM])) for m, v in ours.items()}
    beats_control = {m: bool(clearly(v, pointing[m, CONTROL])) for m, v in ours.items()}
    return {
        "backbone": backbone.identity,
        "adapter": adapter or (f"taught on {shots} phantoms per class of each kind" if shots else "none"),
        "kinds": list(kinds),
        "images": images,
        "curves": curves,
        "seed": seed,
        "called_lesion": float(np.mean(right)),
        "chance": {key: float(np.mean(values)) for key, values in chance.items()},
        "rows": rows,
        "agreement": {key: float(np.mean(values)) for key, values in agreement.items()},
        "beats_chance": beats_chance,
        "beats_control": beats_control,
    }


class _Kind:
    """The maps of one kind of phantom, of the model and of its randomised control."""

    def __init__(self, classifier: Classifier, kind: str, methods: Sequence[str] | None, seed: int):
        self.kind, self.seed = kind, seed
        self.scorer = Scorer(classifier)
        self.control = Scorer(randomised(classifier, seed), head_seed=seed)
        self.cards = [m for m in available(classifier, self.scorer.adapted) if methods is None or m.key in methods]
        self.score = Score(CLASSES.index("lesion"))
        self.rng = np.random.default_rng([seed, 17])

    def measure(
        self, start: int, count: int, with_curves: int, found: dict, agreement: dict, chance: dict
    ) -> list[bool]:
        """Adds what it finds of phantoms ``start`` onwards; returns which of them the model takes for a lesion."""
        phantoms = [make_phantom(self.kind, True, SCENE_SEED + self.seed * 100_003 + start + i) for i in range(count)]
        records = [ImageRecord.from_pixels(f"{i}.png", p.pixels) for i, p in enumerate(phantoms)]
        drawn: dict[tuple[str, str], list[Heatmap]] = {}
        for which, scorer in ((MAP, self.scorer), (CONTROL, self.control)):
            trace = Trace(scorer, records)
            if which == MAP:
                pixels, called = trace.pixels, (trace.logits.argmax(-1) == self.score.class_index).tolist()
            for card in self.cards:
                if not card.slow:
                    drawn[card.key, which] = draw(trace, card.key, self.score)
            if with_curves:
                few = Trace(scorer, records[:with_curves], gradient=False)
                drawn |= {(c.key, which): draw(few, c.key, self.score) for c in self.cards if c.slow}
        first = next(iter(drawn.values()))[0]
        for i, phantom in enumerate(phantoms):
            share = covered(phantom.mask, first.box, first.values.shape)
            chance["pointing"].append(float((share > 0).mean()))
            chance["energy"].append(float(share.mean()))
            k = (share > 0).sum()
            chance["iou"].append(float(k * k / share.size / max(2 * k - k * k / share.size, 1)))
            maps = {key: heatmaps[i].values for key, heatmaps in drawn.items() if i < len(heatmaps)}
            maps["random", RANDOM] = self.rng.random(first.values.shape)
            results = {key: place_measures(values, share) for key, values in maps.items()}
            if i < with_curves:
                curves = curve_measures(self.scorer, pixels[i], self.score.class_index, list(maps.values()))
                for key, more in zip(maps, curves, strict=True):
                    results[key] |= more
            for key, measures in results.items():
                for name, value in measures.items():
                    found.setdefault(key, {m: [] for m in MEASURES})[name].append(value)
            for card in self.cards:
                if (card.key, MAP) in maps:
                    pair = maps[card.key, MAP].ravel(), maps[card.key, CONTROL].ravel()
                    if all(np.ptp(values) > 0 for values in pair):
                        agreement.setdefault(card.key, []).append(float(spearmanr(*pair).statistic))
        return called


def _taught(backbone: Backbone, kind: str, path: str | None, shots: int, seed: int, log: Callable) -> Classifier:
    example = phantom_set(kind, max(shots, 1), seed=TEACH_SEED + seed)
    prompt_set = PromptSet.from_dict(example.prompts).for_classes(example.classes)
    method = None
    if path is not None:
        method = restore(backbone, load_adapter(path, backbone.identity))
    elif shots:
        log(f"{kind}: teaching on {len(example)} phantoms")
        method = make("nearl", Task(backbone, prompt_set, example))
        for _ in method.fit(Recipe(seed=seed)):
            pass
    return Classifier(backbone, prompt_set, method)


def table(result: dict) -> list[str]:
    """The result as lines of a Markdown table, with what it was taken on and which maps do not beat chance."""

    def cell(row: dict, name: str) -> str:
        value = row.get(name)
        if not value or not value["n"]:
            return ""
        low, high = value["interval"]
        return f"{value['mean']:.2f} ({low:.2f} to {high:.2f})"

    order = {key: i for i, key in enumerate(METHODS)}
    rows = sorted(result["rows"], key=lambda row: (order.get(row["method"], 99), row["which"] != MAP))
    names = {key: card.name for key, card in METHODS.items()} | {"random": "Random map"}
    lines = [
        f"{result['images']} phantoms ({', '.join(result['kinds'])}), {result['adapter']}; deletion, insertion and the "
        f"slow maps on {result['curves']} of them. {result['called_lesion']:.0%} are taken for a lesion. By chance: "
        f"pointing {result['chance']['pointing']:.3f}, energy {result['chance']['energy']:.3f}, IoU "
        f"{result['chance']['iou']:.3f}.",
        "",
        "| map | of | pointing game | energy in mask | IoU | deletion (low is good) | insertion (high is good) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        of = {MAP: "the model", CONTROL: "randomised control", RANDOM: ""}[row["which"]]
        lines.append(f"| {names[row['method']]} | {of} | {' | '.join(cell(row, m) for m in MEASURES)} |")
    weak, blind = ([names[k] for k, good in result[f"beats_{of}"].items() if not good] for of in ("chance", "control"))
    same = [f"{names[key]} {value:.2f}" for key, value in result["agreement"].items()]
    lines += ["", f"No better than chance at pointing: {', '.join(weak) or 'none'}. No better than the same map of the"]
    lines[-1] += f" randomised model: {', '.join(blind) or 'none'}."
    return [*lines, f"Rank correlation of the map with its randomised control: {', '.join(same)}."]
