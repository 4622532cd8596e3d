"""timm's Vision Transformers inside open_clip (BiomedCLIP, SigLIP, the embedded backbone)."""

from __future__ import annotations

from open_clip.timm_model import TimmModel
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from nearl.backbones.towers.attention import FusedAttention
from nearl.backbones.towers.base import VisionTower, all_parameters, norm_parameters


class TimmVision(FusedAttention, VisionTower):
    """open_clip's ``TimmModel`` around a timm ``VisionTransformer``."""

    def __init__(self, model: nn.Module):
        self.visual = visual = model.visual
        self.trunk = trunk = visual.trunk
        self.blocks, self.width = trunk.blocks, trunk.embed_dim
        self.grid, self.prefix_tokens = tuple(trunk.patch_embed.grid_size), trunk.num_prefix_tokens
        self.token_pooled = trunk.attn_pool is None and trunk.global_pool == "token"
        self.entry_norm = isinstance(trunk.norm_pre, nn.LayerNorm)
        last = getattr(visual.head, "proj", trunk.head)
        self.linear = last if isinstance(last, nn.Linear) else None
        self.prepare()

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        return isinstance(model.visual, TimmModel) and isinstance(model.visual.trunk, VisionTransformer)

    def embed(self, images: Tensor) -> Tensor:
        trunk = self.trunk
        return trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(trunk.patch_embed(images))))

    def features(self, x: Tensor) -> Tensor:
        pooled = self.trunk.forward_head(self.trunk.norm(x), pre_logits=True)
        return pooled if self.linear is not None else self.visual.head(pooled)

    @property
    def projection(self) -> tuple[Tensor, Tensor | None] | None:
        return None if self.linear is None else (self.linear.weight, self.linear.bias)

    def pool(self, x: Tensor) -> Tensor:
        return self.visual.head(self.trunk.forward_head(self.trunk.norm(x)))

    def norms_and_head(self) -> list[tuple[nn.Module, str]]:
        """See `Tower.norms_and_head`. An attention that pools is no projection, but its norm is a norm."""
        trunk = self.trunk
        norms = norm_parameters(self.blocks, trunk.norm, trunk.fc_norm, trunk.attn_pool)
        return norms + all_parameters(trunk.head, self.visual.head)

    def first_norm(self, k: int) -> nn.Module:
        return self.blocks[k].norm1

    @property
    def attention_pool(self) -> nn.Module | None:
        return self.trunk.attn_pool

    @property
    def cam_layer(self) -> nn.Module:
        return self.first_norm(self.depth - 1) if self.token_pooled else self.trunk.norm
