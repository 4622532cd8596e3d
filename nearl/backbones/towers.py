"""One step-through view of every tower family: ``embed`` -> ``block(k)`` ... -> ``pool``.

NEARL adds to the tokens between two blocks of *both* towers, so it has to drive them block by block. Everything that
depends on the insides of open_clip 3.3, timm or transformers lives in this file and nowhere else.

Shapes: B images, N vision tokens (prefix tokens first, then the grid row by row), C texts, L text tokens, d the width
of a tower, E the width of the joint embedding space. All tensors are batch first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.model import CLIP, CustomTextCLIP
from open_clip.timm_model import TimmModel
from open_clip.transformer import TextTransformer, VisionTransformer, text_global_pool
from timm.models.vision_transformer import VisionTransformer as TimmVisionTransformer
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from nearl.backbones.attention import prepare
from nearl.errors import NearlError


class OpenClipVision:
    """open_clip's own ``VisionTransformer``."""

    def __init__(self, visual: VisionTransformer):
        self.visual = visual
        self.blocks = visual.transformer.resblocks
        prepare(self.blocks)
        self.depth, self.width = len(self.blocks), visual.conv1.out_channels
        self.grid, self.prefix_tokens = tuple(visual.grid_size), 1

    def embed(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] float, normalised -> tokens [B, N, d] as the first block takes them."""
        return self.visual._embeds(images)

    def block(self, k: int, x: Tensor) -> Tensor:
        """Tokens [B, N, d] after block ``k``."""
        return self.blocks[k](x)

    def features(self, x: Tensor) -> Tensor:
        """Tokens [B, N, d] after the last block -> pooled features [B, P], before the linear projection."""
        return self.visual._pool(x)[0]

    @property
    def projection(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight [E, P] and bias [E] or None of the projection after ``features``; None where there is none."""
        return None if self.visual.proj is None else (self.visual.proj.T, None)

    def pool(self, x: Tensor) -> Tensor:
        """Tokens [B, N, d] after the last block -> image embeddings [B, E], not normalised."""
        pooled = self.features(x)
        return pooled if self.visual.proj is None else pooled @ self.visual.proj

    @property
    def cam_layer(self) -> nn.Module:
        """The last module whose output holds patch tokens that carry gradient (see TimmVision)."""
        by_token = self.visual.attn_pool is None and self.visual.pool_type == "tok"
        return self.blocks[-1].ln_1 if by_token else self.blocks[-1]


class TimmVision:
    """open_clip's ``TimmModel`` around a timm ``VisionTransformer`` (BiomedCLIP, SigLIP, the embedded backbone)."""

    def __init__(self, visual: TimmModel):
        self.visual, self.trunk = visual, visual.trunk
        self.blocks = self.trunk.blocks
        self.depth, self.width = len(self.blocks), self.trunk.embed_dim
        self.grid, self.prefix_tokens = tuple(self.trunk.patch_embed.grid_size), self.trunk.num_prefix_tokens
        prepare(self.blocks)
        last = getattr(visual.head, "proj", self.trunk.head)
        self.linear = last if isinstance(last, nn.Linear) else None

    def embed(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] float, normalised -> tokens [B, N, d] as the first block takes them."""
        trunk = self.trunk
        return trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(images))))

    def block(self, k: int, x: Tensor) -> Tensor:
        """Tokens [B, N, d] after block ``k``."""
        return self.blocks[k](x)

    def features(self, x: Tensor) -> Tensor:
        """Tokens [B, N, d] after the last block -> pooled features [B, P], before the linear projection.

        Where there is no linear projection (none, or an MLP), they are the embeddings themselves.
        """
        pooled = self.trunk.forward_head(self.trunk.norm(x), pre_logits=True)
        return pooled if self.linear is not None else self.visual.head(pooled)

    @property
    def projection(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight [E, P] and bias [E] or None of the projection after ``features``; None where there is none."""
        return None if self.linear is None else (self.linear.weight, self.linear.bias)

    def pool(self, x: Tensor) -> Tensor:
        """Tokens [B, N, d] after the last block -> image embeddings [B, E], not normalised."""
        return self.visual.head(self.trunk.forward_head(self.trunk.norm(x)))

    @property
    def cam_layer(self) -> nn.Module:
        """The last module whose output holds patch tokens that carry gradient.

        Where the class token is pooled, only the attention of the last block still reads the patches: the norm before
        it. Where the patches themselves are pooled (mean or attention), it is the final norm.
        """
        by_token = self.trunk.attn_pool is None and self.trunk.global_pool == "token"
        return self.blocks[-1].norm1 if by_token else self.trunk.norm


@dataclass
class TextState:
    """What the text blocks and the pooling need besides the tokens' features.

    ``tokens`` [C, L] int64, cut to the longest text where that changes nothing; ``mask`` the additive attention mask
    that the blocks take, or None; ``valid`` [C, L] bool, True where a token belongs to the text.
    """

    tokens: Tensor
    mask: Tensor | None
    valid: Tensor


class OpenClipText:
    """open_clip's ``TextTransformer``, or the text half of its ``CLIP``, which holds the same parts itself."""

    def __init__(self, text: TextTransformer | CLIP):
        self.text = text
        self.blocks = text.transformer.resblocks
        prepare(self.blocks)
        self.depth, self.width = len(self.blocks), text.transformer.width
        self.token_table = text.token_embedding.weight
        self.pool_type = text.text_pool_type if isinstance(text, CLIP) else text.pool_type
        self.eos_id = text.text_eos_id if isinstance(text, CLIP) else text.eos_id

    def embed(self, tokens: Tensor, words: Tensor | None = None) -> tuple[Tensor, TextState]:
        """[C, L] int64 -> (features [C, L', d], state), cut after the last text's end where the tower is causal.

        ``words`` [C, L, d]: vectors to read in place of the tokens' rows in ``token_table``.
        """
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
        """Features [C, L, d] after block ``k``."""
        return self.blocks[k](x, attn_mask=state.mask)

    def pool(self, x: Tensor, state: TextState) -> Tensor:
        """Features [C, L, d] after the last block -> text embeddings [C, E], not normalised."""
        pooled = text_global_pool(self.text.ln_final(x), state.tokens, self.pool_type, eos_token_id=self.eos_id)
        projection = self.text.text_projection
        if projection is None:
            return pooled
        return projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection


class HuggingFaceText:
    """open_clip's ``HFTextEncoder`` around a BERT-like encoder (BERT, RoBERTa, XLM-R)."""

    def __init__(self, text: HFTextEncoder):
        self.text, self.transformer = text, text.transformer
        self.blocks = self.transformer.encoder.layer
        self.depth, self.width = len(self.blocks), text.config.hidden_size
        self.token_table = self.transformer.get_input_embeddings().weight

    def embed(self, tokens: Tensor, words: Tensor | None = None) -> tuple[Tensor, TextState]:
        """[C, L] int64 -> (features [C, L', d], state). Padding is masked, so the common padding is cut off.

        ``words`` [C, L, d]: vectors to read in place of the tokens' rows in ``token_table``.
        """
        valid = tokens != self.text.config.pad_token_id
        length = max(int((valid * torch.arange(1, tokens.shape[1] + 1, device=tokens.device)).max()), 1)
        tokens, valid = tokens[:, :length], valid[:, :length]
        read = {"input_ids": tokens} if words is None else {"inputs_embeds": words[:, :length]}
        x = self.transformer.embeddings(**read)
        mask = torch.zeros(valid.shape, dtype=x.dtype, device=x.device).masked_fill(~valid, torch.finfo(x.dtype).min)
        return x, TextState(tokens, mask[:, None, None, :], valid)

    def block(self, k: int, x: Tensor, state: TextState) -> Tensor:
        """Features [C, L, d] after block ``k``."""
        out = self.blocks[k](x, state.mask)
        return out[0] if isinstance(out, tuple) else out  # transformers 4 returns a tuple

    def pool(self, x: Tensor, state: TextState) -> Tensor:
        """Features [C, L, d] after the last block -> text embeddings [C, E], not normalised."""
        pooler = self.transformer.pooler
        out = BaseModelOutputWithPooling(last_hidden_state=x, pooler_output=None if pooler is None else pooler(x))
        return self.text.proj(self.text.pooler(out, state.valid.long()))


VisionTower = OpenClipVision | TimmVision
TextTower = OpenClipText | HuggingFaceText


def vision_tower(model: nn.Module) -> VisionTower:
    """The step-through view of ``model.visual``.

    Raises NearlError for a tower that is not a plain Vision Transformer.
    """
    visual = model.visual
    if isinstance(visual, VisionTransformer):
        return OpenClipVision(visual)
    if isinstance(visual, TimmModel) and isinstance(visual.trunk, TimmVisionTransformer):
        return TimmVision(visual)
    kind = type(visual.trunk if isinstance(visual, TimmModel) else visual).__name__
    raise NearlError(
        f"This model sees with a {kind}, but NEARL adapts the tokens between Transformer blocks, which only a Vision "
        "Transformer has; choose a ViT model such as 'ViT-B-16/openai'."
    )


def text_tower(model: nn.Module) -> TextTower:
    """The step-through view of the text tower.

    Raises NearlError for a text tower that is not a plain Transformer encoder.
    """
    text = getattr(model, "text", model)
    if isinstance(model, CLIP) or (isinstance(text, TextTransformer) and text.cls_emb is None):
        return OpenClipText(text)
    if isinstance(text, HFTextEncoder) and hasattr(getattr(text.transformer, "encoder", None), "layer"):
        return HuggingFaceText(text)
    raise NearlError(
        f"This model reads text with a {type(getattr(text, 'transformer', text)).__name__}, whose blocks NEARL cannot "
        "step through; choose a model with a CLIP, SigLIP or BERT text tower."
    )


def is_dual_encoder(model: nn.Module) -> bool:
    """True for open_clip's ``CLIP`` and ``CustomTextCLIP``; CoCa, for one, is neither."""
    return isinstance(model, CLIP | CustomTextCLIP)
