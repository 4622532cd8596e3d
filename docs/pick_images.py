"""How the real example images and tasks of the app were chosen: by seed, from images that nothing was trained on.

    python docs/pick_images.py [DATA]

Writes the images to assets/examples, the tasks to assets/tasks (a zip with train/ and test/ each), and
assets/images.txt: sha256, name in this repository and source of every image. DATA: folder of the sets (default:
NEARL_DATA, else ../shared/data).
"""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np

from nearl.data.images import decode_one
from nearl.pretrain.config import data_location
from nearl.resources import ASSETS

EXAMPLES = (
    "brain_mri_tumor/glioma",
    "brain_mri_tumor/meningioma",
    "brain_mri_tumor/pituitary_tumor",
    "chest_xray_pneumonia/normal",
    "chest_xray_pneumonia/pneumonia",
    "lung_ct/malignant",
    "lung_ct/normal",
    "blood_cells_pbc/eosinophil",
    "blood_cells_pbc/neutrophil",
    "blood_wbc/lymphocyte",
    "cervical_cytology/high_grade_lesion",
    "cervical_cytology/negative_for_lesion",
    "colon_histology/adenocarcinoma",
    "colon_histology/adipose",
    "dermoscopy_isic2017/melanoma",
    "dermoscopy_isic2017/nevus",
    "breast_histology/malignant",
    "bone_fracture_xray/fracture",
)
VOLUME = "nifti/chest_ct_lidc.nii.gz"
PER_CLASS = 24  # images to teach with, and as many to measure on


def patient(pattern: str) -> Callable[[Path], str]:
    return lambda path: re.match(pattern, path.name).group(1)


# set -> (classes, splits to teach from and to measure on, whose image it is). Of sets that the embedded model was
# pretrained on, test images alone.
TASKS = {
    "malaria_cells_gray": (("parasitized", "uninfected"), ("train", "test"), None),
    "skin_lesion_clinical": (("basal_cell_carcinoma", "nevus", "seborrheic_keratosis"), ("train", "test"), None),
    "dermoscopy_isic2017": (("melanoma", "nevus", "seborrheic_keratosis"), ("test", "test"), None),
    "chest_xray_pneumonia": (("normal", "pneumonia"), ("test", "test"), patient(r"(?:NORMAL\d-)?(IM-\d+|person\d+)")),
}


def drawn(name: str, files: list[Path]) -> list[Path]:
    """The files in an order that depends on the name alone."""
    seed = int(sha256(name.encode()).hexdigest()[:8], 16)
    return [files[i] for i in np.random.default_rng(seed).permutation(len(files))]


def images(data: Path, name: str, split: str, label: str) -> list[Path]:
    return sorted(path for path in (data / name / split / label).glob("*.jpg"))


def pick_task(data: Path, name: str) -> list[tuple[str, Path]]:
    """(name in the zip, file) of every image; where both parts come from one split, no patient is in both."""
    classes, (first, second), whose = TASKS[name]
    picked = []
    for label in classes:
        teach = drawn(f"{name}/{label}/teach", images(data, name, first, label))[:PER_CLASS]
        taken = {whose(path) for path in teach} if whose else set()
        rest = [
            path
            for path in images(data, name, second, label)
            if path not in teach and not (whose and whose(path) in taken)
        ]
        measured = drawn(f"{name}/{label}/measure", rest)[:PER_CLASS]
        if min(len(teach), len(measured)) < PER_CLASS:
            raise SystemExit(f"{name}/{label}: {len(teach)} and {len(measured)} images, {PER_CLASS} each are needed")
        picked += [(f"train/{label}/{path.name}", path) for path in teach]
        picked += [(f"test/{label}/{path.name}", path) for path in measured]
    return picked


def main() -> None:
    data = data_location(sys.argv[1] if len(sys.argv) > 1 else None)
    lines = []

    def note(place: str, path: Path) -> None:
        lines.append(f"{sha256(path.read_bytes()).hexdigest()}  {place}  {path.relative_to(data).as_posix()}")

    for entry in EXAMPLES:
        name, label = entry.split("/")
        path = drawn(entry, images(data, name, "test", label))[0]
        target = ASSETS / "examples" / f"{name}_{label}.jpg"
        target.write_bytes(path.read_bytes())
        note(f"examples/{target.name}", path)
    volume = ASSETS / "examples" / Path(VOLUME).name
    volume.write_bytes((data / VOLUME).read_bytes())
    note(f"examples/{volume.name}", data / VOLUME)
    decode_one(volume).image().resize((160, 160)).save(volume.with_name("chest_ct_lidc.jpg"), quality=85)  # to press on
    (ASSETS / "tasks").mkdir(exist_ok=True)
    for name in TASKS:
        with zipfile.ZipFile(ASSETS / "tasks" / f"{name}.zip", "w", zipfile.ZIP_STORED) as out:
            for place, path in pick_task(data, name):
                out.writestr(zipfile.ZipInfo(place), path.read_bytes())
                note(f"tasks/{name}.zip/{place}", path)
    (ASSETS / "images.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
