"""Self-attention of frozen blocks, as timm computes it, for towers that are built of ``nn.MultiheadAttention``."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """``nn.MultiheadAttention`` where tokens ask about themselves, batch first and without dropout: the same tensors,
    the same result.

    torch's own turns its input sequence first, and as frozen weights are no reason for it to fold the batch, it then
    multiplies by the fused weight once per token. With gradients through a ViT-B/16 on a CPU that costs 1.4 times this
    one in float32 and 12 times under bf16 autocast (one thread, torch 2.14). ``fused_attn``: by torch's fused kernel,
    or step by step; as in timm.
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
        """As open_clip's blocks call it: tokens [B, L, d], three times the same; ``attn_mask`` [L, L] is added. Weights
        are never given."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mask = None if attn_mask is None else attn_mask.to(q.dtype)
        if self.fused_attn:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            weights = (q * q.shape[-1] ** -0.5) @ k.mT
            out = (weights if mask is None else weights + mask).softmax(-1).to(v.dtype) @ v
        return self.out_proj(out.transpose(1, 2).flatten(2)), None


def prepare(blocks: nn.ModuleList) -> None:
    """Have the blocks of a frozen tower compute self-attention in the way that is fast where they are.

    On a CPU that is step by step: the fused kernel's backward pass is slower there, in bf16 by half.
    """
    for block in blocks:
        if isinstance(block.attn, nn.MultiheadAttention):
            block.attn = SelfAttention(block.attn)
        if next(block.parameters()).device.type == "cpu":
            block.attn.fused_attn = False
