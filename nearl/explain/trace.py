"""One forward pass of some images whose graph is kept, so that every map of every class can be read from it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from nearl.data.images import ImageRecord
from nearl.explain.capture import Capture
from nearl.explain.score import Score, Scorer
from nearl.methods.shows import Queries, Update

CAM, POOL, LAST, QUERIES = ("cam",), ("pool",), ("last",), ("queries",)


def parts(adapter: nn.Module, args: tuple, out: Tensor) -> Update:
    """What one call of an adapter added, for `Capture`."""
    return adapter.parts(args, out)


class Trace:
    """The forward pass, and for each score at most one backward pass.

    ``logits`` [B, C]; ``tokens`` [B, N, D] as they are pooled; ``attention`` one [B, heads, N, N] per block;
    ``pool_attention`` [B, heads, 1, N] or None; ``norms`` the output [B, N, D] of each block's first norm; ``cam`` that
    of the tower's ``cam_layer``; ``updates`` {block: Update} of adapters; ``query_attention`` {block: [B, M, N + T]},
    what each of a method's queries attends to: the tokens, then the T sources of `Queries`.

    ``progress`` is called by slow maps between their passes with (passes done, passes in all); what it raises ends the
    map.

    Each image is independent of the others. ``gradient=False`` is the plain prediction with its attention and updates.
    The backbone's lock is held in every pass.
    """

    def __init__(self, scorer: Scorer, records: Sequence[ImageRecord], gradient: bool = True):
        self.scorer, self.method, self.backbone = scorer, scorer.method, scorer.backbone
        self.records, self.tower, self.gradient = list(records), scorer.backbone.vision, gradient
        adapters, self.queries = self.method.updates("vision"), self.method.queries()
        with self.backbone.lock, torch.set_grad_enabled(gradient), self._capture(adapters) as seen:
            self.pixels = self.backbone.pixels([record.image() for record in self.records])
            self.logits = scorer.logits(self.pixels)
        blocks = range(self.tower.depth)
        self.attention = [seen.attention[k][0] for k in blocks]
        self.pool_attention = (seen.attention[POOL] or [None])[0] if POOL in seen.attention else None
        self.norms = [seen.outputs["norm", k][0] for k in blocks]
        self.cam = seen.outputs[CAM][0]
        self.updates: dict[int, Update] = {k: seen.results["update", k][0] for k in adapters}
        self.tokens = seen.outputs[LAST][0]
        self.query_attention = {} if self.queries is None else _by_block(self.queries, seen.attention[QUERIES])
        self._grads: dict[tuple[Score, Hashable], Tensor] = {}
        self.progress: Callable[[int, int], None] = lambda done, total: None

    def _capture(self, adapters: dict[int, nn.Module]) -> Capture:
        tower, last = self.tower, self.tower.depth - 1
        inside: dict[Hashable, nn.Module] = dict(enumerate(tower.blocks))
        if tower.attention_pool is not None:
            inside[POOL] = tower.attention_pool
        if self.queries is not None:
            inside[QUERIES] = self.queries.module
        outputs = {("norm", k): tower.first_norm(k) for k in range(tower.depth)}
        outputs |= {CAM: tower.cam_layer, LAST: adapters.get(last, tower.blocks[last])}
        calls = {("update", k): (adapter, parts) for k, adapter in adapters.items()}
        return Capture(inside, outputs, calls, leaf=tower.blocks[0])

    def grad(self, score: Score, *keys: Hashable) -> list[Tensor]:
        """The gradients of the score with respect to what was seen.

        ``keys``: a block's number for its attention, ``POOL`` for that of the pooling, ``CAM``, or ("norm", k). The
        gradients are float32, detached, and zero where the score does not depend on it. ``CAM`` alone needs only the
        way to that layer; any other key fetches all of them in one backward pass.
        """
        missing = [key for key in keys if (score, key) not in self._grads]
        if missing:
            wanted = {CAM: self.cam} if missing == [CAM] else self._differentiable()
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

    def readout(self) -> Tensor:
        """The weight of each last token in the pooling, [B, N], rows sum to one: all on the class token, equal for all
        patches, or by the attention that pools."""
        if self.pool_attention is not None:
            return self.pool_attention.detach().mean((1, 2))
        prefix = self.tower.prefix_tokens
        readout = torch.zeros(self.tokens.shape[:2], device=self.tokens.device)
        if self.tower.token_pooled:
            readout[:, 0] = 1.0
        else:
            readout[:, prefix:] = 1 / (readout.shape[1] - prefix)
        return readout

    def passes(self, score: Score, image: int, batches: Iterable[Tensor], count: int) -> Tensor:
        """The scores [K] of further pixels, ``count`` batches [., 3, H, W], for the image with this number."""
        scores = []
        for number, pixels in enumerate(batches):
            self.progress(image * count + number, len(self.records) * count)
            with self.backbone.lock:
                scores.append(score.of(self.scorer.logits(pixels)))
        return torch.cat(scores)

    def to_grid(self, per_token: Tensor) -> np.ndarray:
        """[B, N] -> float32 [B, grid height, grid width], without the prefix tokens."""
        patches = per_token.detach()[:, self.tower.prefix_tokens :].float()
        return patches.unflatten(1, self.tower.grid).cpu().numpy()

    def to_channels(self, tokens: Tensor) -> np.ndarray:
        """[B, N, D] -> float32 [B, D, grid height, grid width]."""
        patches = tokens.detach()[:, self.tower.prefix_tokens :].float()
        return patches.unflatten(1, self.tower.grid).permute(0, 3, 1, 2).cpu().numpy()


def _by_block(queries: Queries, attention: list[Tensor]) -> dict[int, Tensor]:
    """Mean attention over heads, [B, M, N + T], at the steps that follow a vision block."""
    return {
        k: weights.detach().unflatten(1, (-1, queries.heads)).mean(2)
        for k, weights in zip(queries.steps, attention, strict=True)
        if k is not None
    }
