"""The training loop that all gradient-trained methods but NEARL share: NEARL's batches, schedule and precision."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nearl.errors import NearlError
from nearl.methods.base import Method
from nearl.methods.nearl.finetune import Progress, Recipe, balanced_batch, groups, has_fast_bf16, learning_rate


def descend(
    method: Method,
    recipe: Recipe,
    logits: Callable[[np.ndarray, np.random.Generator], Tensor],
    penalty: Callable[[], Tensor] | None = None,
) -> Iterator[Progress]:
    """AdamW on the cross-entropy of ``logits(index, rng)`` [B, C] for drawn support images, plus a ``penalty``.

    The backbone's lock is held for one step at a time. NearlError if the loss is not finite.
    """
    task, rng = method.task, np.random.default_rng(recipe.seed)
    parameters = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(groups(method, recipe.weight_decay), lr=recipe.lr)
    device = task.backbone.device
    bf16 = recipe.precision == "auto" and not method.card.features and has_fast_bf16(task.backbone)
    started = time.monotonic()
    for step in range(recipe.steps):
        lr = recipe.lr * learning_rate(step, recipe.steps, recipe.warmup)
        for group in optimizer.param_groups:
            group["lr"] = lr
        index = balanced_batch(task.support.labels, recipe.batch_size, rng)
        with task.backbone.lock:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                scores = logits(index, rng)
            loss = F.cross_entropy(scores.float(), task.labels[index], label_smoothing=recipe.label_smoothing)
            loss = loss if penalty is None else loss + penalty()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
            optimizer.step()
        value = loss.item()
        if not math.isfinite(value):
            raise NearlError(f"Training broke down at step {step + 1} (the loss is {value}); try a smaller lr.")
        left = (time.monotonic() - started) / (step + 1) * (recipe.steps - step - 1)
        yield Progress(step + 1, recipe.steps, value, lr, left)


def draw_view(views: Tensor, index: np.ndarray, rng: np.random.Generator) -> Tensor:
    """A random one of the cached views [V, N, ...] of each drawn image, [B, ...]."""
    return views[torch.from_numpy(rng.integers(len(views), size=len(index))), torch.from_numpy(index)]
