"""Labelled sets of synthetic chest radiographs: the twelve findings, and two that are kinds of others."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from nearl.data.formats.volume import Scan as Volume
from nearl.data.phantoms.thorax.findings import FINDINGS, NAMES
from nearl.data.phantoms.thorax.study import Scan, drawn, make_scan, make_study
from nearl.data.records import SYNTHETIC, ImageRecord
from nearl.data.sets.findings import FindingsSet
from nearl.errors import NearlError
from nearl.prompts import FINDINGS as KIND
from nearl.prompts import PromptSet

GROUPS = {  # present where one of them is
    "pleural effusion": ("right effusion", "left effusion"),
    "consolidation": ("upper lobe consolidation", "lower lobe consolidation"),
}
ALL = (*NAMES, *GROUPS)
SIDE = 224  # pixels of a radiograph
NOTE = "SYNTHETIC chest radiograph: a made-up picture of no patient. Not for diagnosis."


def thorax_prompts() -> PromptSet:
    """Prompts for the findings, and the rules that say which are kinds of others."""
    entries = []
    for name in ALL:
        noun = FINDINGS[name].noun if name in FINDINGS else name
        there = [f"a chest X-ray with {noun}", f"there is {noun}"]
        entries.append({"name": name, "prompts": there, "absent": [f"a chest X-ray without {noun}", f"no {noun}"]})
    rules = [f"{part} is a kind of {whole}" for whole, parts in GROUPS.items() for part in parts]
    about = "Findings of the synthetic chest radiographs."
    return PromptSet.from_dict(
        {
            "name": "phantom_thorax",
            "kind": KIND,
            "description": about,
            "synthetic": True,
            "classes": entries,
            "rules": rules,
        }
    )


def thorax_set(count: int, seed: int = 0, view: str = "frontal", size: int = 96, first: int = 0) -> FindingsSet:
    """`count` radiographs with their findings, each of another chest: those from `first` on of the sequence of a seed.

    `size`: voxels to each side of the volumes that are projected. NearlError as `make_scan`.
    """
    records, labels = [], []
    for name, pixels, findings in _each(count, seed, view, size, first):
        records.append(ImageRecord.from_pixels(name, np.repeat(pixels[:, :, None], 3, axis=2), (SYNTHETIC,)))
        labels.append(tuple(2 * k + (f not in findings) for k, f in enumerate(ALL)))
    prompts = thorax_prompts()
    return FindingsSet(
        list(prompts.classes), records, labels, name=prompts.name, prompts=prompts.to_dict(), synthetic=True, ours=True
    )


def write_thorax_folder(
    path: Path | str, train: int, test: int, seed: int = 0, view: str = "frontal", size: int = 96
) -> Path:
    """Write images/*.png, labels.csv (file, split and a column for each finding) and prompts.json; returns the folder.

    NearlError if a count is below 1 or the folder already holds something.
    """
    path = _empty(path, train, test)
    (path / "images").mkdir(parents=True)
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", NOTE)
    with (path / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "split", *ALL])
        for number, (name, pixels, findings) in enumerate(_each(train + test, seed, view, size, 0)):
            Image.fromarray(pixels).save(path / "images" / name, pnginfo=info, optimize=True)
            marks = [int(finding in findings) for finding in ALL]
            table.writerow([f"images/{name}", "train" if number < train else "test", *marks])
    thorax_prompts().save(path / "prompts.json")
    return path


def write_thorax_volumes(path: Path | str, train: int, test: int, seed: int = 0, size: int = 64) -> Path:
    """Write volumes/*.nii.gz, labels.csv (file, split, a column for each of the twelve findings, and the report) and
    prompts.json; returns the folder.

    NearlError as `write_thorax_folder` and `make_scan`.
    """
    import nibabel

    path = _empty(path, train, test)
    (path / "volumes").mkdir(parents=True)
    with (path / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "split", *NAMES, "report"])
        for number in range(train + test):
            study = make_study(seed * 1_000_003 + number, size=size)
            name, side = f"volumes/thorax_{number:04d}.nii.gz", -study.current.spacing
            image = nibabel.Nifti1Image(study.current.volume.transpose(2, 1, 0), np.diag([side, side, side, 1]))
            image.header.set_xyzt_units("mm")
            nibabel.save(image, path / name)
            marks = [*map(int, study.findings.values()), study.report.text]
            table.writerow([name, "train" if number < train else "test", *marks])
    volume_prompts().save(path / "prompts.json")
    return path


def volume_prompts() -> PromptSet:
    """Prompts for the twelve findings of a volume, as reports and their summaries write them."""
    entries = [
        {"name": n, "prompts": [f"There is {f.noun}."], "absent": [f"There is no {f.noun}."]}
        for n, f in FINDINGS.items()
    ]
    about = "Findings of the synthetic chest volumes."
    return PromptSet.from_dict(
        {"name": "phantom_thorax_volumes", "kind": KIND, "description": about, "synthetic": True, "classes": entries}
    )


def volume_record(scan: Scan) -> ImageRecord:
    """A scan as a decoded CT."""
    count, side = len(scan.volume), scan.spacing
    axes = np.array([[0.0, 0, -1], [0, 1, 0], [1, 0, 0]])  # slices to the feet, rows to the back, columns to the left
    ones = np.ones((1, count))
    ct = Volume(scan.volume[None], ones, 0 * ones, "CT", (side, side, side), axes)
    return ImageRecord.from_scan(f"thorax_{scan.seed}", ct)


def _empty(path: Path | str, train: int, test: int) -> Path:
    """The folder to write to. NearlError if a count is below 1 or the folder already holds something."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise NearlError(f"{path.name} already exists and is not an empty folder; choose another place.")
    if min(train, test) < 1:
        raise NearlError(f"The number of studies must be at least 1, not {min(train, test)}.")
    return path


def _each(count: int, seed: int, view: str, size: int, first: int) -> Iterator[tuple]:
    """(file name, pixels, its findings) of each radiograph."""
    for number in range(first, first + count):
        own = seed * 1_000_003 + number
        found = drawn(own)
        found += [whole for whole, parts in GROUPS.items() if set(parts) & set(found)]
        scan = make_scan(own, [name for name in found if name in FINDINGS], size)
        yield f"thorax_{number:04d}.png", scan.project(view, SIDE), found
