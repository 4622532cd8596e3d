"""NEARL and its ablations as methods among the others; what they are is in ``nearl.methods.nearl.network`` and
``nearl.methods.nearl.finetune``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nearl.adapters.store import Adapter
from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.methods.base import Card, InsideTower
from nearl.methods.frozen import BATCH, Task
from nearl.methods.nearl.finetune import Progress, Recipe, finetune
from nearl.methods.nearl.network import ClassFeatures, NearlCLIP, NearlConfig


class Nearl(InsideTower):
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
        views = task.views(recipe)
        for progress in finetune(task.backbone, task.support, task.prompt_set, self.model.config, recipe, views=views):
            if progress.adapter is not None:
                self.taught = progress.adapter
                self.model.load_state_dict(self.taught.state)
            yield progress

    def _read(self) -> ClassFeatures:
        if self.model.config.text_context == "image":
            raise NearlError("With per-image context every image has classes of its own, so none can be shown.")
        return self.text(lambda: self.model.encode_text(self.task.tokens()))

    def classes(self) -> Tensor:
        return self._read().embeddings

    def encode_tokens(self, x: Tensor) -> Tensor:
        return self.model.encode_tokens(x, self._read().summaries)

    def logits(self, records: Sequence[ImageRecord]) -> Tensor:
        if self.model.config.text_context != "image":
            return super().logits(records)
        with self.task.backbone.lock:
            batches = [self.task.frozen.pixels(records[i : i + BATCH]) for i in range(0, len(records), BATCH)]
            return torch.cat([self.model(batch, self.task.tokens()) for batch in batches])

    def adapter(self) -> Adapter:
        """What ``finetune`` gave: an adapter that ``nearl.reading.classifier`` reads too. NearlError before the last
        step."""
        if self.taught is None:
            raise NearlError("NEARL has not been taught to the end, so there is no adapter to keep.")
        return self.taught

    def restore(self, adapter: Adapter) -> None:
        self.model.load_state_dict(adapter.state)
        self.taught, self._text = adapter, None
