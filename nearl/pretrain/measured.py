"""Measures what a pretrained backbone's untaught answers are worth, and keeps it beside the weights."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nearl.backbones import Backbone, load_backbone
from nearl.backbones.measured import ClassFigures, Kind, Measured, SetFigures, class_index
from nearl.data.images import ImageRecord, decode_picture
from nearl.data.phantoms.kinds import CLASSES, make_phantom
from nearl.errors import NearlError
from nearl.measure.evaluate import calibration_error, evaluate
from nearl.methods import Frozen
from nearl.pretrain.config import concepts_of, data_location, read_config, train_files
from nearl.prompts import PromptSet, class_key, ready_sets
from nearl.reading.claims import UNKNOWN
from nearl.reading.trust import FLOOR, pooled_temperature, softened

FEWEST = 20  # held-out images that a temperature of their own takes (our choice)
FIFTHS = 5  # parts of the images of a kind's only set, each left out once (our choice)
PHANTOMS, PHANTOM_SEED = 50, 9_000_000_000  # test phantoms of each class; their seeds are far from all others
SHARE = 0.1  # of a set's test images that have to be of a kind for the set to be for that kind too (our choice)
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"  # in the model card
Sources = list[tuple[Path | int, int]]  # file or seed of a phantom, class
Parts = list[tuple[np.ndarray, np.ndarray]]  # (probabilities [M, C], labels [M]) of each set


def note_measured(
    config_path: Path | str,
    folder: Path | str,
    data_root: Path | str | None = None,
    cache: Path | str | None = None,
    progress: Callable[[str], None] = print,
) -> Measured:
    """Measure every ready set on its test images and fit the temperatures on held-out training images; written beside
    the weights in ``folder``, and as a table into the model card there.

    ``cache``: a folder for embeddings, so that an interrupted call goes on where it was; default in the user's cache.
    Raises NearlError where config, data and backbone do not fit, or `familiar` was not run before.
    """
    config, backbone, root = read_config(config_path), load_backbone(f"local-dir:{folder}"), data_location(data_root)
    if backbone.familiar is None:
        raise NearlError(f"The kinds of image are not recorded in {folder} yet; run `python -m nearl familiar` first.")
    bench = _Bench(backbone, _cache(cache) / backbone.identity["weights"][:16], progress)
    kinds = kinds_of(config)
    held = _held_out(config, root)
    parts: dict[str, Parts] = defaultdict(list)
    ready = {name: PromptSet.load(path) for name, path in ready_sets().items()}
    for name, (sources, labels) in held.items():
        if name in ready and (known := _placed(ready[name], labels, sources)):
            parts[_kind_of(kinds, name)].append(bench.read(f"{name}-held", ready[name], known))
    usable = {key: [part for part in some if len(set(part[1].tolist())) > 1] for key, some in parts.items()}
    overall = settled([part for some in usable.values() for part in some])
    for key, some in usable.items():
        count = sum(len(labels) for _, labels in some)
        if count >= FEWEST:
            own = settled(some, single=True)
            kinds[key].temperature, kinds[key].n, kinds[key].ece = own, count, (_ece(some, 1.0), _ece(some, own))
    found = Measured(
        weights=backbone.identity["weights"], temperature=overall, kinds=kinds, sets={}, names=names_of(config, kinds)
    )
    for name, prompts in ready.items():
        if sources := _tests(name, prompts, root):
            found.sets[name] = _figures(bench, found, name, prompts, sources)
            progress(f"{name}: right in {found.sets[name].balanced_accuracy:.0%} of {found.sets[name].n}")
    found.save(folder)
    note_in_card(found, Path(folder) / "README.md")
    return found


# ---- temperatures


def settled(parts: Parts, single: bool = False) -> float:
    """The temperature of several sets, (probabilities [M, C], labels [M]) each; 1 unless what it gains is beyond chance
    (our choice).

    What it gains is by how much the log loss is smaller on sets that it was not fitted on, each left out in turn: of
    each set, or where they are of a ``single`` kind of each image; there fifths of the images are left out where there
    is one set. It has to be larger than its standard error.
    """
    if len(parts) > 1:
        turns = [([*parts[:i], *parts[i + 1 :]], [part]) for i, part in enumerate(parts)]
    else:
        turns = [_without(*part, number) for part in parts for number in range(FIFTHS)]
    gains = []
    for rest, left in turns:
        fitted = pooled_temperature(rest)
        for probabilities, labels in left:
            each = _losses(probabilities, labels, 1.0) - _losses(probabilities, labels, fitted)
            gains += each.tolist() if single else [each.mean()]
    beyond = len(gains) > 1 and np.mean(gains) > np.std(gains, ddof=1) / np.sqrt(len(gains))
    return pooled_temperature(parts) if beyond else 1.0


def _without(probabilities: np.ndarray, labels: np.ndarray, number: int) -> tuple[Parts, Parts]:
    """(the rest, one of FIFTHS random parts) of the images of a set."""
    left = np.random.default_rng(0).permutation(len(labels)) % FIFTHS == number
    return [(probabilities[~left], labels[~left])], [(probabilities[left], labels[left])]


def _losses(probabilities: np.ndarray, labels: np.ndarray, temperature: float) -> np.ndarray:
    shares = softened(probabilities, temperature)[np.arange(len(labels)), labels]
    return -np.log(np.maximum(shares.astype(np.float64), FLOOR))


# ---- the config


def kinds_of(config: dict[str, Any]) -> dict[str, Kind]:
    """The kinds of image of a config: each of its families with the sets that no earlier family has."""
    kinds: dict[str, Kind] = {}
    left = list(config["sets"])
    for key, family in config["families"].items():
        own = [s for s in left if any(fnmatchcase(s, p.split("/")[0]) for p in family["concepts"])]
        left = [name for name in left if name not in own]
        if own:
            part = any(not p.endswith("/*") for p in family["concepts"])  # of a set that has images of several kinds
            title = own[0].replace("_", " ") if part else family["scan"][0].replace("x-ray", "X-ray")
            kinds[key] = Kind(title=title, sets=own)
    return kinds


def names_of(config: dict[str, Any], kinds: dict[str, Kind]) -> dict[str, list[str]]:
    """Names of findings with real images to the kinds of these images.

    A name that is among the general words too, and not what its finding is called first, was only ever a synonym of
    something else: "pleural effusion" of pneumonia.
    """
    general = {class_key(name) for name in config.get("general") or []}
    real = [c for c in concepts_of(config) if "phantom" not in config["sets"][c.split("/")[0]]]
    found: dict[str, set[str]] = defaultdict(set)
    for finding in config["findings"].values():
        shown = [c for c in real if any(fnmatchcase(c, pattern) for pattern in finding["true_of"])]
        where = {_kind_of(kinds, concept.split("/")[0]) for concept in shown}
        forms = [
            [class_key(str(name)) for name in finding.get(form) or []] for form in ("names", "qualities", "statements")
        ]
        first = {form[0] for form in forms[:2] if form}
        for name in dict.fromkeys(name for form in forms for name in form):
            if where and (name not in general or name in first):
                found[name] |= where
    return {name: sorted(found[name]) for name in sorted(found)}


def _kind_of(kinds: dict[str, Kind], name: str) -> str:
    return next((key for key, kind in kinds.items() if name in kind.sets), "")


def _held_out(config: dict[str, Any], root: Path) -> dict[str, tuple[list[Path | int], list[str]]]:
    """By set, the held-out training images and their labels."""
    concepts = [concept.split("/") for concept in concepts_of(config)]
    found: dict[str, tuple[list[Path | int], list[str]]] = {}
    for source, index in train_files(config, root)[1]:
        name, label = concepts[index]
        sources, labels = found.setdefault(name, ([], []))
        sources.append(source)
        labels.append(label)
    return found


def _placed(prompts: PromptSet, labels: Sequence[str], sources: Sequence[Path | int]) -> Sources:
    places = {label: class_index(prompts.classes, label) for label in set(labels)}
    return [(s, places[label]) for s, label in zip(sources, labels, strict=True) if places[label] is not None]  # type: ignore[misc]


def _tests(name: str, prompts: PromptSet, root: Path) -> Sources:
    """The test images of a ready set, from the folder of its name, or phantoms."""
    if prompts.synthetic:
        each = range(PHANTOM_SEED, PHANTOM_SEED + PHANTOMS)
        return _placed(prompts, [label for label in CLASSES for _ in each], [seed for _ in CLASSES for seed in each])
    files = sorted(p for p in (root / name / "test").glob("*/*") if p.is_file() and not p.name.startswith("."))
    return _placed(prompts, [path.parent.name for path in files], files)


# ---- reading


class _Bench:
    """A backbone with its embeddings of images, kept in a folder."""

    def __init__(self, backbone: Backbone, folder: Path, progress: Callable[[str], None]):
        self.backbone, self.folder, self.progress = backbone, folder, progress
        self.folder.mkdir(parents=True, exist_ok=True)
        self.frozen = Frozen(backbone, 1)

    def read(self, key: str, prompts: PromptSet, sources: Sources) -> tuple[np.ndarray, np.ndarray]:
        """(probabilities [N, C], labels [N]) of images with these prompts, before calibration."""
        images = self.images(key, prompts, sources)
        logits = self.backbone.logit_scale.cpu() * images @ self.frozen.classes(prompts).cpu().float().T
        return logits.softmax(-1).numpy(), np.array([label for _, label in sources])

    def images(self, key: str, prompts: PromptSet, sources: Sources) -> Tensor:
        """Unit embeddings [N, E], from the folder where they are there."""
        name = prompts.name.removeprefix("phantom_")
        listed = sha256("\n".join(f"{source} {label}" for source, label in sources).encode()).hexdigest()
        path = self.folder / f"{key}.safetensors"
        try:
            with safe_open(path, "pt") as kept:
                if (kept.metadata() or {}).get("listed") == listed:
                    return kept.get_tensor("images")
        except (OSError, SafetensorError):
            pass
        self.progress(f"{key}: {len(sources)} images")
        found = []
        for start in range(0, len(sources), 32):
            records = [
                self._record(source, name, prompts.classes[label]) for source, label in sources[start : start + 32]
            ]
            with torch.no_grad():
                found.append(self.frozen.embed(self.frozen.pooled(records)).float().cpu())
        images = torch.cat(found).contiguous()
        save_file({"images": images}, path, metadata={"listed": listed})
        return images

    @staticmethod
    def _record(source: Path | int, kind: str, label: str) -> ImageRecord:
        if isinstance(source, Path):
            return decode_picture(source)
        return ImageRecord.from_pixels(str(source), make_phantom(kind, label == CLASSES[1], source).pixels)


def _figures(bench: _Bench, found: Measured, name: str, prompts: PromptSet, sources: Sources) -> SetFigures:
    probabilities, labels = bench.read(f"{name}-test", prompts, sources)
    familiar = bench.backbone.familiar
    apart = familiar.apart(bench.images(f"{name}-test", prompts, sources))  # type: ignore[union-attr]
    each = [found.kind_of(familiar.names[i]) for i in apart.argmin(1).tolist()]  # type: ignore[union-attr]
    unlike = (apart.amin(1) > familiar.far).tolist()  # type: ignore[union-attr]
    read_as = [UNKNOWN if far else kind for far, kind in zip(unlike, each, strict=True)]  # as when an image is read
    counts = Counter(each)
    kinds = [kind for kind, count in counts.most_common() if count >= SHARE * len(each)]
    after = softened(probabilities, np.array([[found.temperature_of(kind)] for kind in read_as]))
    figures = evaluate(probabilities, labels, classes=prompts.classes)
    return SetFigures(
        kinds=kinds,
        classes=[ClassFigures(name=row["class"], right=row["right"], n=row["n"]) for row in figures["recall"]],
        balanced_accuracy=figures["balanced_accuracy"],
        interval=tuple(figures["balanced_accuracy_interval"]),
        ece=(figures["ece"], calibration_error(after, labels)),
    )


def _ece(parts: Parts, temperature: float) -> float:
    sizes = np.array([len(labels) for _, labels in parts])
    each = [calibration_error(softened(probabilities, temperature), labels) for probabilities, labels in parts]
    return float((sizes * each).sum() / sizes.sum())


def _cache(folder: Path | str | None) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(folder) if folder else home / "nearl"


# ---- the card


def table(found: Measured) -> list[str]:
    """The figures of all sets as a table in Markdown."""
    lines = [
        "| ready prompts | test images | balanced accuracy (95 %) | chance | headline | ECE before / after |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in sorted(found.sets.items(), key=lambda item: item[0]):
        low, high = row.interval
        shown = "a guess" if row.guess else "shown"
        if len(row.tested) < 2:
            shown = f"a guess: only {', '.join(row.tested)} tested"
        lines.append(
            f"| `{name}` | {row.n} | {row.balanced_accuracy:.0%} ({low:.0%} to {high:.0%}) | {row.chance:.0%} "
            f"| {shown} | {row.ece[0]:.2f} / {row.ece[1]:.2f} |"
        )
    lines += [
        "",
        "| kind of image | held-out training images | temperature | ECE on them before / after |",
    ]
    lines.append("| --- | --- | --- | --- |")
    for kind in found.kinds.values():
        if kind.ece is not None:
            lines.append(
                f"| {kind.title} | {kind.n} | {kind.temperature:.2f} | {kind.ece[0]:.2f} / {kind.ece[1]:.2f} |"
            )
    return [*lines, f"| all others | | {found.temperature:.2f} | |"]


def note_in_card(found: Measured, card: Path) -> None:
    """Write the table into a model card, in the place of an earlier one; nothing where there is no card."""
    if not card.is_file():
        return
    text = card.read_text(encoding="utf-8")
    if BEGIN not in text:
        text = f"{text.rstrip()}\n\n## Answers before teaching\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    card.write_text("\n".join([f"{before}{BEGIN}", *table(found), f"{END}{after}"]), encoding="utf-8")
