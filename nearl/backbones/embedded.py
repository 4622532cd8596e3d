"""The vision tower of the embedded backbone, registered with timm under names that open_clip configs can use.

A timm `VisionTransformer` (class token, pre-norm blocks, learned positions) whose patch embedding is a convolutional
network. A plain ViT learns very slowly from a few thousand images; the stem brings locality from the start
and keeps standard blocks and a 14 x 14 token grid for adapters and maps (Xiao et al., "Early Convolutions Help
Transformers See Better", arXiv 2106.14881; width and depth are our choice). Import this module before open_clip
builds a config that names one of its models.
"""

from __future__ import annotations

from functools import partial

import timm
import torch
from timm.layers import HybridEmbed
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import nn

MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)
TABLE, ROWS = "text.token_embedding.weight", "text.token_embedding.rows"


def pack_table(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict of a model with the token table's rows of zeros left out; ``ROWS`` says which are kept."""
    rows = state[TABLE].any(1).nonzero()[:, 0]
    return {**state, TABLE: state[TABLE][rows], ROWS: rows.int()}


def unpack_table(state: dict[str, torch.Tensor], vocab_size: int) -> dict[str, torch.Tensor]:
    """The state dict that `pack_table` was given. Raises ValueError for rows outside the vocabulary."""
    state = dict(state)
    rows, kept = state.pop(ROWS).long(), state[TABLE]
    if rows.shape != kept.shape[:1] or (len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < vocab_size):
        raise ValueError("the token table does not fit the vocabulary")
    state[TABLE] = kept.new_zeros(vocab_size, kept.shape[1])
    state[TABLE][rows] = kept
    return state


class LiteStem(nn.Module):
    """EfficientNet-Lite0 up to its sixth stage, that stage without its stride: [B, 3, H, W] -> [B, 192, H/16, W/16].

    Batch norms keep their running statistics also in training, so that an image never depends on its batch.
    """

    STAGES = 6

    def __init__(self) -> None:
        super().__init__()
        net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        self.conv_stem, self.bn1, self.blocks = net.conv_stem, net.bn1, net.blocks[: self.STAGES]
        self.blocks[-1][0].conv_dw.stride = (1, 1)
        self.num_features = 192

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.bn1(self.conv_stem(x)))

    def train(self, mode: bool = True) -> LiteStem:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.training = False
        return self


class GatedNorm(nn.LayerNorm):
    """A layer norm that also weighs each token by how likely its patch shows the patient: [B, N, D] -> [B, N, D].

    The weight, 0..1, is read off the token itself by a linear map. As the last norm before a mean over patches it keeps
    air around a body, black surrounds and the glass of a slide out of the image's embedding, and so out of every map.
    """

    def __init__(self, width: int, **kwargs) -> None:
        super().__init__(width, **kwargs)
        self.gate = nn.Linear(width, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, 4.0)

    def split(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(normed tokens [B, N, D], their weights [B, N, 1])."""
        normed = super().forward(x)
        return normed, self.gate(normed).sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed, weights = self.split(x)
        return normed * weights


def lite_vit(width: int, depth: int, heads: int, img_size: int = 224, **kwargs) -> VisionTransformer:
    """Build the tower: `LiteStem`, then `depth` Transformer blocks of `width` that begin as the identity.

    The blocks' last layers start at zero and the patch projection as the identity, so that a new tower gives the
    convolutional features.
    """
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(key, None)
    model = VisionTransformer(
        img_size=img_size,
        patch_size=1,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        dynamic_img_size=True,
        embed_layer=partial(HybridEmbed, backbone=LiteStem(), feature_size=img_size // 16, feature_ratio=16),
        **kwargs,
    )
    with torch.no_grad():
        projection = model.patch_embed.proj
        projection.weight.copy_(torch.eye(width)[:, : projection.in_channels, None, None])
        projection.bias.zero_()
        for block in model.blocks:
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight.zero_()
                layer.bias.zero_()
    model.default_cfg = {"input_size": (3, img_size, img_size), "mean": MEAN, "std": STD, "num_classes": 0}
    return model


@register_model
def nearl_lite_small_224(pretrained: bool = False, **kwargs) -> VisionTransformer:
    """EfficientNet-Lite0 stem, then 6 blocks of width 192 on a 14 x 14 grid at 224 px."""
    return lite_vit(192, 6, 3, **kwargs)


@register_model
def nearl_lite_small_224_gated(pretrained: bool = False, **kwargs) -> VisionTransformer:
    """The embedded backbone's tower: `nearl_lite_small_224` with a `GatedNorm` at the end, as pretraining leaves it."""
    model = lite_vit(192, 6, 3, **kwargs)
    model.norm = GatedNorm(192, eps=model.norm.eps)
    return model
