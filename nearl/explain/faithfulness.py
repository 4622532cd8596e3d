"""Whether maps are faithful, measured on phantoms whose lesion has an exact mask, against controls.

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
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.integrate import trapezoid
from scipy.stats import beta, spearmanr
from torch import Tensor

from nearl.adapters.store import load_adapter
from nearl.backbones import Backbone
from nearl.data.images import ImageRecord
from nearl.data.phantoms.kinds import CLASSES, make_phantom, phantom_set
from nearl.errors import NearlError
from nearl.explain.drawing import available, draw
from nearl.explain.heatmap import Heatmap
from nearl.explain.maps.occlusion import cover
from nearl.explain.outside import covered
from nearl.explain.registry import MAPS
from nearl.explain.request import MapRequest
from nearl.explain.score import Scorer, randomised
from nearl.explain.trace import Trace
from nearl.methods import Task, make, restore
from nearl.prompts import PromptSet
from nearl.reading.classifier import Classifier

FRACTIONS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)  # of the patches; denser where the curves are steep (our choice)
BATCH = 16
TEACH_SEED, SCENE_SEED = 7001, 91_000_000  # apart from those of the examples, the tests and pretraining
MEASURES = ("pointing", "energy", "iou", "deletion", "insertion")
MAP, CONTROL, RANDOM = "map", "randomised model", "random map"


# ------------------------------------------------------------------------------------------------- measures of one map


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
    """Deletion and insertion of several maps of one image, normalised pixels [3, H, W]."""
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
        found.append({n: float(trapezoid(y, FRACTIONS)) for n, y in (("deletion", deletion), ("insertion", insertion))})
    return found


def mean_interval(values: Sequence[float], yes_no: bool = False, draws: int = 2000) -> dict:
    """The mean and its 95 % interval for the sampling of images.

    Bootstrap, or Jeffreys for ``yes_no`` values, which does not collapse where all are alike.
    """
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


@dataclass(frozen=True)
class Plan:
    """What a study measures."""

    kinds: Sequence[str]  # kinds of phantoms, over which the images are spread
    images: int = 200  # phantoms with a lesion
    curves: int = 60  # of these, for curves and slow maps
    adapter: str | None = None  # path of the adapter to use for every kind; None: teach one for each kind
    shots: int = 16  # phantoms per class to teach it with; 0: study the frozen model
    maps: Sequence[str] | None = None  # keys of MAPS; None: every map that the model can draw
    seed: int = 0

    def __post_init__(self):
        for key in self.maps or ():
            MAPS[key]
        if self.images < len(self.kinds) or self.curves < 1:
            raise NearlError(
                f"At least one image of each of the {len(self.kinds)} kinds is needed, and one for the curves."
            )

    def share(self, total: int, kind: int) -> int:
        """How many of ``total`` belong to the kind with this number."""
        return (kind + 1) * total // len(self.kinds) - kind * total // len(self.kinds)


@dataclass
class Found:
    """What was measured, over all images so far."""

    measures: dict[tuple[str, str], dict[str, list[float]]] = field(default_factory=dict)  # by (map, which model)
    agreement: dict[str, list[float]] = field(default_factory=dict)  # rank correlation with the randomised control
    chance: dict[str, list[float]] = field(default_factory=dict)  # expected place measures of a random map
    right: list[bool] = field(default_factory=list)  # whether the model takes the image for a lesion

    def rows(self) -> list[dict]:
        """One row for each map and model, with mean and interval of every measure."""
        return [
            {"method": key, "which": which, **{m: mean_interval(v, m == "pointing") for m, v in values.items()}}
            for (key, which), values in self.measures.items()
        ]


def study(backbone: Backbone, plan: Plan, log: Callable[[str], None] = lambda line: None) -> dict:
    """Take all measures, explaining "lesion" against "no lesion".

    Returns {"rows": [{"method", "which", measure: {"mean", "interval", "n"}, ...}], "chance": {...}, "agreement": {map:
    rank correlation with its randomised control}, "beats_chance": {map: bool}, "beats_control": {map: bool}, ...}.
    A map beats chance if it points at least twice as often as chance, and more often than the random map beyond both
    intervals. The control of a frozen model has a randomised head alone.
    """
    found = Found()
    for number, kind in enumerate(plan.kinds):
        one_kind = _Kind(_taught(backbone, kind, plan, log), kind, plan)
        images = plan.share(plan.images, number)
        for start in range(0, images, BATCH):
            count = min(BATCH, images - start)
            with_curves = max(0, min(count, max(plan.share(plan.curves, number), 1) - start))
            one_kind.measure(start, count, with_curves, found)
            log(f"{kind}: {start + count} of {images} phantoms")
    rows, luck = found.rows(), float(np.mean(found.chance["pointing"]))
    pointing = {(row["method"], row["which"]): row["pointing"] for row in rows}
    clearly = lambda one, other: one["interval"][0] > other["interval"][1]  # noqa: E731
    ours = {key: value for (key, which), value in pointing.items() if which == MAP}
    by_chance = pointing["random", RANDOM]
    taught = f"taught on {plan.shots} phantoms per class of each kind" if plan.shots else "none"
    return {
        "backbone": backbone.identity,
        "adapter": plan.adapter or taught,
        "kinds": list(plan.kinds),
        "images": plan.images,
        "curves": plan.curves,
        "seed": plan.seed,
        "called_lesion": float(np.mean(found.right)),
        "chance": {key: float(np.mean(values)) for key, values in found.chance.items()},
        "rows": rows,
        "agreement": {key: float(np.mean(values)) for key, values in found.agreement.items()},
        "beats_chance": {m: bool(v["mean"] >= 2 * luck and clearly(v, by_chance)) for m, v in ours.items()},
        "beats_control": {m: bool(clearly(v, pointing[m, CONTROL])) for m, v in ours.items()},
    }


class _Kind:
    """The maps of one kind of phantom, of the model and of its randomised control."""

    def __init__(self, classifier: Classifier, kind: str, plan: Plan):
        self.kind, self.seed = kind, plan.seed
        self.scorer = Scorer(classifier)
        self.control = Scorer(randomised(classifier, plan.seed), head_seed=plan.seed)
        cards = available(classifier, self.scorer.adapted)
        self.cards = [card for card in cards if plan.maps is None or card.key in plan.maps]
        self.class_index = CLASSES.index("lesion")
        self.rng = np.random.default_rng([plan.seed, 17])

    def measure(self, start: int, count: int, with_curves: int, found: Found) -> None:
        """Add what is found on ``count`` phantoms from number ``start``, the first ``with_curves`` with curves."""
        phantoms = [make_phantom(self.kind, True, SCENE_SEED + self.seed * 100_003 + start + i) for i in range(count)]
        records = [ImageRecord.from_pixels(f"{i}.png", p.pixels) for i, p in enumerate(phantoms)]
        drawn, trace = self._draw(records, with_curves)
        found.right += (trace.logits.argmax(-1) == self.class_index).tolist()
        first = next(iter(drawn.values()))[0]
        for i, phantom in enumerate(phantoms):
            share = covered(phantom.mask, first.box, first.values.shape)
            for name, value in _by_chance(share).items():
                found.chance.setdefault(name, []).append(value)
            maps = {key: heatmaps[i].values for key, heatmaps in drawn.items() if i < len(heatmaps)}
            maps["random", RANDOM] = self.rng.random(first.values.shape)
            results = {key: place_measures(values, share) for key, values in maps.items()}
            if i < with_curves:
                curves = curve_measures(self.scorer, trace.pixels[i], self.class_index, list(maps.values()))
                for key, more in zip(maps, curves, strict=True):
                    results[key] |= more
            for key, measures in results.items():
                for name, value in measures.items():
                    found.measures.setdefault(key, {m: [] for m in MEASURES})[name].append(value)
            self._agree(maps, found)

    def _draw(self, records: list[ImageRecord], with_curves: int) -> tuple[dict[tuple[str, str], list[Heatmap]], Trace]:
        """Every map of the model and of its control, the slow ones of the first images alone; and the model's trace."""
        drawn, traces = {}, {}
        for which, scorer in ((MAP, self.scorer), (CONTROL, self.control)):
            traces[which] = Trace(scorer, records)
            few = Trace(scorer, records[:with_curves], gradient=False) if with_curves else None
            for card in self.cards:
                trace = few if card.slow else traces[which]
                if trace is not None:
                    drawn[card.key, which] = draw(trace, MapRequest(card.key, self.class_index))
        return drawn, traces[MAP]

    def _agree(self, maps: dict[tuple[str, str], np.ndarray], found: Found) -> None:
        """Add the rank correlation of each map of one image with its control."""
        for card in self.cards:
            if (card.key, MAP) in maps:
                pair = maps[card.key, MAP].ravel(), maps[card.key, CONTROL].ravel()
                if all(np.ptp(values) > 0 for values in pair):
                    found.agreement.setdefault(card.key, []).append(float(spearmanr(*pair).statistic))


def _by_chance(share: np.ndarray) -> dict[str, float]:
    """Expected place measures of a random map, for the share of each patch that the lesion covers."""
    k = (share > 0).sum()
    shared = k * k / share.size
    return {
        "pointing": float((share > 0).mean()),
        "energy": float(share.mean()),
        "iou": float(shared / max(2 * k - shared, 1)),
    }


def _taught(backbone: Backbone, kind: str, plan: Plan, log: Callable[[str], None]) -> Classifier:
    """The classifier of one kind, with the adapter that the plan asks for."""
    example = phantom_set(kind, max(plan.shots, 1), seed=TEACH_SEED + plan.seed)
    prompt_set = PromptSet.from_dict(example.prompts).for_classes(example.classes)
    method = None
    if plan.adapter is not None:
        method = restore(backbone, load_adapter(plan.adapter, backbone.identity))
    elif plan.shots:
        log(f"{kind}: teaching on {len(example)} phantoms")
        method = make("nearl", Task(backbone, prompt_set, example))
        for _ in method.fit(method.recipe(seed=plan.seed)):
            pass
    return Classifier(backbone, prompt_set, method)


def table(result: dict) -> list[str]:
    """The result as lines of a Markdown table, with what was measured and which maps do not beat chance."""

    def cell(row: dict, name: str) -> str:
        value = row.get(name)
        if not value or not value["n"]:
            return ""
        low, high = value["interval"]
        return f"{value['mean']:.2f} ({low:.2f} to {high:.2f})"

    order = {key: i for i, key in enumerate(MAPS)}
    rows = sorted(result["rows"], key=lambda row: (order.get(row["method"], 99), row["which"] != MAP))
    names = {key: card.name for key, card in MAPS.items()} | {"random": "Random map"}
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
