"""One forward pass of some images that stays open, from which every map of every class is read."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nearl.data.images import ImageRecord
from nearl.explain.capture import Capture
from nearl.explain.score import Score, Scorer
from nearl.methods.shows import Update

CAM, POOL, LAST, QUERIES = ("cam",), ("pool",), ("last",), ("queries",)


class Trace:
    """The forward pass, and for each score at most one backward pass.

    ``logits`` [B, C]; ``tokens`` [B, N, d] as they are pooled; ``attention`` one [B, heads, N, N] per block;
    ``pool_attention`` [B, heads, 1, N] or None; ``norms`` the output [B, N, d] of each block's first norm; ``cam`` that
    of the tower's ``cam_layer``; ``updates`` {block: Update} of the adapters; ``query_attention`` {block: [B, M, N +
    C]}, what each synergy query attends to: the tokens, then the prompts' summaries.

    Each image is independent of the others. ``gradient=False`` is the plain prediction with its attention and updates,
    which need no gradient. The backbone's lock is held in every pass.
    """

    def __init__(self, scorer: Scorer, records: Sequence[ImageRecord], gradient: bool = True):
        self.scorer, self.backbone, self.records = scorer, scorer.backbone, list(records)
        self.tower, self.gradient = self.backbone.vision, gradient
        self.adapters, self.queries = scorer.method.updates("vision"), scorer.method.queries()
        with self.backbone.lock, torch.set_grad_enabled(gradient), self._capture() as seen:
            self.pixels = scorer.classifier.pixels(self.records)
            self.logits = scorer.logits(self.pixels)
        blocks = range(self.tower.depth)
        self.attention = [seen.attention[k][0] for k in blocks]
        self.pool_attention = (seen.attention[POOL] or [None])[0] if POOL in seen.attention else None
        self.norms = [seen.outputs["norm", k][0] for k in blocks]
        self.cam = seen.outputs[CAM][0]
        self.updates: dict[int, Update] = {k: seen.results["update", k][0] for k in self.adapters}
        self.tokens = seen.outputs[LAST][0]
        self.query_attention = self._query_attention(seen)
        self._grads: dict[tuple[Score, Hashable], Tensor] = {}

    def _capture(self) -> Capture:
        blocks = self.tower.blocks
        inside: dict[Hashable, nn.Module] = dict(enumerate(blocks))
        outputs = {("norm", k): self.tower.first_norm(k) for k in range(self.tower.depth)}
        outputs |= {CAM: self.tower.cam_layer, LAST: blocks[-1]}
        pool = self.tower.attention_pool
        if pool is not None:
            inside[POOL] = pool
        parts = lambda module, args, out: module.parts(args, out)  # noqa: E731
        calls = {("update", k): (adapter, parts) for k, adapter in self.adapters.items()}
        outputs[LAST] = self.adapters.get(len(blocks) - 1, blocks[-1])
        if self.queries is not None:
            inside[QUERIES] = self.queries.module
        return Capture(inside, outputs, calls, leaf=blocks[0])

    def _query_attention(self, seen: Capture) -> dict[int, Tensor]:
        """Of the first shared block, averaged over its heads, at the steps that end a vision block."""
        if self.queries is None or QUERIES not in seen.attention:
            return {}
        steps = zip(self.queries.steps, seen.attention[QUERIES], strict=True)
        weights = {k: w.detach().unflatten(1, (self.queries.heads, -1)) for k, w in steps}
        return {k: w.mean(1) for k, w in weights.items() if k is not None}

    def grad(self, score: Score, *keys: Hashable) -> list[Tensor]:
        """Gradients of the score with respect to what was seen: a block's number for its attention, ``POOL`` for that
        of the pooling, ``CAM``, or ("norm", k). Float32, detached, zero where the score does not depend on it.

        Whatever needs attention fetches everything in one backward pass; ``CAM`` alone needs only the way to that
        layer.
        """
        missing = [key for key in keys if (score, key) not in self._grads]
        if missing:
            wanted = self._differentiable()
            if missing == [CAM]:
                wanted = {CAM: self.cam}
            with self.backbone.lock, torch.enable_grad():
                value = score.of(self.logits).sum()
                found = torch.autograd.grad(value, list(wanted.values()), retain_graph=True, allow_unused=True)
            for (key, tensor), grad in zip(wanted.items(), found, strict=True):
                self._grads[score, key] = torch.zeros_like(tensor) if grad is None else grad.detach()
        return [self._grads[score, key] for key in keys]

    def _differentiable(self) -> dict[Hashable, Tensor]:
        tensors: dict[Hashable, Tensor] = dict(enumerate(self.attention))
        tensors |= {("norm", k): x for k, x in enumerate(self.norms)} | {CAM: self.cam}
        return tensors if self.pool_attention is None else {**tensors, POOL: self.pool_attention}

    @property
    def token_pooled(self) -> bool:
        """True where the class token alone is pooled, so that the last block's attention is the last to read
        patches."""
        return self.tower.token_pooled

    def to_grid(self, per_token: Tensor) -> np.ndarray:
        """[B, N] -> float32 [B, grid height, grid width], without the prefix tokens."""
        patches = per_token.detach()[:, self.tower.prefix_tokens :].float()
        return patches.unflatten(1, self.tower.grid).cpu().numpy()

    def to_channels(self, tokens: Tensor) -> np.ndarray:
        """[B, N, d] -> float32 [B, d, grid height, grid width]."""
        patches = tokens.detach()[:, self.tower.prefix_tokens :].float()
        return patches.unflatten(1, self.tower.grid).permute(0, 3, 1, 2).cpu().numpy()
