"""What is one click away: example images (`assets/examples`) and labelled tasks (`assets/tasks`).

The real ones come first, with the credit that their licences ask for; then the synthetic ones, whose lesion is known.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from app.context import load_ready_prompts, shown_name
from app.html import views
from nearl.data.images import decode_picture
from nearl.data.sets.labelled import LabelledSet, resolve_splits
from nearl.resources import ASSETS

MISREAD = "Before teaching the model misreads it: teach it and see what changes."
GUESS = (
    "It is here to show what the model does not know: it calls its answer a guess, right or not, and the reading says "
    "why."
)
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
    synthetic: bool
    credit: str = ""
    """Of a real image: its label in the source, whose it is, and its licence."""


def example_list(assets: Path = ASSETS) -> list[Example]:
    """The real examples of `assets/examples/examples.json`, then those of `synthetic.json`, in their order."""
    return [
        *_listed(assets / "examples", "examples.json", False),
        *_listed(assets / "examples", "synthetic.json", True),
    ]


def _listed(folder: Path, name: str, synthetic: bool) -> Iterator[Example]:
    sets = load_ready_prompts()
    for entry in json.loads((folder / name).read_text(encoding="utf-8")):
        path = folder / entry["file"]
        label, credit = entry.get("label", ""), entry.get("credit", "")
        if synthetic:
            label = f"{KIND_NAMES[entry['kind']]}, {'lesion' if entry['lesion'] else 'clear'}"
        else:
            said = f"Label in the source: {shown_name(entry['class'])}. " if entry["class"] else ""
            misread = f" {MISREAD}" if "read" in entry else ""
            guess = f" {GUESS}" if entry.get("guess") else ""
            credit = f"{said}{credit}.{guess or misread}"
        prompts = sets[entry["prompts"]]
        thumb = views.data_uri(decode_picture(folder / entry.get("thumb", entry["file"])).image(), SIDE, QUALITY)
        yield Example(path, label, prompts, thumb, synthetic, credit)


@dataclass(frozen=True)
class Task:
    """A labelled set to teach with, and other images to measure on."""

    label: str
    """As it reads in a list of choices."""
    synthetic: bool
    kind: str = ""
    """Of a synthetic task."""
    path: Path | None = None
    """Of a real one, a zip."""
    prompts: str = ""
    """Name of the ready prompt set of a real one."""
    credit: str = ""
    per_class: int = 0
    """Images of each class of a real one to teach with, and as many to measure on."""

    @property
    def name(self) -> str:
        """The name of its images as a set."""
        return f"{'Synthetic example' if self.synthetic else 'Example'}, {self.label}"

    def about(self, learn: int, check: int) -> str:
        """What the task is, in a sentence or two; arguments as of `images`."""
        if self.synthetic:
            return f"Synthetic: {learn} images of each class to learn from, {check} others to measure on."
        images = f"{self.per_class} images of each class to learn from, {self.per_class} others to measure on"
        return f"Real: {images}. {self.credit}"

    def images(self, learn: int, check: int) -> tuple[LabelledSet, LabelledSet]:
        """The images to teach with and those to measure on. A synthetic task has `learn` and `check` of each class; a
        real one has as many as it has."""
        if self.path is None:
            from nearl.data.phantoms.kinds import phantom_set

            found = phantom_set(self.kind, learn, seed=1), phantom_set(self.kind, check, seed=2)
        else:
            found = resolve_splits(self.path)
        for part in found:
            part.name, part.ours = self.name, True
            part.classes = [shown_name(name) for name in part.classes]
        if self.prompts:
            found[0].prompts = load_ready_prompts()[self.prompts]
        return found


@lru_cache(maxsize=1)
def tasks() -> dict[str, Task]:
    """The tasks by their keys, real ones first, in the order of `assets/tasks/tasks.json`."""
    folder, found = ASSETS / "tasks", {}
    for entry in json.loads((folder / "tasks.json").read_text(encoding="utf-8")):
        path = folder / entry["file"]
        found[path.stem] = Task(entry["label"], False, "", path, entry["prompts"], entry["credit"], entry["per_class"])
    return {**found, **{kind: Task(name, True, kind) for kind, name in KIND_NAMES.items()}}


def task_choices() -> list[tuple[str, str]]:
    """Pairs of a label and a key, as a radio group takes them."""
    return [(f"{task.label}, synthetic" if task.synthetic else task.label, key) for key, task in tasks().items()]
