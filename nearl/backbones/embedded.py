"""The vision tower of the embedded backbone, registered with timm under names that open_clip configs can use.

A timm `VisionTransformer` (class token, pre-norm blocks, learned positions) whose patch embedding is a small residual
convolutional stem. A plain ViT learns very slowly from a few thousand images; the stem brings locality from the start
and keeps standard blocks and a 14 x 14 token grid for adapters and maps (Xiao et al., "Early Convolutions Help
Transformers See Better", arXiv 2106.14881; widths and depths are our choice). Import this module before open_clip
builds a config that names one of its models.
"""

from __future__ import annotations

from functools import partial

import torch
from timm.layers import HybridEmbed
from timm.models import register_model
from timm.models.vision_transformer import VisionTransformer
from torch import nn

MEAN = (0.5, 0.5, 0.5)
STD = (0.5, 0.5, 0.5)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut: [B, C_in, H, W] -> [B, C_out, H / stride, W / stride]."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.act = nn.ReLU(inplace=True)
        self.shortcut = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride) if stride != 1 else nn.Identity(),
                nn.Conv2d(c_in, c_out, 1, bias=False),
                nn.BatchNorm2d(c_out),
            )
        nn.init.zeros_(self.bn2.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.act(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.act(y + self.shortcut(x))


class ResidualStem(nn.Sequential):
    """One stride-2 residual stage per entry of `channels`: [B, 3, H, W] -> [B, channels[-1], H / 2^n, W / 2^n]."""

    def __init__(self, channels: tuple[int, ...], blocks: tuple[int, ...], in_chans: int = 3):
        stages = []
        for c_in, c_out, n in zip((in_chans, *channels), channels, blocks, strict=False):
            stages.append(nn.Sequential(*(ResidualBlock(c_out if i else c_in, c_out, 1 if i else 2) for i in range(n))))
        super().__init__(*stages)
        self.num_features = channels[-1]


def hybrid_vit(
    width: int,
    depth: int,
    heads: int,
    channels: tuple[int, ...],
    blocks: tuple[int, ...],
    img_size: int = 224,
    **kwargs,
) -> VisionTransformer:
    """Build the tower: residual stem of total stride 2^len(channels), then `depth` blocks of `width`.

    Any input whose sides are multiples of the stride is accepted (positions are resampled), so that pretraining can
    begin at a lower resolution. `forward_features`: [B, 3, H, W] -> [B, 1 + tokens, width].
    """
    stem = ResidualStem(channels, blocks)
    stride = 2 ** len(channels)
    kwargs.pop("pretrained_cfg", None)
    kwargs.pop("pretrained_cfg_overlay", None)
    kwargs.pop("cache_dir", None)
    model = VisionTransformer(
        img_size=img_size,
        patch_size=1,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        dynamic_img_size=True,
        embed_layer=partial(HybridEmbed, backbone=stem, feature_size=img_size // stride, feature_ratio=stride),
        **kwargs,
    )
    model.default_cfg = {"input_size": (3, img_size, img_size), "mean": MEAN, "std": STD, "num_classes": 0}
    return model


@register_model
def nearl_hybrid_small_224(pretrained: bool = False, **kwargs) -> VisionTransformer:
    """The embedded backbone's tower: 8 blocks of width 192 on a 14 x 14 grid at 224 px."""
    return hybrid_vit(192, 8, 3, (32, 64, 128, 192), (1, 1, 2, 2), **kwargs)
