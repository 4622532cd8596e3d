"""The towers of transformers' CLIP and SigLIP (PLIP, PubMedCLIP, MedSigLIP, SigLIP 2 at a fixed resolution)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearl.backbones.towers.attention import PoolingAttention, hook_block
from nearl.backbones.towers.base import TextState, TextTower, VisionTower, all_parameters, norm_parameters


class TransformersModel(nn.Module):
    """transformers' ``CLIPModel`` or ``SiglipModel`` with the calls and names of open_clip's models.

    ``inner``: the model itself, unchanged. ``preprocess``: open_clip's preprocessing settings.
    """

    def __init__(self, inner: nn.Module, preprocess: dict):
        super().__init__()
        self.inner = inner
        self.context_length = inner.config.text_config.max_position_embeddings
        inner.vision_model.preprocess_cfg = preprocess
        inner.vision_model.image_size = preprocess["size"]

    @property
    def visual(self) -> nn.Module:
        """The image tower."""
        return self.inner.vision_model

    @property
    def logit_scale(self) -> Tensor:
        """The logarithm of the factor before cosine similarities."""
        return self.inner.logit_scale

    @property
    def logit_bias(self) -> Tensor | None:
        """What SigLIP adds to every logit; None in CLIP."""
        return getattr(self.inner, "logit_bias", None)

    def encode_image(self, images: Tensor, normalize: bool = False) -> Tensor:
        """Normalised pixels [B, 3, H, W] -> image embeddings [B, E], by transformers' own forward pass."""
        found = self.inner.get_image_features(pixel_values=images).pooler_output
        return F.normalize(found, dim=-1) if normalize else found

    def encode_text(self, tokens: Tensor, normalize: bool = False) -> Tensor:
        """Tokens [C, L] -> text embeddings [C, E], by transformers' own forward pass.

        No padding is masked: CLIP's blocks are causal and read nothing after a text's end, and SigLIP was trained
        with its padding.
        """
        found = self.inner.get_text_features(input_ids=tokens).pooler_output
        return F.normalize(found, dim=-1) if normalize else found


class _Blocks:
    """What the towers share: blocks with ``self_attn``, ``mlp``, ``layer_norm1``."""

    blocks: nn.ModuleList

    @property
    def heads(self) -> int:
        """Attention heads of a block."""
        return self.blocks[0].self_attn.num_heads

    def split_attention(self) -> list[nn.Linear]:
        """See `Tower.split_attention`. These layers are separate already."""
        own = [block.self_attn for block in self.blocks]
        return [layer for a in own for layer in (a.q_proj, a.k_proj, a.v_proj)]

    def hook(self, k: int, after_attention: Callable, beside_mlp: Callable) -> None:
        """See `Tower.hook`."""
        hook_block(self.blocks[k].self_attn, self.blocks[k].mlp, after_attention, beside_mlp)


class _Vision(_Blocks, VisionTower):
    """What the two image towers share. The number of tokens is free, so that some patches can be left out."""

    def __init__(self, model: TransformersModel):
        self.visual = visual = model.visual
        self.blocks, self.width = visual.encoder.layers, visual.config.hidden_size
        side = visual.config.image_size // visual.config.patch_size
        self.grid = (side, side)

    def block(self, k: int, x: Tensor) -> Tensor:
        return self.blocks[k](x, None)

    def first_norm(self, k: int) -> nn.Module:
        return self.blocks[k].layer_norm1


class ClipVision(_Vision):
    """transformers' ``CLIPVisionModel`` inside a ``CLIPModel``: a class token, pooled and projected."""

    prefix_tokens, token_pooled, entry_norm = 1, True, True
    attention_pool = None

    def __init__(self, model: TransformersModel):
        super().__init__(model)
        self.linear = model.inner.visual_projection

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        return isinstance(model, TransformersModel) and hasattr(model.inner, "visual_projection")

    def embed(self, images: Tensor) -> Tensor:
        return self.visual.pre_layrnorm(self.visual.embeddings(images))

    def features(self, x: Tensor) -> Tensor:
        return self.visual.post_layernorm(x[:, 0])

    @property
    def projection(self) -> tuple[Tensor, Tensor | None]:
        return self.linear.weight, self.linear.bias

    def pool(self, x: Tensor) -> Tensor:
        return self.linear(self.features(x))

    def norms_and_head(self) -> list[tuple[nn.Module, str]]:
        """See `Tower.norms_and_head`."""
        return norm_parameters(self.blocks, self.visual.post_layernorm) + all_parameters(self.linear)

    @property
    def cam_layer(self) -> nn.Module:
        return self.first_norm(self.depth - 1)


class SiglipVision(_Vision):
    """transformers' ``SiglipVisionModel``: no class token; an attention pools the patches, and nothing projects."""

    prefix_tokens, token_pooled, entry_norm = 0, False, False
    projection = None

    def __init__(self, model: TransformersModel):
        super().__init__(model)
        if isinstance(self.visual.head.attention, nn.MultiheadAttention):
            self.visual.head.attention = PoolingAttention(self.visual.head.attention)

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        return isinstance(model, TransformersModel) and hasattr(model.visual, "head")

    def embed(self, images: Tensor) -> Tensor:
        return self.visual.embeddings(images)

    def features(self, x: Tensor) -> Tensor:
        return self.visual.head(self.visual.post_layernorm(x))

    pool = features

    def norms_and_head(self) -> list[tuple[nn.Module, str]]:
        """See `Tower.norms_and_head`. Nothing projects; of the pooling head, its norm."""
        return norm_parameters(self.blocks, self.visual.post_layernorm, self.visual.head)

    @property
    def attention_pool(self) -> nn.Module:
        return self.visual.head

    @property
    def cam_layer(self) -> nn.Module:
        return self.visual.post_layernorm


class _Text(_Blocks, TextTower):
    """What the two text towers share."""

    linear: nn.Module  # the last projection

    def __init__(self, model: TransformersModel):
        self.text = text = model.inner.text_model
        self.blocks, self.width = text.encoder.layers, text.config.hidden_size
        self.token_table = text.embeddings.token_embedding.weight

    def _embed(self, tokens: Tensor, words: Tensor | None) -> Tensor:
        read = {"input_ids": tokens} if words is None else {"inputs_embeds": words[:, : tokens.shape[1]]}
        return self.text.embeddings(**read)

    def block(self, k: int, x: Tensor, state: TextState) -> Tensor:
        return self.blocks[k](x, state.mask)

    def norms_and_head(self) -> list[tuple[nn.Module, str]]:
        """See `Tower.norms_and_head`."""
        return norm_parameters(self.blocks, self.text.final_layer_norm) + all_parameters(self.linear)


class ClipText(_Text):
    """transformers' ``CLIPTextModel`` inside a ``CLIPModel``: causal, pooled at the end of the text."""

    def __init__(self, model: TransformersModel):
        super().__init__(model)
        self.linear, self.end_token = model.inner.text_projection, self.text.config.eos_token_id

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        return isinstance(model, TransformersModel) and hasattr(model.inner, "text_projection")

    def _ends(self, tokens: Tensor) -> Tensor:
        """The place of each text's end, [C]; older configurations (2) mean the token with the highest number."""
        return tokens.argmax(-1) if self.end_token == 2 else (tokens == self.end_token).int().argmax(-1)

    def embed(self, tokens: Tensor, words: Tensor | None = None) -> tuple[Tensor, TextState]:
        """See `TextTower.embed`. What follows the end of the longest text is cut off, since nothing reads it."""
        ends = self._ends(tokens)
        tokens = tokens[:, : int(ends.max()) + 1]
        valid = torch.arange(tokens.shape[1], device=tokens.device) <= ends[:, None]
        x = self._embed(tokens, words)
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf"), dtype=x.dtype, device=x.device).triu(1)
        return x, TextState(tokens, mask[None, None], valid)

    def pool(self, x: Tensor, state: TextState) -> Tensor:
        rows = torch.arange(len(x), device=x.device)
        return self.linear(self.text.final_layer_norm(x)[rows, self._ends(state.tokens)])


class SiglipText(_Text):
    """transformers' ``SiglipTextModel``: every token reads every other, padding too; pooled at the last place."""

    def __init__(self, model: TransformersModel):
        super().__init__(model)
        self.linear = self.text.head

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        return isinstance(model, TransformersModel) and hasattr(model.inner.text_model, "head")

    def embed(self, tokens: Tensor, words: Tensor | None = None) -> tuple[Tensor, TextState]:
        return self._embed(tokens, words), TextState(tokens, None, torch.ones_like(tokens, dtype=torch.bool))

    def pool(self, x: Tensor, state: TextState) -> Tensor:
        return self.linear(self.text.final_layer_norm(x)[:, -1])
