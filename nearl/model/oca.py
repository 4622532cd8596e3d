"""Orthogonal Cross-Attention Adapter (OCA), after Peng et al., NEARL-CLIP, arXiv 2508.04101.

The paper gives the idea: cross-attention from a layer's tokens to the synergy vectors proposes an update, and only the
part of it that is orthogonal to the token itself is added. Rank, activation, gate and initialisation are our choice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-12  # keeps the division by |f|^2 finite; far below any real token's squared length


class OCA(nn.Module):
    """One adapter after one frozen block of width ``dim``.

    ``D = W_o gelu(Attention(q = W_q f, k = v = W_kv z) + W_q f)``, then ``f + gate * D_perp`` with ``D_perp`` the
    component of D orthogonal to f, token by token. ``W_o`` starts at zero, so a new adapter changes nothing. f enters
    ``W_q`` through a layer norm without parameters: residual streams differ in scale by orders of magnitude between
    backbones (our choice).
    """

    def __init__(self, dim: int, rank: int = 16, orthogonal: bool = True):
        super().__init__()
        self.orthogonal = orthogonal
        self.w_q = nn.Linear(dim, rank, bias=False)
        self.w_kv = nn.Linear(dim, rank, bias=False)
        self.w_o = nn.Linear(rank, dim, bias=False)
        self.gate = nn.Parameter(torch.ones(()))
        nn.init.normal_(self.w_q.weight, std=dim**-0.5)
        nn.init.normal_(self.w_kv.weight, std=dim**-0.5)
        nn.init.zeros_(self.w_o.weight)

    def propose(self, f: Tensor, z: Tensor) -> Tensor:
        """Tokens f [B, N, d] and synergy vectors z [B, M, d] -> the raw update D [B, N, d]."""
        q = self.w_q(F.layer_norm(f, f.shape[-1:]))
        kv = self.w_kv(z).to(q.dtype)
        return self.w_o(F.gelu(F.scaled_dot_product_attention(q, kv, kv) + q))

    def update(self, f: Tensor, z: Tensor) -> Tensor:
        """What is added before the gate: D_perp (or D, if not ``orthogonal``), float32 [B, N, d]."""
        d, f = self.propose(f, z).float(), f.float()
        if not self.orthogonal:
            return d
        return d - ((d * f).sum(-1, keepdim=True) / ((f * f).sum(-1, keepdim=True) + EPS)) * f

    def forward(self, f: Tensor, z: Tensor) -> Tensor:
        """Adapted tokens [B, N, d] in the dtype of f."""
        return (f.float() + self.gate * self.update(f, z)).to(f.dtype)
