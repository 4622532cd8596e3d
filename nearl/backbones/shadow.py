"""A second tree of modules over a backbone's very tensors, to be rebuilt freely while the backbone stays as it is.

Methods that put modules inside the towers (LoRA, bottleneck adapters) work on a shadow: the backbone keeps its own
modules, hooks and flags, whatever happens to the method, and goes on predicting meanwhile. No tensor is copied.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from nearl.backbones.registry import Backbone
from nearl.backbones.towers import HuggingFaceText, TextTower, VisionTower, text_tower, vision_tower
from nearl.errors import NearlError


def shadow(backbone: Backbone) -> Backbone:
    """The same model with modules of its own and shared parameters and buffers; the lock is shared too."""
    with backbone.lock:
        tensors = {id(t): t for t in (*backbone.model.parameters(), *backbone.model.buffers())}
        model = copy.deepcopy(backbone.model, tensors)
    return replace(backbone, model=model, vision=vision_tower(model), text=text_tower(model))


def split_attention(tower: VisionTower | TextTower) -> list[nn.Linear]:
    """Give every block of a shadow's tower a linear layer each for queries, keys and values; returns those layers.

    CLIP's and timm's attention hold all three in one fused weight; here they become views of its thirds. Raises
    NearlError for an attention that does neither, nor is BERT's.
    """
    found: list[nn.Linear] = []
    for block in tower.blocks:
        if isinstance(tower, HuggingFaceText):
            own = block.attention.self
            found += [own.query, own.key, own.value]
            continue
        if not isinstance(getattr(block.attn, "qkv", None), nn.Linear):
            raise NearlError(f"The attention '{type(block.attn).__name__}' of this model cannot be given LoRA layers.")
        block.attn.qkv = split = _SplitLinear(block.attn.qkv)
        found += [split.q, split.k, split.v]
    return found


def hook_block(block: nn.Module, after_attention: Callable, beside_mlp: Callable) -> None:
    """In a block of a shadow's vision tower: attention's output a becomes a + after_attention(a), and the MLP's output
    m for its input x becomes m + beside_mlp(x). [B, N, d] each."""

    def serial(module: nn.Module, args: tuple, out: Tensor | tuple) -> Tensor | tuple:
        if isinstance(out, tuple):
            return (out[0] + after_attention(out[0]), *out[1:])
        return out + after_attention(out)

    block.attn.register_forward_hook(serial)
    block.mlp.register_forward_hook(lambda module, args, out: out + beside_mlp(args[0]))


class _SplitLinear(nn.Module):
    """A fused linear layer d -> 3 d as three layers d -> d, whose outputs are joined again."""

    def __init__(self, fused: nn.Linear):
        super().__init__()
        self.q, self.k, self.v = _thirds(fused.weight, fused.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)


def _thirds(weight: Tensor, bias: Tensor | None) -> list[nn.Linear]:
    """Three frozen linear layers over views of a fused [3 d, d] weight and its bias."""
    layers = []
    for w, b in zip(weight.chunk(3), (None,) * 3 if bias is None else bias.chunk(3), strict=True):
        layer = nn.Linear(w.shape[1], w.shape[0], bias=b is not None, device="meta")
        layer.weight = nn.Parameter(w, requires_grad=False)
        if b is not None:
            layer.bias = nn.Parameter(b, requires_grad=False)
        layers.append(layer)
    return layers
