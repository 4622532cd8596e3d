"""Orthogonal Cross-Attention Adapter (OCA), after Peng et al., NEARL-CLIP, arXiv 2508.04101.

The paper gives the idea: cross-attention from a layer's tokens to the synergy vectors proposes an update, and only the
part of it that is orthogonal to the token itself is added. Rank, activation, gate and initialisation are our choice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearl.methods.shows import Update

EPS = 1e-12  # keeps the division by |f|^2 finite; far below the squared length of any real token


class OCA(nn.Module):
    """The adapter after one frozen block of width ``dim`` (D below).

    ``U = rms(f) W_o gelu(Attention(q = W_q f, k = v = W_kv z) + W_q f)``, then ``f + gate * U_perp``, where ``U_perp``
    is the component of U orthogonal to f, token by token. ``W_o`` starts at zero, so a new adapter changes nothing. The
    scale of residual streams varies between backbones and depths by more than an order of magnitude; so f enters
    ``W_q`` through a layer norm without parameters and U is in units of the token's root mean square, and one learning
    rate serves them all (our choice).
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

    def hidden(self, normed: Tensor, z: Tensor) -> Tensor:
        """gelu(Attention + q) [B, N, r] of layer-normed tokens [B, N, D] and synergy vectors [B, M, D]."""
        q, kv = F.linear(normed, self.w_q.weight.float()), F.linear(z.float(), self.w_kv.weight.float())
        weights = (q @ kv.mT * q.shape[-1] ** -0.5).softmax(-1)  # [B, N, M]: too few queries for a fused kernel to pay
        return F.gelu(weights @ kv + q)

    def _terms(self, f: Tensor, z: Tensor, normed: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """h [B, N, r] and c [B, N, 1] of the update W_o h - c f, for f in float32; c is None if not ``orthogonal``.

        <U, f> is computed in the rank's space, as h . (W_o^T f), which reads f once.
        """
        length = torch.linalg.vector_norm(f, dim=-1, keepdim=True)
        h = self.hidden(token_norm(f) if normed is None else normed, z) * (length / f.shape[-1] ** 0.5)
        if not self.orthogonal:
            return h, None
        parallel = (h * F.linear(f, self.w_o.weight.float().T)).sum(-1, keepdim=True)
        return h, parallel / (length.square() + EPS)

    def update(self, f: Tensor, z: Tensor, normed: Tensor | None = None) -> Tensor:
        """What is added, before the gate: U_perp (U itself if not ``orthogonal``), float32 [B, N, D].

        ``normed``: ``token_norm(f)``, if the caller has it. It is computed in float32, also under autocast.
        """
        with torch.autocast(f.device.type, enabled=False):
            f = f.float()
            h, c = self._terms(f, z, normed)
            d = F.linear(h, self.w_o.weight.float())
            return d if c is None else torch.addcmul(d, c, f, value=-1)

    @torch.no_grad()
    def parts(self, args: tuple, out: Tensor) -> Update:
        """The novel and the parallel part of the update, from a call's arguments (f, z and, if given, normed f) and its
        output."""
        f, z, *normed = args
        h = self.hidden(normed[0] if normed and normed[0] is not None else token_norm(f), z).float()
        f, added, w_o = f.float(), out.float() - f.float(), self.w_o.weight.float()
        square = f.square().sum(-1)
        proposed = (h * (f @ w_o)).sum(-1) * (square / f.shape[-1]).sqrt()  # <U, f>
        if not self.orthogonal:
            added = added - ((added * f).sum(-1) / (square + EPS))[..., None] * f
        novel = torch.linalg.vector_norm(added, dim=-1) / (square + EPS).sqrt()
        return Update(novel, self.gate.float() * proposed / (square + EPS))

    def forward(self, f: Tensor, z: Tensor, normed: Tensor | None = None) -> Tensor:
        """Adapted tokens [B, N, D] in the dtype of f.

        f + gate * update is computed as (1 - gate c) f + W_o (gate h), which reads and writes the tokens half as often.
        """
        with torch.autocast(f.device.type, enabled=False):
            x, gate = f.float(), self.gate.float()
            h, c = self._terms(x, z, normed)
            out = x.clone() if c is None else x * (1 - gate * c)
            return (
                out.flatten(0, -2).addmm_((gate * h).flatten(0, -2), self.w_o.weight.float().T).view_as(f).to(f.dtype)
            )


def token_norm(f: Tensor) -> Tensor:
    """Layer norm without parameters over the last dimension, in float32."""
    return F.layer_norm(f.float(), f.shape[-1:])
