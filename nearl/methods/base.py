"""What all methods have in common: a card, fit, predict, and a state of tensors alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from nearl.adapters.store import Adapter, new_adapter
from nearl.backbones import Backbone
from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.methods.frozen import BATCH, Task, ensemble
from nearl.methods.nearl.finetune import Progress, Recipe
from nearl.methods.nearl.network import PromptTokens
from nearl.methods.shows import Queries, Shows
from nearl.prompts import PromptSet, class_key


@dataclass(frozen=True)
class Card:
    """A method in words: registry ``name``, ``title``, the ``idea`` in two sentences, the ``paper``, what is
    ``trained``. ``features``: works on cached features alone. ``any_classes``: answers for classes that it was never
    fitted to, from their words. ``recipe``: where it departs from ``Recipe``."""

    name: str
    title: str
    idea: str
    paper: str
    trained: str
    features: bool = True
    any_classes: bool = True
    recipe: dict = field(default_factory=dict)


class Method(nn.Module):
    """One way to adapt a frozen backbone to a task. Parameters are what is trained, buffers what else it has to keep;
    the backbone is neither. ``options``: the method's own settings; ``chosen``: what it chose inside the support set.

    It is what it overrides: where an image lies (``embed``, ``encode_tokens``), where a class lies (``classes``), and
    how a logit comes of both (``scores``). What it leaves alone is the frozen model's. ``rows``: the places, among the
    classes that it was fitted to, of those that are asked about.
    """

    card: ClassVar[Card]
    shows: frozenset[Shows] = frozenset({Shows.TOKENS})  # what maps can see of it

    def __init__(self, task: Task, **options):
        super().__init__()
        self.task, self.options, self.chosen = task, options, {}
        self._text: Tensor | None = None
        self._fitted, self.rows = task.prompt_set.classes, slice(None)

    @classmethod
    def recipe(cls, **changes) -> Recipe:
        """The method's default recipe, with changes."""
        return Recipe(**{**cls.card.recipe, **changes})

    def fit(self, recipe: Recipe | None = None) -> Iterator[Progress]:
        """Learn from the task's support set; a Progress after each step, none where there are no steps.

        Stop iterating to cancel. Deterministic for a seed on one machine. NearlError where the set cannot be taught.
        """
        recipe = recipe or self.recipe()
        with self.task.backbone.lock, torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            self.start(recipe)
        self._text = None
        for progress in self.learn(recipe):
            self._text = None
            yield progress

    def start(self, recipe: Recipe) -> None:
        """Initialise, with torch's generator seeded."""

    def learn(self, recipe: Recipe) -> Iterator[Progress]:
        """The steps of training."""
        return iter(())

    def ask(self, prompt_set: PromptSet) -> None:
        """Answer for these prompts from now on, without what is needed for teaching. NearlError, and nothing changed,
        where a class was not fitted and the method cannot do without (``any_classes``); then some of the classes, in
        any order, may be asked about, under their names (`class_key`)."""
        if not self.card.any_classes:
            fitted = [class_key(name) for name in self._fitted]
            strange = [name for name in prompt_set.classes if class_key(name) not in fitted]
            if strange:
                raise NearlError(
                    f"{self.card.title} answers only for the classes it was fitted to ({', '.join(self._fitted)}), and "
                    f"“{strange[0]}” is not one of them; ask about those, or use an adapter of a method that reads the "
                    "words, such as NEARL."
                )
            self.rows = [fitted.index(class_key(name)) for name in prompt_set.classes]
        self.task, self._text = replace(self.task, prompt_set=prompt_set, support=None), None

    @property
    def tower(self) -> Backbone:
        """The model whose image tower looks at the images: the frozen one, or a shadow of it that was changed."""
        return self.task.backbone

    def embed(self, pooled: Tensor) -> Tensor:
        """Pooled features [..., P] of ``tower`` -> unit image embeddings [..., E] in the method's joint space."""
        return self.task.frozen.embed(pooled)

    def encode_tokens(self, x: Tensor) -> Tensor:
        """Embedded patches [B, N, d], as ``vision.embed`` gives them -> unit image embeddings [B, E] float32."""
        vision = self.tower.vision
        for k in range(vision.depth):
            x = vision.block(k, x)
        return self.embed(vision.features(x).float())

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Normalised pixels [B, 3, H, W] -> unit image embeddings [B, E] float32. The caller holds the lock."""
        return self.encode_tokens(self.tower.vision.embed(pixels))

    def see(self, pixels: Tensor, turn: Tensor | None = None) -> Tensor:
        """Normalised pixels [B, 3, H, W] -> logits [B, C]. The caller holds the lock and decides about gradients.

        ``turn`` int64 [E]: the order into which the coordinates of the image embeddings are put before they are scored,
        to randomise the head. It changes nothing where every image has class embeddings of its own.
        """
        images = self.encode_image(pixels)
        return self.scores(images if turn is None else images[:, turn])

    def encode_text(self, prompts: PromptTokens) -> Tensor:
        """Unit class embeddings [C, E] of tokenised prompts, computed now."""
        return ensemble(self.task.backbone.encode_text(prompts.tokens).float(), prompts.counts)

    def supports(self, card) -> str:
        """Return "" if a map (a `nearl.explain.MapCard`) can be drawn of this method, else why not, in a sentence."""
        for need in (Shows.TOKENS, *card.needs):
            if need not in self.shows:
                return need.value.format(name=card.name, title=self.card.title)
        return ""

    def updates(self, side: str) -> dict[int, nn.Module]:
        """Adapters between blocks, by the number of the block that each follows; ``side``: "vision" or "text".

        The output of an adapter takes the place of the block's. It has ``parts(args, out) -> Update``.
        """
        return {}

    def queries(self) -> Queries | None:
        """Queries whose attention can be watched; None where the method has none."""
        return None

    def images(self, records: Sequence[ImageRecord]) -> Tensor:
        """Unit image embeddings [B, E], from the frozen features that are kept."""
        return self.embed(self.task.frozen.pooled(records))

    def classes(self) -> Tensor:
        """Unit class embeddings [C, E] in the method's joint space."""
        return self.task.classes()

    def scores(self, images: Tensor) -> Tensor:
        """Logits [B, C] of unit image embeddings [B, E]."""
        return self.task.backbone.logit_scale * images @ self.classes().T

    def logits(self, records: Sequence[ImageRecord]) -> Tensor:
        """Logits [B, C] of images; each is independent of the others."""
        with self.task.backbone.lock:
            return self.scores(self.images(records))

    @torch.no_grad()
    def embeddings(self, records: Sequence[ImageRecord]) -> tuple[Tensor, Tensor]:
        """Unit float32 embeddings of images [B, E] and classes [C, E] in the method's own joint space, which is the
        frozen model's where it leaves them alone. A probe's or cache's logits are not scale x their cosine. NearlError
        where a class lies elsewhere for every image (``nearl:image-context``)."""
        with self.task.backbone.lock:
            return self.images(records).float(), self.classes().float()

    @torch.no_grad()
    def predict(self, records: Sequence[ImageRecord]) -> np.ndarray:
        """Probabilities float32 [B, C], rows sum to one, relative to the prompts."""
        if not records:
            return np.zeros((0, len(self.task.prompt_set.classes)), np.float32)
        return self.logits(records).float().softmax(-1).cpu().numpy()

    @property
    def trainable(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def text(self, encode: Callable[[], Tensor]) -> Tensor:
        """``encode()``, once between two steps of training: for classes that depend on what is learned."""
        if self._text is None:
            self._text = encode()
        return self._text

    def adapter(self) -> Adapter:
        """The state as tensors and JSON, for ``nearl.adapters.store``."""
        task, counts = self.task, {} if self.task.support is None else self.task.support.counts()
        return new_adapter(
            self.state_dict(),
            backbone=task.backbone.identity,
            config={"options": self.options, "chosen": self.chosen},
            classes=list(task.prompt_set.classes),
            prompts=task.prompt_set.to_dict(),
            support_counts=counts,
            method=self.card.name,
        )

    def make_room(self, state: dict[str, Tensor]) -> None:
        """Resize what has no fixed size to that of a state to come."""

    def restore(self, adapter: Adapter) -> None:
        """Take over the state of an adapter of this method. RuntimeError where tensors do not fit."""
        self.make_room(adapter.state)
        self.load_state_dict(adapter.state)
        self.chosen, self._text = dict(adapter.config["chosen"]), None


class InsideTower(Method):
    """A method that works inside the image tower, so that of the frozen model only the embedded patches serve it."""

    def images(self, records: Sequence[ImageRecord]) -> Tensor:
        batches = [self.task.frozen.patches(records[i : i + BATCH]) for i in range(0, len(records), BATCH)]
        return torch.cat([self.encode_tokens(batch) for batch in batches])
