"""NEARL and its ablations as methods among the others; what they are is in ``nearl.model`` and ``nearl.finetune``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.finetune import Progress, Recipe, finetune
from nearl.methods.base import Card, Method
from nearl.methods.frozen import BATCH, Task
from nearl.model import ClassFeatures, NearlCLIP, NearlConfig
from nearl.store import Adapter


class Nearl(Method):
    """An OCA after every block of both towers, fed by the USEformer; ``options`` are changes to ``NearlConfig``."""

    card = Card(
        "nearl",
        "NEARL",
        "A few learned queries walk down both towers and gather what image and words have to say to each other. After "
        "every block they add what is new to a token, and only the part at a right angle to what it already says.",
        "Peng et al., NEARL-CLIP, arXiv 2508.04101",
        "an adapter after every block of both towers, and the queries' own small transformer",
        features=False,
    )

    def __init__(self, task: Task, **options):
        super().__init__(task, **options)
        with torch.random.fork_rng():
            self.model = NearlCLIP(task.backbone, NearlConfig.for_backbone(task.backbone, **options))
        self.taught: Adapter | None = None

    def learn(self, recipe: Recipe) -> Iterator[Progress]:
        task = self.task
        for progress in finetune(task.backbone, task.support, task.prompt_set, self.model.config, recipe):
            if progress.adapter is not None:
                self.taught = progress.adapter
                self.model.load_state_dict(self.taught.state)
            yield progress

    def logits(self, records: Sequence[ImageRecord]) -> Tensor:
        model, task, out = self.model, self.task, []
        with task.backbone.lock:
            for start in range(0, len(records), BATCH):
                pixels = task.frozen.pixels(records[start : start + BATCH])
                if model.config.text_context == "image":
                    out.append(model(pixels, task.tokens()))
                    continue
                classes: ClassFeatures = self.text(lambda: model.encode_text(task.tokens()))
                images = model.encode_image(pixels, classes.summaries)
                out.append(task.backbone.logit_scale * images @ classes.embeddings.T)
        return torch.cat(out)

    def adapter(self) -> Adapter:
        """What ``finetune`` gave: an adapter that ``nearl.classifier`` reads too. NearlError before the last step."""
        if self.taught is None:
            raise NearlError("NEARL has not been taught to the end, so there is no adapter to keep.")
        return self.taught

    def restore(self, adapter: Adapter) -> None:
        self.model.load_state_dict(adapter.state)
        self.taught, self._text = adapter, None
