"""The interface that all methods share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from nearl.adapters.store import Adapter, new_adapter
from nearl.backbones import Backbone
from nearl.data.images import ImageRecord
from nearl.data.sets.labelled import LabelledSet
from nearl.errors import NearlError
from nearl.methods.frozen import Frozen, Task, ensemble
from nearl.methods.shows import Queries, Shows
from nearl.prompts import PromptSet, class_key
from nearl.train.answers import shares
from nearl.train.batches import PromptTokens
from nearl.train.learner import Phase
from nearl.train.loop import Training
from nearl.train.recipe import Recipe, Snapshot
from nearl.train.samples import Samples, fingerprints


@dataclass(frozen=True)
class Card:
    """A method in words."""

    name: str
    """Its name in the registry, and in the adapters that it writes."""
    title: str
    idea: str
    """In two sentences."""
    paper: str
    trained: str
    """What is trained."""
    features: bool = True
    """Works on cached features of the frozen model alone."""
    any_classes: bool = True
    """Answers for classes that it was never fitted to, from their prompts."""
    reads_prompts: bool = True
    """Its answer depends on the prompts; else a class is a row of weights to it."""
    volumes: bool = False
    """Reads a volume as a study of all its slices; other methods take one slice for an image."""
    recipe: dict = field(default_factory=dict)
    """Where its recipe differs from the defaults of `nearl.train.recipe.Recipe`."""
    ablates: str = ""
    """Name of the method that this one is an ablation of."""


class MapCard(Protocol):
    """A map, as a method sees it (`nearl.explain`)."""

    name: str
    needs: Sequence[Shows]


class Method(nn.Module):
    """One way to adapt a frozen backbone to a task: it is taught, saved, restored and read with.

    Parameters are what is trained, buffers what else an adapter keeps; the backbone is neither. This class itself
    changes nothing, which makes it the zero-shot classifier. Subclasses override where an image lies (``embed`` or
    ``encode_tokens``), where a class lies (``classes``), how logits follow from both (``scores``), and how it is all
    learned (``start`` and ``phases``).

    ``options``: the method's own settings, numbers. ``chosen``: what it selected within the support set. ``source``:
    the adapter that it was restored from, else None. ``rows``: positions, among the classes that it was fitted to, of
    those that are asked about.
    """

    card: ClassVar[Card]
    shows: frozenset[Shows] = frozenset({Shows.TOKENS})
    """What maps can see of it."""

    def __init__(self, task: Task, **options):
        super().__init__()
        self.task, self.options, self.chosen = task, options, {}
        self.source: Adapter | None = None
        self.taught: PromptSet = task.prompt_set
        self.counts = {} if task.support is None else task.support.counts()
        self.rows: list[int] | slice = slice(None)
        self._recipe: Recipe | None = None
        self._steps = 0
        self._version = object()

    # ---- teaching: what a subclass overrides -------------------------------------------------------------------------

    @classmethod
    def recipe(cls, **changes) -> Recipe:
        """The method's default recipe, with changes."""
        return Recipe(**{**cls.card.recipe, **changes})

    def start(self, recipe: Recipe) -> None:
        """Initialise what is trained; torch's generators are seeded."""

    def phases(self, recipe: Recipe) -> list[Phase]:
        """The phases of training. A method that needs no steps learns here and returns none."""
        return []

    # ---- teaching ----------------------------------------------------------------------------------------------------

    def fit(
        self,
        recipe: Recipe | None = None,
        held: LabelledSet | Samples | None = None,
        resume: Snapshot | None = None,
    ) -> Training:
        """Learn from the task's support set: iterate over the result, which yields a Progress after every step.

        ``recipe``: the method's own by default. ``held``: images with the same classes, for the learning curve alone.
        ``resume``: from `Training.snapshot`. Raises NearlError if the support set cannot be used for teaching.
        """
        if self.task.support is None:
            raise NearlError("There are no labelled images to teach with.")
        recipe = recipe or self.recipe()
        with self.backbone.lock, torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            self.start(recipe)
        self.source, self._recipe = None, recipe
        return Training(self, recipe, held, resume)

    def moved(self, steps: int) -> None:
        """The parameters have changed: they are now as after ``steps`` steps."""
        self._steps, self._version = steps, object()

    @property
    def learned(self) -> nn.Module:
        """The module whose state dict is the adapter."""
        return self

    @property
    def backbone(self) -> Backbone:
        """The frozen backbone."""
        return self.task.backbone

    @property
    def labels(self) -> list:
        """Labels of the support images (`nearl.train.answers`)."""
        return self.task.support.labels

    @property
    def questions(self) -> list[slice]:
        """The classes asked about among which one is true: all of them, or for each finding present and absent."""
        return self.task.prompt_set.questions

    @property
    def mixed_precision(self) -> bool:
        """Whether bf16 autocast may be used in training."""
        return not self.card.features

    def identity(self) -> dict:
        """What tells the task and the settings of this method from others; plain JSON."""
        return {
            "config": self.config() | {"layers": sorted(self.learned.state_dict())},
            "prompts": self.task.prompt_set.digest,
            "labels": list(self.labels),
            "backbone": self.backbone.identity["weights"],
        }

    @property
    def trainable(self) -> int:
        """Number of trained parameters."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    # ---- reading -----------------------------------------------------------------------------------------------------

    def ask(self, prompt_set: PromptSet, frozen: Frozen | None = None) -> None:
        """Answer for these prompts from now on; the support images are let go. ``frozen``: where to keep features.

        Raises NearlError, with nothing changed, for a class that the method was not fitted to and cannot do without
        (``any_classes``). Such a method can be asked for some of its classes, in any order, by name (`class_key`).
        """
        if not self.card.any_classes:
            fitted = [class_key(name) for name in self.taught.classes]
            strange = [name for name in prompt_set.classes if class_key(name) not in fitted]
            if strange:
                raise NearlError(
                    f"{self.card.title} answers only for the classes it was fitted to "
                    f"({', '.join(self.taught.classes)}), and “{strange[0]}” is not one of them; ask about those, or "
                    "use an adapter of a method that reads the prompts, such as NEARL."
                )
            self.rows = [fitted.index(class_key(name)) for name in prompt_set.classes]
        self.task = replace(self.task, prompt_set=prompt_set, support=None, frozen=frozen or self.task.frozen)

    @property
    def tower(self) -> Backbone:
        """The model whose image tower reads the images: the frozen one, or a changed shadow of it."""
        return self.task.backbone

    def embed(self, pooled: Tensor) -> Tensor:
        """Unit image embeddings [..., E] in the method's joint space, of pooled features [..., D] of ``tower``."""
        return self.task.frozen.embed(pooled)

    def encode_tokens(self, x: Tensor) -> Tensor:
        """Unit image embeddings [B, E] float32 of embedded patches [B, N, D], as ``vision.embed`` gives them."""
        vision = self.tower.vision
        for k in range(vision.depth):
            x = vision.block(k, x)
        return self.embed(vision.features(x).float())

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Unit image embeddings [B, E] float32 of normalised pixels [B, 3, H, W]. The caller holds the lock."""
        return self.encode_tokens(self.tower.vision.embed(pixels))

    def warm(self) -> None:
        """Encode the prompts, which are cached, so that ``see`` runs the image side alone."""
        self.classes()

    def see(self, pixels: Tensor, turn: Tensor | None = None) -> Tensor:
        """Logits [B, C] of normalised pixels [B, 3, H, W]. The caller holds the lock and decides about gradients.

        ``turn`` int64 [E]: the order into which the coordinates of the image embeddings are put before they are scored,
        to randomise the head. It changes nothing where every image has class embeddings of its own.
        """
        images = self.encode_image(pixels)
        return self.scores(images if turn is None else images[:, turn])

    def images(self, records: Sequence[ImageRecord]) -> Tensor:
        """Unit image embeddings [B, E], from cached features of the frozen model."""
        return self.embed(self.task.frozen.pooled(records))

    def placed(self, patches: Tensor, pooled: Tensor) -> Tensor:
        """Unit image embeddings [B, E] of images that the frozen model has just seen, from both of what it gave: their
        embedded patches [B, N, D] and pooled features [B, D]. Nothing is kept."""
        return self.embed(pooled)

    def classes(self) -> Tensor:
        """Unit class embeddings [C, E] in the method's joint space."""
        return self.task.classes()

    def encode_text(self, prompts: PromptTokens) -> Tensor:
        """Unit class embeddings [C, E] of tokenised prompts, computed now."""
        return ensemble(self.encode_prompts(prompts.tokens), prompts.counts)

    def encode_prompts(self, tokens: Tensor) -> Tensor:
        """Unit prompt embeddings [P, E] of tokens [P, L], each independent of the others."""
        return self.backbone.encode_text(tokens).float()

    def scores(self, images: Tensor) -> Tensor:
        """Logits [B, C] of unit image embeddings [B, E]."""
        return self.backbone.logit_scale * images @ self.classes().T

    def prepare(self, pixels: Tensor) -> Tensor:
        """The part of the forward pass before anything learned: here the pooled features [B, D] of the images."""
        return self.task.frozen.see(pixels)

    def judge(self, prepared: Tensor) -> Tensor:
        """The rest of the forward pass: logits [B, C] of what ``prepare`` gave."""
        return self.scores(self.embed(prepared))

    def logits(self, records: Sequence[ImageRecord]) -> Tensor:
        """Logits [B, C] of images; each is independent of the others."""
        with self.backbone.lock:
            return self.scores(self.images(records))

    @torch.no_grad()
    def embeddings(self, records: Sequence[ImageRecord]) -> tuple[Tensor, Tensor]:
        """Unit float32 embeddings of images [B, E] and classes [C, E] in the method's own joint space.

        The logits of probes, caches and NEARL, which has a probe beside it, are not scale x their cosine. Raises
        NearlError where a class has another embedding for every image (``nearl:image-context``).
        """
        with self.backbone.lock:
            return self.images(records).float(), self.classes().float()

    @torch.no_grad()
    def predict(self, records: Sequence[ImageRecord]) -> np.ndarray:
        """Probabilities float32 [B, C] relative to the prompts; rows sum to one, of findings those of each."""
        if not records:
            return np.zeros((0, len(self.task.prompt_set.classes)), np.float32)
        return shares(self.logits(records).float(), self.questions).cpu().numpy()

    def key(self, what: str) -> tuple:
        """A cache key for features of these very parameters, in the precision in use."""
        return what, self._version, torch.is_autocast_enabled(self.backbone.device.type)

    # ---- what maps see -----------------------------------------------------------------------------------------------

    def supports(self, card: MapCard) -> str:
        """A sentence that says why a map cannot be drawn of this method; "" if it can."""
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

    # ---- saving and restoring ----------------------------------------------------------------------------------------

    def config(self) -> dict:
        """What an adapter's ``config`` holds; plain JSON. `settings` reads it."""
        return {"options": self.options, "chosen": self.chosen}

    @classmethod
    def settings(cls, adapter: Adapter) -> dict:
        """Keyword arguments that make a method of this adapter's sizes. The adapter may come from anybody: raises
        ValueError, KeyError, TypeError or NearlError for values that do not fit its tensors."""
        options = adapter.config["options"]
        longest = max((size for tensor in adapter.state.values() for size in tensor.shape), default=0)
        if any(isinstance(v, bool) or not 0 <= v <= max(longest, 16) for v in options.values()):
            raise ValueError("an option that does not fit")
        return options

    def make_room(self, state: dict[str, Tensor]) -> None:
        """Resize tensors of variable size to those of ``state``."""

    def restore(self, adapter: Adapter) -> None:
        """Take over the state of an adapter of this method. Raises RuntimeError for tensors that do not fit."""
        self.make_room(adapter.state)
        self.learned.load_state_dict(adapter.state)
        self.chosen = dict(adapter.config.get("chosen", {}))
        self.source = adapter
        self.moved(0)

    def adapter(self) -> Adapter:
        """What was learned, for ``nearl.adapters.store``; of a restored method the adapter that it came from."""
        if self.source is not None:
            return self.source
        recipe, support = None, self.task.support
        if self._recipe is not None and self._steps:
            recipe = asdict(self._recipe) | {"steps_taken": self._steps}
        return new_adapter(
            self.learned.state_dict(),
            backbone=self.backbone.identity,
            config=self.config(),
            classes=list(self.taught.classes),
            prompts=self.taught.to_dict(),
            support_counts=self.counts,
            method=self.card.name,
            recipe=recipe,
            images=None if support is None else {"taught": fingerprints(self.backbone, support), "calibrated": []},
        )


class InsideTower(Method):
    """A method that works inside the image tower; of the frozen model it uses the embedded patches alone."""

    def images(self, records: Sequence[ImageRecord]) -> Tensor:
        frozen = self.task.frozen
        return frozen.of_images(self.key("image"), records, lambda some: self.encode_tokens(frozen.patches(some)))

    def placed(self, patches: Tensor, pooled: Tensor) -> Tensor:
        return self.encode_tokens(patches)

    def prepare(self, pixels: Tensor) -> Tensor:
        """Embedded patches [B, N, D]."""
        return self.tower.vision.embed(pixels)

    def judge(self, prepared: Tensor) -> Tensor:
        return self.scores(self.encode_tokens(prepared))


class InsideText(Method):
    """A method that changes the text tower; subclasses override ``encode_prompts``."""

    def classes(self) -> Tensor:
        groups = self.task.prompt_set.texts()
        texts = [text for group in groups for text in group]
        each = self.task.frozen.of_texts(self.key("text"), texts, self.encode_prompts)
        return ensemble(each, [len(group) for group in groups])
