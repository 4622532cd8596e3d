"""The sets that the embedded backbone is measured on, and the features that networks make of them, computed once."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import yaml

from nearl.backbones import Backbone, load_backbone
from nearl.backbones.embedded import LiteStem
from nearl.data.images import ImageRecord
from nearl.data.sets.labelled import LabelledSet, resolve_splits
from nearl.pretrain.model import imagenet_weights
from nearl.prompts import PromptSet, class_key, ready_sets

FIRST = (  # the sets that earlier versions learned from too
    "brain_mri_tumor", "chest_xray_pneumonia", "lung_ct", "breast_ultrasound", "blood_wbc", "knee_xray_oa",
    "oral_histology", "cervical_cytology",
)  # fmt: skip
SINCE = (
    "blood_cells_pbc", "dermoscopy_isic2017", "chest_xray_adult", "chest_xray_covid19", "brain_mri_healthy",
    "brain_mri_lesions", "colonoscopy_polyp", "foot_ulcer", "liver_ct", "mammography_ddsm", "cardiac_mri",
    "thyroid_ultrasound", "octa_plexus", "bone_fracture_xray", "ultrasound_anatomy",
)  # fmt: skip
LEARNED = (*FIRST, *SINCE)
KEPT_FIRST = (
    "dermoscopy_melanoma", "skin_lesion_clinical", "colon_histology", "osteosarcoma_histology", "malaria_cells",
    "leukocytes_aml",
)  # fmt: skip
KEPT_SINCE = ("breast_histology", "prostate_histology", "mammography_mias", "malaria_cells_gray", "medpix_captions")
KEPT_OUT = (*KEPT_FIRST, *KEPT_SINCE)  # those with two or more classes
ONE_CLASS = ("fundus_idrid", "retina_vessels")  # kept out, and of a kind that was never taught
# Balanced accuracy of a logistic regression on HOG and colour histograms of all training images, and of one on width,
# height, bytes, mode and border alone (shortcuts), from the notes that came with the data.
HOG = {
    "brain_mri_tumor": 0.82, "chest_xray_pneumonia": 0.93, "lung_ct": 0.45, "breast_ultrasound": 0.59,
    "blood_wbc": 0.50, "knee_xray_oa": 0.44, "oral_histology": 0.59, "cervical_cytology": 0.49,
    "blood_cells_pbc": 0.66, "chest_xray_adult": 0.87, "dermoscopy_isic2017": 0.48, "cardiac_mri": 0.36,
    "thyroid_ultrasound": 0.52, "brain_mri_healthy": 1.0, "octa_plexus": 1.0, "bone_fracture_xray": 0.66,
    "brain_mri_lesions": 1.0, "ultrasound_anatomy": 1.0, "mammography_ddsm": 0.69,
}  # fmt: skip
SHORTCUTS = {
    "blood_cells_pbc": 0.29, "chest_xray_adult": 0.71, "dermoscopy_isic2017": 0.44, "cardiac_mri": 0.33,
    "thyroid_ultrasound": 0.47, "brain_mri_healthy": 0.79, "octa_plexus": 0.94, "bone_fracture_xray": 0.74,
    "brain_mri_lesions": 1.0, "ultrasound_anatomy": 1.0, "mammography_ddsm": 0.44,
}  # fmt: skip
OTHER_NAMES = {"covid19": "COVID-19", "liver": "abdomen_with_liver"}  # of classes, in the ready prompt sets
ASKED = yaml.safe_load((Path(__file__).parent / "rewordings.yaml").read_text(encoding="utf-8"))
BATCH = 16


def prompts_of(name: str, classes: Sequence[str]) -> tuple[PromptSet, list[int]]:
    """The ready prompt set, and the number of each of the `classes` in it."""
    prompts = PromptSet.load(ready_sets()[name])
    numbers = {class_key(label): i for i, label in enumerate(prompts.classes)}
    return prompts, [numbers[class_key(OTHER_NAMES.get(label, label))] for label in classes]


@dataclass(frozen=True)
class Network:
    """Images -> features."""

    name: str
    build: Callable[[], Callable[[Sequence[ImageRecord]], np.ndarray]]
    """A function from up to `BATCH` images to [B, D]; called if features are missing."""

    @classmethod
    def of(cls, backbone: Backbone) -> Network:
        """The mean of the last layer's patch tokens, before the projection."""
        return cls(backbone.identity["weights"][:16], lambda: _pooled(backbone))

    @classmethod
    def random(cls, seed: int) -> Network:
        """The same of a tower with random weights."""
        return cls(f"random-{seed}", lambda: _pooled(load_backbone("embedded", weights="random", seed=seed)))

    @classmethod
    def imagenet(cls, backbone: Backbone) -> Network:
        """The mean over places of EfficientNet-Lite0's sixth stage, with ImageNet weights."""
        return cls("imagenet", lambda: _imagenet(backbone))


def _pixels(backbone: Backbone, records: Sequence[ImageRecord]) -> torch.Tensor:
    return backbone.pixels([record.image() for record in records]).to(memory_format=torch.channels_last)


def _pooled(backbone: Backbone) -> Callable[[Sequence[ImageRecord]], np.ndarray]:
    trunk = backbone.model.visual.trunk
    return lambda records: trunk.forward_features(_pixels(backbone, records))[:, 1:].mean(1).numpy()


def _imagenet(backbone: Backbone) -> Callable[[Sequence[ImageRecord]], np.ndarray]:
    stem = LiteStem().eval()
    own = stem.state_dict()
    stem.load_state_dict(dict(zip(own, list(imagenet_weights().values())[: len(own)], strict=True)))
    shift = lambda x: (x * 127.5 + 0.5) / 128  # noqa: E731  from (x - 127.5) / 127.5 to (x - 127) / 128
    return lambda records: stem(shift(_pixels(backbone, records))).mean((2, 3)).numpy()


class Store:
    """Classes, labels and features of the sets, kept in a folder, so that an interrupted run goes on where it was."""

    def __init__(self, data: Path, folder: Path):
        self.data, self.folder = data, folder
        self.read = lru_cache(maxsize=2)(lambda name: resolve_splits(data / name, fewest=1))

    def about(self, name: str) -> dict:
        """{"classes", "train": labels, "test": labels} of a set."""
        path = self.folder / "sets" / f"{name}.json"
        if not path.is_file():
            train, test = self.read(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"classes": test.classes, "train": train.labels, "test": test.labels}))
        return json.loads(path.read_text())

    def part(self, name: str, part: str) -> LabelledSet:
        """The images, "train" or "test"."""
        return self.read(name)[part == "test"]

    def features(self, network: Network, name: str, rows: Sequence[int] | None = None) -> np.ndarray:
        """[N, D] float32 of a set's test images, or of the training images `rows`."""
        path = self.folder / network.name / f"{name}-{'test' if rows is None else len(rows)}.npy"
        if path.is_file():
            return np.load(path)
        some = self.part(name, "test") if rows is None else self.part(name, "train").subset(rows)
        found, encode = [], _built(network)
        with torch.inference_mode():
            for start in range(0, len(some), BATCH):
                found.append(encode(some.records[start : start + BATCH]))
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.concatenate(found).astype(np.float32))
        print(f"{network.name}: {len(some)} images of {name}", flush=True)
        return np.load(path)


@lru_cache(maxsize=8)
def _built(network: Network) -> Callable[[Sequence[ImageRecord]], np.ndarray]:
    return network.build()
