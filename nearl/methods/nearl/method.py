"""NEARL and its ablations as methods among the others; what they are is in ``nearl.methods.nearl.network`` and
``nearl.methods.nearl.finetune``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from nearl.adapters.store import Adapter
from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.methods.base import Card, InsideTower
from nearl.methods.frozen import BATCH, Task
from nearl.methods.nearl.finetune import Progress, Recipe, finetune
from nearl.methods.nearl.network import ClassFeatures, NearlCLIP, NearlConfig, PromptTokens
from nearl.methods.shows import Queries, Shows


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

    def encode_text(self, prompts: PromptTokens) -> Tensor:
        return self.model.encode_text(prompts).embeddings

    def see(self, pixels: Tensor, turn: Tensor | None = None) -> Tensor:
        if self.model.config.text_context == "image":
            return self.model(pixels, self.task.tokens())
        return super().see(pixels, turn)

    @property
    def shows(self) -> frozenset[Shows]:
        own = {Shows.UPDATES} if self.model.oca_vision else set()
        alone = {Shows.LINEAR, Shows.WORDS} if self.model.config.text_context == "support" else set()
        return frozenset({Shows.TOKENS, *own, *alone})

    def updates(self, side: str) -> dict[int, nn.Module]:
        adapters = self.model.oca_vision if side == "vision" else self.model.oca_text
        return {int(k): adapters[k] for k in sorted(adapters, key=int)}

    def queries(self) -> Queries | None:
        """The first shared block's, at the steps that end an adapted vision block; None for static queries."""
        model, prompt_set = self.model, self.task.prompt_set
        if model.config.synergy != "useformer":
            return None
        if model.config.text_context == "support":
            steps, sources = list(self.updates("vision")), list(self.taught.meta["classes"])
        else:  # a step for every adapted block of either tower, which attends to every prompt
            ends = {s: k for k, s in enumerate(model.vision_steps) if k in self.updates("vision")}
            texts = {s for k, s in enumerate(model.text_steps) if k in self.updates("text")}
            steps = [ends.get(s) for s in range(model.total_steps) if s in ends or s in texts]
            sources = [c for c, texts in zip(prompt_set.classes, prompt_set.texts(), strict=True) for _ in texts]
        return Queries(model.useformer.blocks[0].cross, steps, model.config.heads, sources)

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
