"""Self-attention with one fused layer for queries, keys and values, which open_clip's and timm's blocks share here."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearl.errors import NearlError


class SelfAttention(nn.Module):
    """``nn.MultiheadAttention`` for self-attention, batch first, without dropout: the same tensors, the same result.

    torch's own puts the sequence first and then multiplies frozen weights once per token, which is slow on a CPU.
    ``fused_attn``: use torch's fused kernel, else compute step by step, as in timm.
    """

    def __init__(self, attention: nn.MultiheadAttention):
        super().__init__()
        self.num_heads, self.out_proj, self.fused_attn = attention.num_heads, attention.out_proj, True
        self.qkv = nn.Linear(attention.embed_dim, 3 * attention.embed_dim, device="meta")
        self.qkv.weight, self.qkv.bias = attention.in_proj_weight, attention.in_proj_bias
        self.train(attention.training)

    def forward(
        self, x: Tensor, key: Tensor, value: Tensor, need_weights: bool = False, attn_mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        """Tokens [B, L, D] -> ([B, L, D], None); ``key`` and ``value`` are the same tokens, as in open_clip's blocks.

        ``attn_mask`` [L, L] is added. Weights are never returned.
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mask = None if attn_mask is None else attn_mask.to(q.dtype)
        if self.fused_attn:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            weights = (q * q.shape[-1] ** -0.5) @ k.mT
            out = (weights if mask is None else weights + mask).softmax(-1).to(v.dtype) @ v
        return self.out_proj(out.transpose(1, 2).flatten(2)), None


class PoolingAttention(nn.Module):
    """``nn.MultiheadAttention``, batch first and without dropout, whose weights can be recorded: the same tensors.

    Its queries need not be its keys, as where one learned query pools all patches.
    """

    def __init__(self, attention: nn.MultiheadAttention):
        super().__init__()
        self.num_heads, self.out_proj = attention.num_heads, attention.out_proj
        self.in_proj_weight, self.in_proj_bias = attention.in_proj_weight, attention.in_proj_bias
        self.train(attention.training)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, None]:
        """Queries [B, M, D], keys and values [B, N, D] -> ([B, M, D], None). Weights are never returned."""
        parts = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        q, k, v = (F.linear(x, w, b).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x, w, b in parts)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)), None


def hook_block(attention: nn.Module, mlp: nn.Module, after_attention: Callable, beside_mlp: Callable) -> None:
    """Change the attention and the MLP of a block as `Tower.hook` says. The MLP's input is its module's last one."""

    def serial(module: nn.Module, args: tuple, out: Tensor | tuple) -> Tensor | tuple:
        if isinstance(out, tuple):
            return (out[0] + after_attention(out[0]), *out[1:])
        return out + after_attention(out)

    attention.register_forward_hook(serial)
    mlp.register_forward_hook(lambda module, args, out: out + beside_mlp(args[-1]))


class FusedAttention:
    """The methods that towers share whose blocks have an ``attn`` and an ``mlp``, as those of open_clip and timm do."""

    blocks: nn.ModuleList

    def prepare(self) -> None:
        """Make the frozen blocks compute self-attention in the way that is fast on their device.

        On a CPU that is step by step: the backward pass of the fused kernel is slower there.
        """
        for block in self.blocks:
            if isinstance(block.attn, nn.MultiheadAttention):
                block.attn = SelfAttention(block.attn)
            if next(block.parameters()).device.type == "cpu":
                block.attn.fused_attn = False

    @property
    def heads(self) -> int:
        """Attention heads of a block."""
        return self.blocks[0].attn.num_heads

    def split_attention(self) -> list[nn.Linear]:
        """See `Tower.split_attention`."""
        found: list[nn.Linear] = []
        for block in self.blocks:
            if not isinstance(getattr(block.attn, "qkv", None), nn.Linear):
                kind = type(block.attn).__name__
                raise NearlError(f"The attention '{kind}' of this model cannot be given LoRA layers.")
            block.attn.qkv = split = _SplitLinear(block.attn.qkv)
            found += [split.q, split.k, split.v]
        return found

    def hook(self, k: int, after_attention: Callable, beside_mlp: Callable) -> None:
        """See `Tower.hook`."""
        hook_block(self.blocks[k].attn, self.blocks[k].mlp, after_attention, beside_mlp)


class _SplitLinear(nn.Module):
    """A fused linear layer D -> 3 D as three layers D -> D, whose outputs are joined again."""

    def __init__(self, fused: nn.Linear):
        super().__init__()
        self.q, self.k, self.v = _thirds(fused.weight, fused.bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.q(x), self.k(x), self.v(x)], dim=-1)


def _thirds(weight: Tensor, bias: Tensor | None) -> list[nn.Linear]:
    """Three frozen linear layers over views of a fused weight [3 D, D] and its bias [3 D]."""
    layers = []
    for w, b in zip(weight.chunk(3), (None,) * 3 if bias is None else bias.chunk(3), strict=True):
        layer = nn.Linear(w.shape[1], w.shape[0], bias=b is not None, device="meta")
        layer.weight = nn.Parameter(w, requires_grad=False)
        if b is not None:
            layer.bias = nn.Parameter(b, requires_grad=False)
        layers.append(layer)
    return layers
