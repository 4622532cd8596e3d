"""NEARL as a method; the network itself is in ``nearl.methods.nearl.network``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearl.adapters.store import Adapter
from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.methods.base import Card, InsideTower
from nearl.methods.frozen import Frozen, Task
from nearl.methods.nearl.anchor import Anchor
from nearl.methods.nearl.network import ClassFeatures, NearlCLIP, NearlConfig
from nearl.methods.nearl.partner import Lessons, Partner
from nearl.methods.shows import Queries, Shows
from nearl.prompts import PromptSet, class_key
from nearl.train.answers import known
from nearl.train.batches import PromptTokens, balanced_batch, class_means, draw_prompts
from nearl.train.learner import ALL, Phase
from nearl.train.loop import autocast
from nearl.train.recipe import Recipe
from nearl.train.views import Views

FULL_STEP = 4.0  # duration of a step through both towers in steps of the warm start, about
ANCHOR_IMAGES = 64  # at most, to measure how well the frozen model reads


class Nearl(InsideTower):
    """An OCA after every block of both towers, fed by the USEformer.

    Training begins with the text side alone (`Recipe.warm_start`), on frozen image embeddings. ``options`` and
    ``changes`` are changes to the defaults of ``NearlConfig``; ``network`` is what is learned.
    """

    card = Card(
        "nearl",
        "NEARL",
        "A few learned queries pass through both towers and gather what image and prompts have to say to each other. "
        "After every block, adapters add to each token only the part of their update that is orthogonal to it. A "
        "closed-form classifier helps where the frozen model reads the support images poorly.",
        "Peng et al., NEARL-CLIP, arXiv 2508.04101",
        "an adapter after every block of both towers, and the queries' own small transformer",
        features=False,
        recipe={"partner": True},
    )
    changes: ClassVar[dict] = {}

    def __init__(self, task: Task, **options):
        super().__init__(task, **{**self.changes, **options})
        with torch.random.fork_rng():
            self.network = NearlCLIP(task.backbone, NearlConfig.for_backbone(task.backbone, **self.options))
        self.per_image = self.network.config.text_context == "image"
        own = {Shows.UPDATES} if self.network.oca_vision else set()
        self.shows = frozenset({Shows.TOKENS, *own} | (set() if self.per_image else {Shows.LINEAR, Shows.WORDS}))

    @property
    def learned(self) -> nn.Module:
        return self.network

    # ---- teaching ----------------------------------------------------------------------------------------------------

    def start(self, recipe: Recipe) -> None:
        self.network.partner = None
        self.network.load_state_dict(NearlCLIP(self.backbone, self.network.config).state_dict())

    def phases(self, recipe: Recipe) -> list[Phase]:
        views = self.task.views(recipe)
        texts = [self.backbone.tokenize(group) for group in self.task.prompt_set.texts()]
        anchor = self._anchor(recipe, views, texts) if recipe.pull else None
        lesson = self._lesson() if recipe.partner else None

        def forward(
            index: np.ndarray, rng: np.random.Generator, rows: slice = ALL, warm: bool = False
        ) -> tuple[Tensor, Tensor | float]:
            prompts, picked = draw_prompts(texts, recipe.prompts_per_class, rng), views.pick(index, rng)
            frozen = views.embeddings(picked)[rows] if warm or anchor is not None else None
            if warm:
                image = frozen
                logits = self.backbone.logit_scale * frozen @ self.network.encode_text(prompts).embeddings.T
            else:
                logits, image = self.network.read(views.tokens(picked, rng)[rows], prompts)
            logits = logits.float() if lesson is None else lesson.join(logits, image, torch.as_tensor(index[rows]))
            return logits, 0.0 if anchor is None else anchor.loss(frozen, logits)

        warm = round(recipe.warm_start * recipe.steps)
        full = Phase(recipe.steps - warm, recipe.batch_size, forward, FULL_STEP)
        if self.per_image or not self.network.oca_text:  # there is no text side that could be trained alone
            return [full]
        return [Phase(warm, 2 * recipe.batch_size, partial(forward, warm=True)), full]

    def _anchor(self, recipe: Recipe, views: Views, texts: list[Tensor]) -> Anchor | None:
        """None where the frozen model reads the support images too poorly to be followed."""
        rng, count = np.random.default_rng(recipe.seed), len(self.labels)
        some = max(ANCHOR_IMAGES, len(self.taught.classes))  # at least one of every class
        index = balanced_batch(self.labels, min(count, some), rng)
        with self.backbone.lock, autocast(self.backbone, recipe):
            embeddings = views.embeddings(views.pick(index, rng))
            some = [self.labels[i] for i in index]
            problems = [(q, *found) for q, found in zip(self.questions, known(some, self.questions), strict=True)]
            anchor = Anchor(self.backbone, texts, embeddings, problems, recipe.pull)
        return anchor if anchor.weight > 0 else None

    def _lesson(self) -> Lessons:
        """The partner's, which is put into the network."""
        task, projection = self.task, self.backbone.vision.projection
        images = task.features()
        frozen = self.backbone.logit_scale * images @ task.classes().T
        lessons = Lessons(images, task.problems, frozen, None if projection is None else projection[0])
        self.network.partner = lessons.partner
        first = lessons.each[0]
        self.chosen = {"share": first.share, "partner": first.weight}
        if len(lessons.each) > 1:
            self.chosen = {"share": [x.share for x in lessons.each], "partner": [x.weight for x in lessons.each]}
        return lessons

    # ---- reading -----------------------------------------------------------------------------------------------------

    def _features(self, prompt_set: PromptSet) -> ClassFeatures:
        """Features of the classes; every prompt is encoded once."""
        if self.per_image:
            raise NearlError("With per-image context every image has classes of its own, so none can be shown.")
        groups = prompt_set.texts()
        rows = self.task.frozen.of_texts(self.key("text"), [t for group in groups for t in group], self._encode)
        means, width = class_means(rows, [len(group) for group in groups]), self.backbone.embed_dim
        embeddings, summaries = F.normalize(means[:, :width], dim=-1), means[:, width:]
        return ClassFeatures(embeddings, summaries.unflatten(1, (self.backbone.text.depth, -1)).transpose(0, 1))

    def _encode(self, tokens: Tensor) -> Tensor:
        """Of each text its unit embedding and its summaries, one after the other: [P, E + layers D]."""
        found = self.network.encode_text(PromptTokens(tokens, [1] * len(tokens)))
        return torch.cat([found.embeddings, found.summaries.transpose(0, 1).flatten(1)], dim=1)

    def classes(self) -> Tensor:
        return self._features(self.task.prompt_set).embeddings

    def summaries(self) -> Tensor:
        """What the image side attends to: the summaries [layers, C, D] of the prompts that it was taught with."""
        return self._features(self.taught).summaries

    def encode_tokens(self, x: Tensor) -> Tensor:
        return self.network.encode_tokens(x, self.summaries())

    def images(self, records: Sequence[ImageRecord]) -> Tensor:
        summaries, patches = self.summaries(), self.task.frozen.patches
        encode = lambda some: self.network.encode_tokens(patches(some), summaries)  # noqa: E731
        return self.task.frozen.of_images(self.key("image"), records, encode)

    def warm(self) -> None:
        if not self.per_image:
            self.classes(), self.summaries()

    def encode_prompts(self, tokens: Tensor) -> Tensor:
        return self.network.encode_text(PromptTokens(tokens, [1] * len(tokens))).embeddings

    def ask(self, prompt_set: PromptSet, frozen: Frozen | None = None) -> None:
        super().ask(prompt_set, frozen)
        taught = [class_key(name) for name in self.taught.classes]
        self.rows = [taught.index(key) if key in taught else -1 for key in map(class_key, prompt_set.classes)]

    def scores(self, images: Tensor) -> Tensor:
        return self._join(super().scores(images), images)

    def _join(self, logits: Tensor, images: Tensor) -> Tensor:
        partner = self.network.partner
        return logits if partner is None else partner.join(logits, images, self.rows)

    def judge(self, prepared: Tensor) -> Tensor:
        if self.per_image:
            return self._join(*self.network.read(prepared, self.task.tokens()))
        return super().judge(prepared)

    def see(self, pixels: Tensor, turn: Tensor | None = None) -> Tensor:
        return self.judge(self.prepare(pixels)) if self.per_image else super().see(pixels, turn)

    def logits(self, records: Sequence[ImageRecord]) -> Tensor:
        if not self.per_image:
            return super().logits(records)
        with self.backbone.lock:
            frozen = self.task.frozen
            parts = frozen.portions.each(records, lambda some: self.see(frozen.pixels(some)))
            return torch.cat([logits for _, logits in parts])

    # ---- what maps see -----------------------------------------------------------------------------------------------

    def updates(self, side: str) -> dict[int, nn.Module]:
        adapters = self.network.oca_vision if side == "vision" else self.network.oca_text
        return {int(k): adapters[k] for k in sorted(adapters, key=int)}

    def queries(self) -> Queries | None:
        """Those of the first shared block, at the steps that end an adapted vision block; None for static queries."""
        network, prompt_set = self.network, self.task.prompt_set
        if network.config.synergy != "useformer":
            return None
        if not self.per_image:
            steps, sources = list(self.updates("vision")), list(self.taught.classes)
        else:  # a step for every adapted block of either tower, which attends to every prompt
            ends = {s: k for k, s in enumerate(network.vision_steps) if k in self.updates("vision")}
            texts = {s for k, s in enumerate(network.text_steps) if k in self.updates("text")}
            steps = [ends.get(s) for s in range(network.total_steps) if s in ends or s in texts]
            sources = [c for c, texts in zip(prompt_set.classes, prompt_set.texts(), strict=True) for _ in texts]
        return Queries(network.useformer.blocks[0].cross, steps, network.config.heads, sources)

    # ---- saving and restoring ----------------------------------------------------------------------------------------

    def make_room(self, state: dict[str, Tensor]) -> None:
        if any(name.startswith("partner.") for name in state):  # taught with one
            partner = Partner(len(self.taught.classes), self.backbone.embed_dim, len(self.taught.questions))
            self.network.partner = partner.to(self.backbone.device)

    def config(self) -> dict:
        return self.network.config.to_dict()

    @classmethod
    def settings(cls, adapter: Adapter) -> dict:
        if NearlConfig(**adapter.config).blocks > len(adapter.state):
            raise ValueError("more blocks than tensors")
        return dict(adapter.config)
