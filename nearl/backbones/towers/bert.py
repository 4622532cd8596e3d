"""BERT-like text towers of transformers inside open_clip (BiomedCLIP)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from open_clip.hf_model import HFTextEncoder
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from nearl.backbones.towers.attention import hook_block
from nearl.backbones.towers.base import TextState, TextTower, all_parameters, norm_parameters


class HuggingFaceText(TextTower):
    """open_clip's ``HFTextEncoder`` around a BERT-like encoder (BERT, RoBERTa, XLM-R)."""

    def __init__(self, model: nn.Module):
        self.text, self.transformer = model.text, model.text.transformer
        self.blocks, self.width = self.transformer.encoder.layer, model.text.config.hidden_size
        self.token_table = self.transformer.get_input_embeddings().weight

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        text = getattr(model, "text", None)
        return isinstance(text, HFTextEncoder) and hasattr(getattr(text.transformer, "encoder", None), "layer")

    def embed(self, tokens: Tensor, words: Tensor | None = None) -> tuple[Tensor, TextState]:
        """See `TextTower.embed`. Padding is masked, so the padding that all texts have is cut off."""
        valid = tokens != self.text.config.pad_token_id
        length = max(int((valid * torch.arange(1, tokens.shape[1] + 1, device=tokens.device)).max()), 1)
        tokens, valid = tokens[:, :length], valid[:, :length]
        read = {"input_ids": tokens} if words is None else {"inputs_embeds": words[:, :length]}
        x = self.transformer.embeddings(**read)
        mask = torch.zeros(valid.shape, dtype=x.dtype, device=x.device).masked_fill(~valid, torch.finfo(x.dtype).min)
        return x, TextState(tokens, mask[:, None, None, :], valid)

    def block(self, k: int, x: Tensor, state: TextState) -> Tensor:
        out = self.blocks[k](x, state.mask)
        return out[0] if isinstance(out, tuple) else out  # transformers 4 returns a tuple

    def pool(self, x: Tensor, state: TextState) -> Tensor:
        pooler = self.transformer.pooler
        out = BaseModelOutputWithPooling(last_hidden_state=x, pooler_output=None if pooler is None else pooler(x))
        return self.text.proj(self.text.pooler(out, state.valid.long()))

    def split_attention(self) -> list[nn.Linear]:
        own = [block.attention.self for block in self.blocks]
        return [layer for a in own for layer in (a.query, a.key, a.value)]

    def hook(self, k: int, after_attention: Callable, beside_mlp: Callable) -> None:
        """See `Tower.hook`. The modules of a BERT include the residual and its norm; the second takes (inner
        features, the block's features)."""
        hook_block(self.blocks[k].attention, self.blocks[k].output, after_attention, beside_mlp)

    def norms_and_head(self) -> list[tuple[nn.Module, str]]:
        """See `Tower.norms_and_head`."""
        return norm_parameters(self.transformer.embeddings, self.blocks) + all_parameters(self.text.proj)
