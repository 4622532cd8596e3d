"""The towers of open_clip's own."""

from __future__ import annotations

import torch
from open_clip.model import CLIP
from open_clip.transformer import TextTransformer, VisionTransformer, text_global_pool
from torch import Tensor, nn

from nearl.backbones.towers.attention import FusedAttention
from nearl.backbones.towers.base import TextState, TextTower, VisionTower, all_parameters, norm_parameters


class OpenClipVision(FusedAttention, VisionTower):
    """open_clip's ``VisionTransformer``."""

    def __init__(self, model: nn.Module):
        self.visual = visual = model.visual
        self.blocks, self.width = visual.transformer.resblocks, visual.conv1.out_channels
        self.grid, self.prefix_tokens = tuple(visual.grid_size), 1
        self.token_pooled = visual.attn_pool is None and visual.pool_type == "tok"
        self.entry_norm = isinstance(visual.ln_pre, nn.LayerNorm)
        self.prepare()

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        return isinstance(model.visual, VisionTransformer)

    def embed(self, images: Tensor) -> Tensor:
        return self.visual._embeds(images)

    def features(self, x: Tensor) -> Tensor:
        return self.visual._pool(x)[0]

    @property
    def projection(self) -> tuple[Tensor, Tensor | None] | None:
        return None if self.visual.proj is None else (self.visual.proj.T, None)

    def pool(self, x: Tensor) -> Tensor:
        pooled = self.features(x)
        return pooled if self.visual.proj is None else pooled @ self.visual.proj

    def norms_and_head(self) -> list[tuple[nn.Module, str]]:
        """See `Tower.norms_and_head`."""
        visual = self.visual
        projection = [] if visual.proj is None else [(visual, "proj")]
        return norm_parameters(self.blocks, visual.attn_pool, visual.ln_post) + projection

    def first_norm(self, k: int) -> nn.Module:
        return self.blocks[k].ln_1

    @property
    def attention_pool(self) -> nn.Module | None:
        return self.visual.attn_pool

    @property
    def cam_layer(self) -> nn.Module:
        return self.first_norm(self.depth - 1) if self.token_pooled else self.blocks[-1]


class OpenClipText(FusedAttention, TextTower):
    """open_clip's ``TextTransformer``, or the text half of its ``CLIP``, which holds the same parts itself."""

    def __init__(self, model: nn.Module):
        own = isinstance(model, CLIP)
        self.text = text = model if own else model.text
        self.blocks, self.width = text.transformer.resblocks, text.transformer.width
        self.token_table = text.token_embedding.weight
        self.pool_type = text.text_pool_type if own else text.pool_type
        self.eos_id = text.text_eos_id if own else text.eos_id
        self.prepare()

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        text = getattr(model, "text", None)
        return isinstance(model, CLIP) or (isinstance(text, TextTransformer) and text.cls_emb is None)

    def embed(self, tokens: Tensor, words: Tensor | None = None) -> tuple[Tensor, TextState]:
        """See `TextTower.embed`. A causal tower is cut after the end of the longest text."""
        text, causal = self.text, self.text.attn_mask is not None
        if causal and self.pool_type in ("argmax", "eos"):
            end = tokens.argmax(-1) if self.pool_type == "argmax" else (tokens == self.eos_id).int().argmax(-1)
            tokens = tokens[:, : int(end.max()) + 1]
            valid = torch.arange(tokens.shape[1], device=tokens.device) <= end[:, None]
        else:
            valid = torch.ones_like(tokens, dtype=torch.bool)
        length = tokens.shape[1]
        dtype = text.transformer.get_cast_dtype()
        words = text.token_embedding(tokens) if words is None else words[:, :length]
        x = words.to(dtype) + text.positional_embedding[:length].to(dtype)
        return x, TextState(tokens, text.attn_mask[:length, :length] if causal else None, valid)

    def block(self, k: int, x: Tensor, state: TextState) -> Tensor:
        return self.blocks[k](x, attn_mask=state.mask)

    def pool(self, x: Tensor, state: TextState) -> Tensor:
        pooled = text_global_pool(self.text.ln_final(x), state.tokens, self.pool_type, eos_token_id=self.eos_id)
        projection = self.text.text_projection
        if projection is None:
            return pooled
        return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection

    def norms_and_head(self) -> list[tuple[nn.Module, str]]:
        """See `Tower.norms_and_head`."""
        last = self.text.text_projection
        named = [(self.text, "text_projection")] if isinstance(last, nn.Parameter) else all_parameters(last)
        return norm_parameters(self.blocks, self.text.ln_final) + named
