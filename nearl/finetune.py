"""Fine-tuning on a support set: one loop, read from top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from nearl.backbones import Backbone
from nearl.data.labelled import LabelledSet
from nearl.errors import NearlError
from nearl.model import NearlCLIP, NearlConfig, PromptTokens
from nearl.prompts import PromptSet
from nearl.store import Adapter, new_adapter

MAX_VIEWS = 512


@dataclass(frozen=True)
class Recipe:
    """How to train; the paper publishes none of it, so every value is our choice.

    ``steps`` of AdamW at ``lr`` (linear ``warmup`` then cosine to zero), ``batch_size`` images drawn with every class
    equally likely, ``weight_decay``, gradients clipped to norm ``clip``, ``label_smoothing``, ``augment`` ("none" or
    "gentle": crop, rotation, brightness and contrast, never a flip) in up to ``views`` ways per image, at most
    ``prompts_per_class`` prompts per class and step, ``precision`` ("auto": bf16 autocast where it is faster,
    "float32"), ``seed``.
    """

    steps: int = 60
    batch_size: int = 16
    lr: float = 3e-3
    warmup: int = 5
    weight_decay: float = 0.01
    clip: float = 1.0
    label_smoothing: float = 0.1
    augment: str = "gentle"
    views: int = 8
    prompts_per_class: int = 4
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self):
        if self.steps < 1 or self.batch_size < 1 or self.lr <= 0:
            raise NearlError("Training needs at least one step, one image per batch and a learning rate above zero.")
        if self.augment not in ("none", "gentle") or self.precision not in ("auto", "float32"):
            raise NearlError("augment must be 'none' or 'gentle', and precision 'auto' or 'float32'.")

    @classmethod
    def preset(cls, name: str, **changes) -> Recipe:
        """ "quick", "balanced" or "thorough": the same recipe with fewer or more steps."""
        steps = {"quick": 30, "balanced": 60, "thorough": 200}
        if name not in steps:
            raise NearlError(f"There is no preset called '{name}'; choose one of {', '.join(steps)}.")
        return replace(cls(steps=steps[name]), **changes)


@dataclass(frozen=True)
class Progress:
    """One optimiser step done: ``loss`` and ``lr`` of that step, an estimate of the ``seconds_left``, and, with the
    last step only, the finished ``adapter``."""

    step: int
    steps: int
    loss: float
    lr: float
    seconds_left: float
    adapter: Adapter | None = None


def finetune(
    backbone: Backbone,
    support: LabelledSet,
    prompt_set: PromptSet,
    config: NearlConfig | None = None,
    recipe: Recipe | None = None,
) -> Iterator[Progress]:
    """Teach a NEARL adapter; yields a Progress after each step. Stop iterating to cancel; nothing is left behind.

    ``prompt_set`` must name the classes of ``support`` in the same order. The backbone is not changed; its lock is held
    for one step at a time. Deterministic for a seed on one machine.
    Raises NearlError for a support set that cannot be taught.
    """
    recipe = recipe or Recipe()
    _check(support, prompt_set)
    rng = np.random.default_rng(recipe.seed)
    device = backbone.device
    with backbone.lock, torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = NearlCLIP(backbone, config)
    optimizer = torch.optim.AdamW(_groups(model, recipe.weight_decay), lr=recipe.lr)
    views = Views(backbone, support, recipe)
    labels = torch.tensor(support.labels)
    texts = [backbone.tokenize(group) for group in prompt_set.texts()]
    autocast = torch.autocast(
        device.type, torch.bfloat16, enabled=recipe.precision == "auto" and has_fast_bf16(backbone)
    )
    started = time.monotonic()

    for step in range(recipe.steps):
        lr = recipe.lr * learning_rate(step, recipe)
        for group in optimizer.param_groups:
            group["lr"] = lr
        index = balanced_batch(support.labels, recipe.batch_size, rng)
        with backbone.lock, autocast:
            prompts = draw_prompts(texts, recipe.prompts_per_class, rng)
            logits = model.forward_tokens(views.draw(index, rng), prompts)
            loss = F.cross_entropy(logits.float(), labels[index].to(device), label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
        value = loss.item()
        if not math.isfinite(value):
            raise NearlError(f"Training broke down at step {step + 1} (the loss is {value}); try a smaller lr.")
        left = (time.monotonic() - started) / (step + 1) * (recipe.steps - step - 1)
        adapter = None
        if step + 1 == recipe.steps:
            adapter = new_adapter(
                model.state_dict(),
                backbone=backbone.identity,
                config=model.config.to_dict(),
                classes=support.classes,
                prompts=prompt_set.to_dict(),
                support_counts=support.counts(),
                recipe=asdict(recipe),
            )
        yield Progress(step + 1, recipe.steps, value, lr, left, adapter)


class Views:
    """The support images as embedded patches, each in a few augmented ways.

    What comes before the first block (a convolutional stem in the embedded backbone) is never adapted, so every view
    is embedded once, when it is first drawn, and kept. ``MAX_VIEWS`` bounds the memory: many images have fewer views
    each.
    """

    def __init__(self, backbone: Backbone, support: LabelledSet, recipe: Recipe):
        self.backbone = backbone
        self.images = torch.stack([backbone.to_uint8(record.image()) for record in support.records])  # decoded once
        self.augmented = recipe.augment == "gentle"
        self.count = max(1, min(recipe.views, MAX_VIEWS // len(self.images))) if self.augmented else 1
        self.tokens: dict[tuple[int, int], Tensor] = {}

    @torch.no_grad()
    def draw(self, index: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Embedded patches [B, N, d] of a random view of each image in ``index``."""
        keys = [(int(i), int(v)) for i, v in zip(index, rng.integers(self.count, size=len(index)), strict=True)]
        new = [key for key in dict.fromkeys(keys) if key not in self.tokens]
        if new:
            images = self.images[[i for i, _ in new]]
            images = augment(images, rng) if self.augmented else images
            self.tokens.update(zip(new, self.backbone.vision.embed(self.backbone.normalise(images)), strict=True))
        return torch.stack([self.tokens[key] for key in keys])


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then half a cosine to zero; a factor in 0..1."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup) / max(recipe.steps - recipe.warmup, 1)))


def balanced_batch(labels: list[int], size: int, rng: np.random.Generator) -> np.ndarray:
    """``size`` image indices, every class equally likely, no image twice while its class still has others."""
    by_class = [np.flatnonzero(np.asarray(labels) == c) for c in sorted(set(labels))]
    order = rng.permutation(len(by_class))
    queues = [iter(()) for _ in by_class]
    picked = []
    for i in range(size):
        c = order[i % len(by_class)]
        index = next(queues[c], None)
        if index is None:
            queues[c] = iter(rng.permutation(by_class[c]))
            index = next(queues[c])
        picked.append(index)
    return np.array(picked)


def draw_prompts(texts: list[Tensor], most: int, rng: np.random.Generator) -> PromptTokens:
    """Up to ``most`` prompts of each class, as one batch of tokens."""
    drawn = [t[np.sort(rng.permutation(len(t))[:most])] for t in texts]
    return PromptTokens(torch.cat(drawn), [len(t) for t in drawn])


def augment(images: Tensor, rng: np.random.Generator) -> Tensor:
    """uint8 [B, 3, H, W] -> the same, each image cropped (70-100 % of its area), turned (up to 10 degrees), and changed
    in brightness and contrast (up to 20 %). Never flipped: left and right mean something in medical images."""
    height, width = images.shape[-2:]
    out = []
    for image in images:
        scale = math.sqrt(rng.uniform(0.7, 1.0))
        h, w = round(height * scale), round(width * scale)
        top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
        image = v2.functional.rotate(image, rng.uniform(-10, 10), v2.InterpolationMode.BILINEAR)
        image = v2.functional.resized_crop(image, int(top), int(left), h, w, [height, width], antialias=True)
        image = v2.functional.adjust_brightness(image, rng.uniform(0.8, 1.2))
        out.append(v2.functional.adjust_contrast(image, rng.uniform(0.8, 1.2)))
    return torch.stack(out)


def has_fast_bf16(backbone: Backbone) -> bool:
    """Whether bf16 autocast is faster than float32 for this backbone on its device.

    On CPUs ``nn.MultiheadAttention``, which open_clip's own towers are built of, takes a path in bf16 that is five
    times slower than float32 (measured with torch 2.15), so there bf16 is for timm's towers only.
    """
    device = backbone.device
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    slow = any(isinstance(module, nn.MultiheadAttention) for module in backbone.vision.blocks.modules())
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported() and not slow


def _groups(model: NearlCLIP, weight_decay: float) -> list[dict]:
    """Weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _check(support: LabelledSet, prompt_set: PromptSet) -> None:
    if len(support.classes) < 2:
        raise NearlError("Teaching needs at least two classes; add images of a second one.")
    if list(prompt_set.classes) != list(support.classes):
        raise NearlError(
            f"The prompts are for {', '.join(prompt_set.classes)}, but the images are of "
            f"{', '.join(support.classes)}; both must name the same classes in the same order."
        )
    empty = [name for name, count in support.counts().items() if count == 0]
    if empty:
        raise NearlError(f"The class '{empty[0]}' has no image that can be read; add some or remove the class.")
