"""Learned token vectors in a prompt: where they stand, which depends on how a family's texts begin and end."""

from __future__ import annotations

import torch
from torch import Tensor

from nearl.backbones.registry import Backbone


class ContextSlot:
    """Room for ``count`` learned vectors in every text.

    The room is after the first token where every text begins with the same one (CLIP, BERT), else at the very beginning
    (SigLIP). Raises ValueError where no room would be left for words.
    """

    def __init__(self, backbone: Backbone, count: int):
        self.text, self.count = backbone.text, count
        with torch.device("cpu"):  # also where a method is only sketched, without memory
            empty, filler = backbone.tokenizer(["", "a"])
        self.start = int(empty[0] == filler[0])
        if not 0 < count < len(empty) - self.start - 1:
            raise ValueError(f"{count} context vectors do not fit")
        self._end, self._filler = int(empty[self.start]), int(filler[self.start])

    def tokens(self, tokens: Tensor) -> Tensor:
        """int64 [P, L] -> [P, L] with room; what no longer fits is cut off, and a text ends with its end token."""
        room = tokens.new_full((len(tokens), self.count), self._filler)
        longer = torch.cat([tokens[:, : self.start], room, tokens[:, self.start :]], dim=1)
        kept = longer[:, : tokens.shape[1]].clone()
        kept[(kept != self._end).all(1), -1] = self._end
        return kept

    def place(self, x: Tensor, own: Tensor) -> Tensor:
        """Features [P, L, D] with the vectors ``own`` [count, D] in the room."""
        own = own.to(x.dtype)
        return torch.cat([x[:, : self.start], own.expand(len(x), -1, -1), x[:, self.start + len(own) :]], dim=1)

    def embed(self, tokens: Tensor, own: Tensor):
        """As ``TextTower.embed`` for tokens [P, L] without room, with the vectors ``own`` [count, D] in it."""
        tokens = self.tokens(tokens)
        return self.text.embed(tokens, self.place(self.text.token_table[tokens], own))

    def spread(self) -> float:
        """Standard deviation of the tower's own token vectors, without the zero rows of tokens it never learned."""
        table = self.text.token_table
        return table[table.abs().sum(-1) > 0].float().std().item()
