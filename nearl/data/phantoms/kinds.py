"""Phantoms: synthetic images in the style of six modalities, with and without a lesion whose mask is known exactly.

For examples, tests and measurements. They show no patient and teach nothing about disease; files written here say so
in a PNG text chunk, and a page that shows one must label it as synthetic.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

from nearl.data.phantoms import anatomy
from nearl.data.phantoms.brushes import Painted
from nearl.data.phantoms.skin import skin
from nearl.data.phantoms.smear import smear
from nearl.data.records import SYNTHETIC, ImageRecord
from nearl.data.sets.labelled import LabelledSet
from nearl.errors import NearlError
from nearl.prompts import PromptSet, default_prompts, ready_sets


class Kind(NamedTuple):
    """One kind of phantom."""

    paint: Callable[..., Painted]
    title: str
    lesion: str  # what the lesion is called


_KINDS = {  # the place in this list is part of the seed, so that the order must not change
    "head_mri": Kind(anatomy.head_mri, "head MRI, axial slice", "lesion"),
    "chest_xray": Kind(anatomy.chest_xray, "chest X-ray, frontal view", "lung opacity"),
    "ct_slice": Kind(anatomy.ct_slice, "chest CT, axial slice", "lung nodule"),
    "ultrasound": Kind(anatomy.ultrasound, "breast ultrasound", "mass"),
    "smear": Kind(smear, "blood smear", "parasite in a red cell"),
    "skin": Kind(skin, "skin photograph", "pigmented lesion"),
}
KINDS = tuple(_KINDS)
CLASSES = ("no lesion", "lesion")
MIN_SIZE, MAX_SIZE = 64, 2048
_EXAMPLES = (  # kind, lesion, seed: picked by eye
    ("head_mri", True, 8),
    ("head_mri", False, 9),
    ("chest_xray", True, 4),
    ("chest_xray", False, 1),
    ("ct_slice", True, 9),
    ("ultrasound", True, 5),
    ("smear", True, 2),
    ("smear", False, 4),
    ("skin", True, 1),
)


@dataclass(frozen=True, eq=False)
class Phantom:
    """One synthetic image."""

    kind: str
    pixels: np.ndarray = field(repr=False)  # uint8 [H, W, 3]; grey kinds repeat one channel
    mask: np.ndarray = field(repr=False)  # bool [H, W]: the lesion
    has_lesion: bool
    caption: str  # one line with kind, place, size, shape and brightness
    details: dict  # facts of the kind; of a lesion "place", "size", "shape", "brightness", "centre" and "area" (pixels)


def make_phantom(kind: str, lesion: bool, seed: int, size: int = 224) -> Phantom:
    """Draw one phantom of size x size pixels; the same arguments always give the same image.

    With and without a lesion, the same seed gives the same scene and noise: only the lesion differs, including its soft
    border and, in ultrasound, the shadow or brightness behind it.

    Raises NearlError for an unknown kind, a negative seed, or a size outside 64 to 2048.
    """
    if kind not in KINDS:
        raise NearlError(f"There is no phantom “{kind}”; choose one of {', '.join(KINDS)}.")
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise NearlError(f"The size of a phantom must be {MIN_SIZE} to {MAX_SIZE} pixels, not {size}.")
    if seed < 0:
        raise NearlError(f"The seed must be 0 or more, not {seed}.")
    number = KINDS.index(kind)
    scene = np.random.default_rng([number, seed, 0])
    extra = np.random.default_rng([number, seed, 1]) if lesion else None
    image, mask, details = _KINDS[kind].paint(scene, extra, size)
    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    _, title, name = _KINDS[kind]
    caption = f"synthetic {title}, no {name}"
    if lesion:
        details = {**details, **measure(mask)}
        words = " ".join(details[key] for key in ("size", "shape", "brightness"))
        article = "an" if words[0] in "aeiou" else "a"
        caption = f"synthetic {title}, {article} {words} {name} in the {details['place']} of the picture"
    return Phantom(kind, pixels, mask, lesion, caption, details)


def phantom_set(kind: str, per_class: int, seed: int = 0, size: int = 224) -> LabelledSet:
    """`per_class` phantoms of each class, 0 "no lesion" and 1 "lesion", all of different scenes."""
    return _labelled(kind, 0, per_class, seed, size)


def write_phantom_folder(
    path: Path | str, kind: str, train: int = 32, test: int = 16, seed: int = 0, size: int = 224
) -> Path:
    """Write train/<class>/*.png, test/<class>/*.png (that many per class) and prompts.json; returns the folder.

    Raises NearlError as make_phantom does, if a count is below 1 or if the folder already holds something.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise NearlError(f"{path.name} already exists and is not an empty folder; choose another place.")
    splits = {"train": _labelled(kind, 0, train, seed, size), "test": _labelled(kind, train, test, seed, size)}
    for split, images in splits.items():
        for record, label in zip(images.records, images.labels, strict=True):
            folder = path / split / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            _save(record.pixels, folder / record.name, kind)
    _prompts(kind).save(path / "prompts.json")
    return path


def write_examples(folder: Path | str) -> None:
    """Write the example images of the app, 224 x 224 PNG, and synthetic.json, which lists them.

    Each entry: "file", "kind", "title" in plain words, "lesion", "prompts" (name of the ready prompt set).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for kind, lesion, seed in _EXAMPLES:
        phantom = make_phantom(kind, lesion, seed)
        name = f"{kind}_{'lesion' if lesion else 'clear'}.png"
        _save(phantom.pixels, folder / name, kind, colours=128)
        title = f"{_KINDS[kind].title.split(',')[0]}, {'with a ' if lesion else 'no '}{_KINDS[kind].lesion} (made up)"
        entries.append(
            {
                "file": name,
                "kind": kind,
                "title": title[0].upper() + title[1:],
                "lesion": lesion,
                "prompts": f"phantom_{kind}",
            }
        )
    text = json.dumps(entries, ensure_ascii=False, indent=2) + "\n"
    (folder / "synthetic.json").write_text(text, encoding="utf-8")


def _labelled(kind: str, first: int, per_class: int, seed: int, size: int) -> LabelledSet:
    """Scenes from 2 * first onwards of the endless sequence of (kind, seed); even ones have no lesion."""
    if per_class < 1:
        raise NearlError(f"The number of phantoms per class must be at least 1, not {per_class}.")
    records, labels = [], []
    for label, word in enumerate(("clear", "lesion")):
        for index in range(first, first + per_class):
            phantom = make_phantom(kind, bool(label), seed * 1_000_003 + 2 * index + label, size)
            records.append(ImageRecord.from_pixels(f"{kind}_{word}_{index:04d}.png", phantom.pixels, (SYNTHETIC,)))
            labels.append(label)
    prompts = _prompts(kind).to_dict()
    name = f"phantom_{kind}"
    return LabelledSet(list(CLASSES), records, labels, name=name, prompts=prompts, synthetic=True, ours=True)


def _prompts(kind: str) -> PromptSet:
    ready = ready_sets().get(f"phantom_{kind}")
    return PromptSet.load(ready) if ready else default_prompts(CLASSES)


def measure(mask: np.ndarray) -> dict:
    """Place and size in words, centre (x, y) and area in pixels of a lesion. mask: bool [H, W], not empty."""
    rows, cols = np.nonzero(mask)
    side = mask.shape[0]
    x, y = float(cols.mean()), float(rows.mean())
    down = "upper" if y < side * 0.4 else "lower" if y > side * 0.6 else "middle"
    across = "left" if x < side * 0.45 else "right" if x > side * 0.55 else "centre"
    place = "centre" if (down, across) == ("middle", "centre") else f"{down} {across}"
    extent = float(np.sqrt(mask.sum() / np.pi) / side)  # radius of the disc of the same area
    word = "small" if extent < 0.045 else "medium-sized" if extent < 0.075 else "large"
    return {"place": place, "size": word, "centre": (round(x, 1), round(y, 1)), "area": int(mask.sum())}


def _save(pixels: np.ndarray, path: Path, kind: str, colours: int | None = None) -> None:
    """Write a PNG with a text chunk that says what it is: grey as one channel, colour as a palette if `colours`."""
    coloured = bool(np.ptp(pixels, axis=2).any())
    picture = Image.fromarray(pixels if coloured else pixels[:, :, 0])
    if coloured and colours:
        picture = picture.quantize(colours, dither=Image.Dither.NONE)
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", f"SYNTHETIC {_KINDS[kind].title}: a made-up picture of no patient. Not for diagnosis.")
    picture.save(path, pnginfo=info, optimize=True)
