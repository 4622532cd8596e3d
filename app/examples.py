"""The example images that are one click away: the list in `assets/examples`, made by `nearl.data.phantoms.kinds`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from app.html import views
from nearl.data.images import decode_picture
from nearl.prompts import PromptSet, ready_sets

SIDE, QUALITY = 80, 75  # of the small images, which are part of the page as it is loaded

# The kinds of synthetic image by the name that visitors see; first those on which teaching the embedded model has the
# largest effect. Their prompt sets are named phantom_<kind>.
KIND_NAMES = {
    "ct_slice": "Chest CT",
    "chest_xray": "Chest X-ray",
    "head_mri": "Head MRI",
    "ultrasound": "Ultrasound",
    "smear": "Blood smear",
    "skin": "Skin photograph",
}


@dataclass(frozen=True)
class Example:
    """An image with its prompts."""

    path: Path
    label: str
    prompts: dict
    """A prompt set, as the editor takes it."""
    thumb: str
    """The image, small, as a data address."""


def example_list(assets: Path) -> list[Example]:
    """The examples of `assets/examples/examples.json`, in its order."""
    folder, sets, found = assets / "examples", ready_sets(), []
    for entry in json.loads((folder / "examples.json").read_text(encoding="utf-8")):
        path = folder / entry["file"]
        label = f"{KIND_NAMES[entry['kind']]}, {'lesion' if entry['lesion'] else 'clear'}"
        prompts = PromptSet.load(sets[entry["prompts"]]).to_dict()
        found.append(Example(path, label, prompts, views.data_uri(decode_picture(path).image(), SIDE, QUALITY)))
    return found
