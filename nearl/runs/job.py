"""What a run is to do, as plain data beside one tensor of images."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass
from torch import Tensor

from nearl.adapters.store import FORMERLY
from nearl.backbones import Backbone, load_backbone
from nearl.data.sets.findings import FindingsSet
from nearl.data.sets.labelled import LabelledSet
from nearl.data.splits import Split
from nearl.errors import NearlError
from nearl.methods import card, recipe
from nearl.prompts import FINDINGS, PromptSet, class_key
from nearl.train.recipe import Recipe
from nearl.train.samples import as_uint8

UNTAUGHT = "zero-shot"  # learns nothing: one seed is enough, and there is no adapter

if TYPE_CHECKING:
    Labels = list[Any]
else:
    Labels = list[int] | list[tuple[int, ...]]
Pair = tuple[str, int]  # method and seed


@dataclass(kw_only=True, config=ConfigDict(arbitrary_types_allowed=True, extra="forbid"))
class Job:
    """The methods, the seeds and the images of a run. It can be pickled, and written as JSON beside one tensor."""

    backbone: dict[str, str]
    """"name", "device", "weights" ("pretrained" or "random") and "fingerprint" of the weights."""
    classes: list[str]
    """Names, in the order of the labels."""
    prompts: dict
    """Of a PromptSet for ``classes``."""
    images: Tensor | None = Field(None, repr=False)
    """uint8 [N, 3, H, W] as `Backbone.to_uint8` makes them: the labelled images and, after them, given test images
    and those of another source; of studies all their slices, study after study. None once they are deleted."""
    slices: list[int] = Field(default_factory=list)
    """Number of slices of every study, 0 for a still image; empty where there is no study."""
    labels: Labels
    """Index into ``classes`` of every image; of findings the indices of those that are known."""
    test: list[int]
    """Indices of the given test images."""
    there: list[int] = Field(default_factory=list)
    """Indices of images of another source with the same classes, which are read too (`nearl.measure.elsewhere`)."""
    there_name: str = ""
    """What that source is called."""
    files: list[str]
    """Name of every image, as its owner calls it."""
    split: Split
    """Which images teach and which are held out."""
    methods: list[str]
    """Names of `nearl.methods`, ablations as "nearl:<ablation>"."""
    seeds: list[int] = Field(default_factory=lambda: [0])
    """Seeds of the draw of images (with ``shots``) and of the training."""
    shots: int = 0
    """Images of every class to teach with, drawn by seed from those of the split; 0 for all."""
    preset: str = "balanced"
    """"quick", "balanced" or "thorough" (`Recipe.preset`), for methods that train through a tower."""
    recipe: dict = Field(default_factory=dict)
    """Changes to the recipe of every method."""
    options: dict = Field(default_factory=dict)
    """Settings of the methods themselves (`nearl.methods.make`)."""
    compared: bool = False
    """Whether the methods are compared: the costs of a prediction and places in the joint space are measured too, and a
    failure or a cancellation concerns one method."""
    name: str = "images"
    """What the set is called."""
    notes: list[str] = Field(default_factory=list)
    """What decoding noted of the images, in sentences without the names of files."""
    decode_seconds: float = 0.0
    """Time that bringing the images into this form took."""
    form: int = 2
    """1 for a run in whose files some methods have other names (`nearl.adapters.store.FORMERLY`)."""

    @property
    def pairs(self) -> list[Pair]:
        """Every method with every seed, all methods with the first seed before the second."""
        first = self.seeds[0]
        return [(name, seed) for seed in self.seeds for name in self.methods if name != UNTAUGHT or seed == first]

    @property
    def alone(self) -> bool:
        """Whether this is teaching: one method and one seed. What it has learned when it is cancelled is kept, and its
        failure is that of the run."""
        return len(self.pairs) == 1 and not self.compared

    @property
    def held(self) -> list[int]:
        """Indices of the images that are measured on, fold after fold where there are folds."""
        if self.split.kind == "folds":
            return [i for _, held in self.split.folds for i in held]
        return self.test if self.split.kind == "given" else self.split.held

    def shown(self, i: int) -> int:
        """Where in ``images`` the picture of image ``i`` is; of a study its middle slice."""
        counts = self.slices or [0] * len(self.labels)
        return sum(max(count, 1) for count in counts[:i]) + counts[i] // 2

    def folder_of(self, name: str) -> str:
        """What the folder of a method's adapter is called."""
        return (FORMERLY.get(name, name) if self.form == 1 else name).replace(":", "-")

    def name_now(self, name: str) -> str:
        """Today's name of a method of which a file of the run gives the name."""
        return {old: new for new, old in FORMERLY.items()}.get(name, name) if self.form == 1 else name

    def recipe_of(self, name: str, seed: int = 0) -> Recipe:
        """The recipe of a method with a seed. NearlError for a value that is not allowed."""
        steps = Recipe.preset(self.preset).steps
        preset = {} if self.preset == "balanced" or card(name).features else {"steps": steps}
        return recipe(name, **{**preset, **self.recipe, "seed": seed})

    def to_plain(self) -> dict:
        """Everything but the images, for JSON."""
        return _JOB.dump_python(self, mode="json", exclude={"images"})

    @classmethod
    def from_plain(cls, plain: dict, images: Tensor | None = None) -> Job:
        """The reverse of `to_plain`, also for a job of version 0.1. ValueError for anything else."""
        return _JOB.validate_python({**_current(plain), "images": images})


_JOB = TypeAdapter(Job)


def _current(plain: dict) -> dict:
    """An earlier job in today's form: with the names that methods have now; one of version 0.1 had one method and its
    NEARL configuration, or a number of seeds."""
    plain = dict(plain)
    if "form" not in plain:
        now = {old: new for new, old in FORMERLY.items()}
        plain["form"] = 1
        if "methods" in plain:
            plain["methods"] = [now.get(name, name) for name in plain["methods"]]
        else:
            plain["method"] = now.get(plain["method"], plain["method"])
    if "config" not in plain:
        return plain
    method, options = plain.pop("method"), plain.pop("config") or {}
    changes = {"partner": False, **plain.pop("recipe")}  # which version 0.1 did not have
    if "methods" in plain:
        steps = {Recipe.preset(name).steps: name for name in ("quick", "thorough")}
        preset = steps.get(changes.get("steps"), "balanced")
        changes = {key: value for key, value in changes.items() if key != "steps" or preset == "balanced"}
        return {**plain, "seeds": list(range(plain["seeds"])), "preset": preset, "recipe": changes, "compared": True}
    return {**plain, "methods": [method], "seeds": [changes.pop("seed", 0)], "recipe": changes, "options": options}


def make_job(
    backbone: Backbone,
    data: LabelledSet,
    test: LabelledSet | None,
    prompt_set: PromptSet,
    split: Split,
    there: LabelledSet | None = None,
    **how: object,
) -> Job:
    """The job of a run on these images. ``split`` has indices into ``data``; ``test`` may be images to measure on
    (split kind "given"), ``there`` those of another source. ``how``: methods, seeds, shots, preset, recipe and compared
    of a `Job`; NEARL by default.

    NearlError where prompts, images and test images do not name the same classes, and for methods or values that are
    not there.
    """
    began = time.perf_counter()
    prompt_set = prompt_set.for_classes(data.classes)
    index = {class_key(name): number for number, name in enumerate(data.classes)}
    labels, files = list(data.labels), [r.name for r in data.records]
    slices = [len(record.stack) for record in data.records]
    if (prompt_set.kind == FINDINGS) != isinstance(data, FindingsSet):
        raise NearlError("The images and the prompts must both be of classes, or both of findings; change one of them.")
    if prompt_set.kind == FINDINGS and how.get("compared"):
        raise NearlError("Findings cannot be compared in one run; teach each method by itself.")
    parts = [part for part in (data, test, there) if part is not None]
    for part in parts[1:]:
        unknown = [name for name in part.classes if class_key(name) not in index]
        if unknown:
            raise NearlError(f"The test images have a class “{unknown[0]}” that is not taught; add images of it.")
        own = [index[class_key(name)] for name in part.classes]
        labels += [tuple(own[c] for c in x) if isinstance(x, tuple) else own[x] for x in part.labels]
        files += [record.name for record in part.records]
        slices += [len(record.stack) for record in part.records]
    measured = len(data) + (len(test) if test is not None else 0)
    job = Job(
        backbone={
            "name": backbone.name,
            "device": str(backbone.device),
            "weights": backbone.weights,
            "fingerprint": backbone.identity["weights"],
        },
        classes=list(data.classes),
        prompts=prompt_set.to_dict(),
        labels=labels,
        test=list(range(len(data), measured)),
        there=list(range(measured, len(labels))),
        there_name="" if there is None else there.name,
        files=files,
        slices=slices if any(slices) else [],
        split=split,
        name=data.name,
        notes=list(dict.fromkeys(note for part in parts for note in part.image_notes())),
        **{"methods": ["nearl"], **how},  # type: ignore[arg-type]
    )
    for name in job.methods:
        job.recipe_of(name)
    job.images = torch.cat([as_uint8(backbone, part) for part in parts])
    job.decode_seconds = time.perf_counter() - began
    return job


def backbone_of(job: Job) -> Backbone:
    """The backbone that a job was made with. NearlError if it has other weights now."""
    about = job.backbone
    backbone = load_backbone(about["name"], about["device"], about["weights"])
    if backbone.identity["weights"] != about["fingerprint"]:
        raise NearlError(
            f"The model '{about['name']}' has other weights now than when this run was made; start a new run."
        )
    return backbone
