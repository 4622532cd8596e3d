"""Adapters without teaching, classifiers that read with them, and a count of the work done."""

import numpy as np
import torch

from nearl.adapters.store import new_adapter
from nearl.data.images import ImageRecord
from nearl.methods import restore
from nearl.methods.nearl.network import NearlCLIP, NearlConfig
from nearl.prompts import PromptSet
from nearl.reading.classifier import Classifier

PROMPTS = PromptSet("test", ("glioma", "normal"), (("brain mri glioma", "glioma"), ("normal brain mri",)))


def moved(model, std=0.2):
    """The same model with adapters that do something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for oca in (*model.oca_vision.values(), *model.oca_text.values()):
            oca.w_o.weight.normal_(std=std, generator=generator)
    return model


def record(seed, name=None, size=(40, 36)):
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    return ImageRecord.from_pixels(name or f"image-{seed}.png", pixels)


def adapter_for(backbone, prompt_set=PROMPTS, **config):
    with torch.random.fork_rng():
        torch.manual_seed(0)  # the same adapter whichever tests ran before
        model = moved(NearlCLIP(backbone, NearlConfig(**config)))
    return new_adapter(
        model.state_dict(),
        backbone=backbone.identity,
        config=model.config.to_dict(),
        classes=list(prompt_set.classes),
        prompts=prompt_set.to_dict(),
        support_counts={name: 4 for name in prompt_set.classes},
    )


class Counter:
    """Counts the rows that pass through a tower's first block."""

    def __init__(self, block):
        self.rows = 0
        self.handle = block.register_forward_hook(self)

    def __call__(self, _, inputs, output):
        self.rows += len(inputs[0])

    def take(self):
        rows, self.rows = self.rows, 0
        return rows


def reader(backbone, prompt_set, adapter=None):
    """A classifier with the method of an adapter, if there is one."""
    return Classifier(backbone, prompt_set, None if adapter is None else restore(backbone, adapter))
