"""A tiny backbone that was measured: it knows red images as brain MRI and blue ones as chest X-rays."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch

from nearl.backbones import Backbone, load_backbone
from nearl.backbones.familiar import Familiar
from nearl.backbones.measured import ClassFigures, Kind, Measured, SetFigures
from nearl.data.images import ImageRecord
from nearl.methods import Frozen

RED, BLUE = (200, 40, 40), (40, 40, 200)
NAMES = {"glioma": ["brain_mri"], "meningioma": ["brain_mri"], "pneumonia": ["chest_xray"], "normal": ["chest_xray"]}


def picture(colour: tuple[int, int, int], seed: int = 0) -> ImageRecord:
    """An image of about one colour."""
    pixels = np.random.default_rng(seed).normal(colour, 12, (32, 32, 3)).clip(0, 255).astype(np.uint8)
    return ImageRecord.from_pixels(f"image {seed}", pixels)


def strange() -> ImageRecord:
    """An image unlike all others."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[::2, ::2, 1] = 255
    return ImageRecord.from_pixels("strange", pixels)


def figures(kind: str, rights: dict[str, tuple[int, int]], ece: tuple[float, float] = (0.3, 0.1)) -> SetFigures:
    """Of a ready set; ``rights``: by class, how many test images of how many were right."""
    shares = [right / n for right, n in rights.values() if n]
    classes = [ClassFigures(name=name, right=right, n=n) for name, (right, n) in rights.items()]
    accuracy = sum(shares) / len(shares)
    return SetFigures(kinds=[kind], classes=classes, balanced_accuracy=accuracy, interval=(0.4, 0.8), ece=ece)


def measured_folder(checkpoint: Path, folder: Path, temperature: float = 3.0) -> Path:
    """A copy of a checkpoint with `familiar.safetensors` and `measured.json` beside it."""
    shutil.copytree(checkpoint, folder)
    backbone = load_backbone(f"local-dir:{folder}")
    frozen = Frozen(backbone)
    embedded = {
        name: frozen.embed(frozen.pooled([picture(colour, seed) for seed in range(120)]))
        for name, colour in (("heads", RED), ("chests", BLUE))
    }
    learned = {name: rows[:80] for name, rows in embedded.items()}
    held = torch.cat([rows[80:] for rows in embedded.values()])
    Familiar.fit(learned, held).save(folder, backbone.identity["weights"])
    found = Measured(
        weights=backbone.identity["weights"],
        temperature=2.0,
        kinds={
            "brain_mri": Kind(title="brain MRI", sets=["heads"], temperature=temperature, n=40, ece=(0.3, 0.1)),
            "chest_xray": Kind(title="chest X-ray", sets=["chests"]),
        },
        sets={
            "brain_mri_tumor": figures(
                "brain_mri", {"glioma": (70, 100), "meningioma": (60, 100), "pituitary_tumor": (80, 100)}
            ),
            "chest_xray_pneumonia": figures("chest_xray", {"normal": (99, 100), "pneumonia": (3, 100)}),
        },
        names=NAMES,
    )
    found.save(folder)
    return folder


def measured_backbone(checkpoint: Path, folder: Path) -> Backbone:
    return load_backbone(f"local-dir:{measured_folder(checkpoint, folder)}")


def write_set(folder: Path, classes: dict[str, tuple[tuple[int, int, int], int]]) -> None:
    """A labelled set: so many training images of a colour for each class, and a third as many test images."""
    for number, (label, (colour, count)) in enumerate(classes.items()):
        for part, images in (("train", count), ("test", count // 3)):
            (folder / part / label).mkdir(parents=True)
            for i in range(images):
                image = picture(colour, 1000 * number + i + (500 if part == "test" else 0)).image()
                image.save(folder / part / label / f"{i:03}.png")
