"""Unified Synergy Embedding Transformer (USEformer), after Peng et al., NEARL-CLIP, arXiv 2508.04101.

A few learned queries pass through both towers, one step per depth, and exchange information between image and text.
The paper gives no sizes; ours are chosen to give its 1.46 M parameters with CLIP ViT-B/16.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention without biases, 4 u^2 parameters.

    A few queries attend to hundreds of tokens, so keys and values are never formed: W_q^T W_k is applied to the queries
    and W_v^T W_o to what they gather, which gives the same result for less work.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))

    def products(self) -> tuple[Tensor, Tensor]:
        """W_q^T W_k / sqrt(u / H) of every head, [u, H u], and W_v^T W_o, [H u, u]; for all steps of a pass."""
        q, k, v = (layer.weight.unflatten(0, (self.heads, -1)) for layer in (self.q, self.k, self.v))  # [H, u / H, u]
        out = self.out.weight.T.unflatten(0, (self.heads, -1))
        ask = (q.mT * q.shape[1] ** -0.5) @ k
        return ask.transpose(0, 1).flatten(1), (v.mT @ out).flatten(0, 1)

    def forward(
        self, x: Tensor, context: Tensor, mask: Tensor | None = None, products: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """The output [B, M, u] of x [B, M, u] attending to context [B, T, u]; ``mask`` [B, 1, T] is added to the
        scores."""
        ask, answer = products or self.products()
        q = (x @ ask).unflatten(-1, (self.heads, -1)).flatten(1, 2)  # one "head" that all M x H queries share
        scores = q @ context.mT  # [B, M H, T]: few queries, so a fused kernel does not pay
        if mask is not None:
            scores = scores + mask
        gathered = scores.softmax(-1) @ context
        return gathered.unflatten(1, (-1, self.heads)).flatten(2) @ answer


class SynergyBlock(nn.Module):
    """Pre-norm cross-attention, self-attention and MLP: (8 + 2 ratio) u^2 + 3 u parameters."""

    def __init__(self, width: int, heads: int, mlp_ratio: float):
        super().__init__()
        hidden = int(width * mlp_ratio)
        norm = lambda: nn.LayerNorm(width, bias=False)  # noqa: E731
        self.norm_cross, self.norm_self, self.norm_mlp = norm(), norm(), norm()
        self.cross, self.self = Attention(width, heads), Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden, bias=False), nn.GELU(), nn.Linear(hidden, width, bias=False))

    def forward(self, s: Tensor, context: Tensor, mask: Tensor | None, products: tuple) -> Tensor:
        cross, self_ = products
        s = s + self.cross(self.norm_cross(s), context, mask, cross)
        x = self.norm_self(s)
        s = s + self.self(x, x, None, self_)
        return s + self.mlp(self.norm_mlp(s))


class Pass(NamedTuple):
    """What the steps of one pass through a tower share, computed once."""

    depth: Sequence[Tensor]
    """The row of each depth."""
    products: list[tuple]
    """For each block the products of its cross-attention and its self-attention (`Attention.products`)."""


class USEformer(nn.Module):
    """Synergy queries S [B, M, u], stepped once per depth with blocks that all depths share.

    ``S_k = blocks(S_{k-1} + depth_k; context)``. Tokens, layer-normed without parameters (see OCA), enter through
    ``in_vision`` and ``in_text``; synergy vectors leave through ``out_vision`` and ``out_text``. What is between these
    runs in float32, also under autocast: the matrices are so small that casts cost more than they save. ``widths``: of
    the vision and the text tower.
    """

    def __init__(
        self,
        widths: tuple[int, int],
        steps: int,
        width: int,
        queries: int,
        heads: int,
        blocks: int,
        mlp_ratio: float,
    ):
        super().__init__()
        vision_width, text_width = widths
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.depth = nn.Parameter(torch.randn(steps, width) * 0.02)
        self.in_vision = nn.Linear(vision_width, width, bias=False)
        self.in_text = nn.Linear(text_width, width, bias=False)
        self.out_vision = nn.Linear(width, vision_width, bias=False)
        self.out_text = nn.Linear(width, text_width, bias=False)
        self.blocks = nn.ModuleList(SynergyBlock(width, heads, mlp_ratio) for _ in range(blocks))
        self.norm_context, self.norm_out = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        for layer in (self.in_vision, self.in_text, self.out_vision, self.out_text):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    def start(self, batch: int) -> tuple[Tensor, Pass]:
        """The learned queries before the first step, [batch, M, u], and what all steps of a pass share."""
        with torch.autocast(self.queries.device.type, enabled=False):
            products = [(block.cross.products(), block.self.products()) for block in self.blocks]
        return self.queries.expand(batch, -1, -1), Pass(self.depth.unbind(), products)

    def step(
        self,
        k: int,
        s: Tensor,
        shared: Pass,
        vision: Tensor | None = None,
        text: Tensor | None = None,
        support: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """S [B, M, u] after depth ``k``, which reads ``support`` [1, T_s, u], ``vision`` [B, T_v, D_v] and ``text``
        [B or 1, T_t, D_t], in this order; ``mask`` [B, 1, T_s + T_v + T_t] is added to the scores."""
        read = [None if vision is None else self.in_vision(vision), None if text is None else self.in_text(text)]
        read = [part.float().expand(len(s), -1, -1) for part in (support, *read) if part is not None]
        with torch.autocast(s.device.type, enabled=False):
            s, context = s + shared.depth[k], self.norm_context(torch.cat(read, dim=1))
            for block, products in zip(self.blocks, shared.products, strict=True):
                s = block(s, context, mask, products)
        return s

    def to_vision(self, s: Tensor) -> Tensor:
        """z_v [B, M, D_v] of the queries s [B, M, u]."""
        with torch.autocast(s.device.type, enabled=False):
            return self.out_vision(self.norm_out(s))

    def to_text(self, s: Tensor) -> Tensor:
        """z_t [B, M, D_t] of the queries s [B, M, u]."""
        with torch.autocast(s.device.type, enabled=False):
            return self.out_text(self.norm_out(s))


class StaticQueries(nn.Module):
    """Replaces the USEformer in an ablation: synergy queries [M, u] learned for each depth, which read nothing."""

    def __init__(self, widths: tuple[int, int], steps: int, width: int, queries: int):
        super().__init__()
        vision_width, text_width = widths
        self.queries = nn.Parameter(torch.randn(steps, queries, width))
        self.out_vision = nn.Linear(width, vision_width, bias=False)
        self.out_text = nn.Linear(width, text_width, bias=False)
        self.norm_out = nn.LayerNorm(width, bias=False)
        self.blocks = nn.ModuleList()
        for layer in (self.out_vision, self.out_text):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    def start(self, batch: int) -> tuple[Tensor, Pass]:
        """The queries of the first depth, [batch, M, u], and those of all."""
        depth = self.queries.unbind()
        return depth[0].expand(batch, -1, -1), Pass(depth, [])

    def step(self, k: int, s: Tensor, shared: Pass, **_: Tensor | None) -> Tensor:
        """The queries [B, M, u] of depth ``k``; they read nothing."""
        return shared.depth[k].expand(len(s), -1, -1)

    to_vision, to_text = USEformer.to_vision, USEformer.to_text
