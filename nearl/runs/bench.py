"""What all methods of a run share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nearl.backbones import Backbone
from nearl.data.records import ImageRecord
from nearl.data.sets.findings import FindingsSet
from nearl.data.sets.labelled import LabelledSet
from nearl.data.splits import draw_support
from nearl.methods import Frozen, Task
from nearl.prompts import FINDINGS, PromptSet
from nearl.runs.job import Job


def _names(job: Job) -> list[str]:
    """The name of every tensor of the job: that of its file, or of the study that the slice is of."""
    if not job.slices:
        return job.files
    return [name for name, count in zip(job.files, job.slices, strict=True) for _ in range(max(count, 1))]


class Bench:
    """The images, the prompts and the frozen model's features."""

    def __init__(self, job: Job, backbone: Backbone):
        self.job, self.backbone, self.frozen = job, backbone, Frozen(backbone)
        self.prompt_set = PromptSet.from_dict(job.prompts)
        pixels = job.images.permute(0, 2, 3, 1).numpy()  # at the model's own size: preprocessing changes nothing
        records = [ImageRecord.from_pixels(name, image) for name, image in zip(_names(job), pixels, strict=True)]
        if job.slices:
            each = iter(records)
            counted = zip(job.files, job.slices, strict=True)
            records = [
                ImageRecord.of_slices(name, [next(each) for _ in range(count)]) if count else next(each)
                for name, count in counted
            ]
        kind = FindingsSet if self.prompt_set.kind == FINDINGS else LabelledSet
        self.images = kind(job.classes, records, list(job.labels))

    def task(self, support: Sequence[int]) -> Task:
        """The task of teaching with these images."""
        return Task(self.backbone, self.prompt_set, self.images.subset(support), self.frozen)

    def draw(self, indices: list[int], seed: int) -> list[int]:
        """The job's number of images of every class, by seed."""
        if not self.job.shots:
            return indices
        labels = [self.job.labels[i] for i in indices]
        return [indices[i] for i in draw_support(labels, self.job.shots, seed)]

    def embed(self, indices: Sequence[int]) -> np.ndarray:
        """The frozen model's unit embeddings [N, E]."""
        records = self.images.subset(indices).records
        return self.frozen.embed(self.frozen.pooled(records)).cpu().numpy()
