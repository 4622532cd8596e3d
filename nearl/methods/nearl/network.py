"""NEARL-CLIP: both frozen towers stepped in lockstep, with a USEformer beside them and an OCA after every block.

Source: Peng et al., "NEARL-CLIP: Interacted Query Adaptation with Orthogonal Regularization for Medical
Vision-Language Understanding", arXiv 2508.04101. The paper leaves these open, and they are our choice: all sizes, the
alignment of towers of unequal depth (by relative depth), the summary of a prompt (the mean of its tokens), and the two
contexts:

``text_context="support"`` (default): the text side attends to a learned summary of the support images, one set of
vectors per text layer. A prompt then costs one text pass, whatever the images, and can be cached. The image side
attends to its own tokens and to the prompts that it was taught with.
``text_context="image"``: one stream of queries per image conditions both towers, as the paper draws it; B images and
P prompts cost B x P text passes.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from math import ceil
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nearl.backbones import Backbone
from nearl.errors import NearlError
from nearl.methods.nearl.oca import OCA, token_norm
from nearl.methods.nearl.partner import Partner
from nearl.methods.nearl.useformer import StaticQueries, USEformer
from nearl.train.batches import PromptTokens, class_means

WIDE = 1400  # vision + text width above which one smaller shared block keeps the total at 1.46 M parameters
NARROW = 512  # and below which one shared block does, since a USEformer of width 128 outweighs such towers


@dataclass(frozen=True)
class NearlConfig:
    """Sizes and switches of NEARL; the defaults give 1.46 M parameters on CLIP ViT-B/16."""

    rank: int = 16
    """Of the OCA."""
    queries: int = 8
    """Number M of synergy queries."""
    width: int = 128
    """Width u of the USEformer, which ``heads``, ``blocks`` and ``mlp_ratio`` describe too."""
    heads: int = 4
    blocks: int = 2
    mlp_ratio: float = 2.0
    support_tokens: int = 4
    """Vectors per text layer that summarise the support images."""
    vision_layers: tuple[int, ...] | None = None
    """Numbers of the image tower's blocks with an OCA; None for all."""
    text_layers: tuple[int, ...] | None = None
    """Likewise of the text tower."""
    orthogonal: bool = True
    """False adds the whole update."""
    text_context: str = "support"
    """"support" or "image"; see the module."""
    synergy: str = "useformer"
    """"useformer", or "static": queries learned for each depth, which read neither image nor text."""

    def __post_init__(self):
        for name in ("vision_layers", "text_layers"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(sorted({int(k) for k in getattr(self, name)})))
        for name in ("rank", "queries", "width", "heads", "blocks", "support_tokens"):
            if getattr(self, name) < 1:
                raise NearlError(f"The NEARL setting '{name}' must be at least 1, not {getattr(self, name)}.")
        if self.width % self.heads:
            raise NearlError(f"The NEARL width {self.width} must be a multiple of its {self.heads} heads.")
        if self.text_context not in ("support", "image"):
            raise NearlError(f"text_context must be 'support' or 'image', not '{self.text_context}'.")
        if self.synergy not in ("useformer", "static"):
            raise NearlError(f"synergy must be 'useformer' or 'static', not '{self.synergy}'.")
        if self.synergy == "static" and self.text_context == "image":
            raise NearlError("Static queries read no image, so they go with text_context 'support' alone.")

    @classmethod
    def for_backbone(cls, backbone: Backbone, **changes) -> NearlConfig:
        """The defaults, with a smaller USEformer where the towers are wide (BiomedCLIP) or narrow (embedded)."""
        width = backbone.vision.width + backbone.text.width
        sizes = {"blocks": 1, "mlp_ratio": 1.5} if width > WIDE else {"blocks": 1} if width < NARROW else {}
        return cls(**sizes | changes)

    def to_dict(self) -> dict:
        return asdict(self)


class ClassFeatures(NamedTuple):
    """Unit class embeddings [C, E] and, for each text layer, the classes' mean token [layers, C, D_t]."""

    embeddings: Tensor
    summaries: Tensor


class NearlCLIP(nn.Module):
    """The adapter of one backbone. Parameters and state dict are the adapter's alone, without the backbone's.

    Raises NearlError if the configuration names blocks that the towers do not have.
    """

    def __init__(self, backbone: Backbone, config: NearlConfig | None = None):
        super().__init__()
        self.backbone = backbone
        self.config = config = config or NearlConfig.for_backbone(backbone)
        vision, text = backbone.vision, backbone.text
        self.total_steps = max(vision.depth, text.depth)
        self.vision_steps, self.text_steps = (aligned_steps(tower.depth, self.total_steps) for tower in (vision, text))
        sizes = ((vision.width, text.width), self.total_steps, config.width, config.queries)
        if config.synergy == "static":
            self.useformer = StaticQueries(*sizes)
        else:
            self.useformer = USEformer(*sizes, config.heads, config.blocks, config.mlp_ratio)
        self.oca_vision = _adapters(vision, config.vision_layers, config, "vision")
        self.oca_text = _adapters(text, config.text_layers, config, "text")
        self.support = None
        if config.text_context == "support" and config.synergy == "useformer":
            self.support = nn.Parameter(torch.randn(text.depth, config.support_tokens, config.width))
        self.partner: Partner | None = None  # fitted in teaching
        self._freeze_unread()
        self.to(backbone.device)

    def _freeze_unread(self) -> None:
        """If only one tower is adapted, do not train the parts that only the other one reads."""
        use, unread = self.useformer, []
        reads = self.config.synergy == "useformer"
        if not self.oca_vision:
            unread += [use.out_vision] + [use.in_vision] * (reads and self.config.text_context == "support")
        if not self.oca_text:
            unread.append(use.out_text)
            if self.support is not None:
                self.support.requires_grad_(False)
        for layer in unread:
            layer.requires_grad_(False)

    def forward(self, images: Tensor, prompts: PromptTokens, taught: ClassFeatures | None = None) -> Tensor:
        """Logits [B, C] for normalised pixels [B, 3, H, W].

        ``taught``: features of the prompts that the image side attends to; None means ``prompts`` themselves.
        """
        return self.forward_tokens(self.backbone.vision.embed(images), prompts, taught)

    def forward_tokens(self, tokens: Tensor, prompts: PromptTokens, taught: ClassFeatures | None = None) -> Tensor:
        """Logits [B, C] of embedded patches [B, N, D_v], which no adapter changes, so that they can be cached."""
        return self.read(tokens, prompts, taught)[0]

    def read(self, tokens: Tensor, prompts: PromptTokens, taught: ClassFeatures | None = None) -> tuple[Tensor, Tensor]:
        """Logits [B, C] and unit image embeddings [B, E] of embedded patches [B, N, D_v]."""
        if self.config.text_context == "image":
            return self._read_per_image(tokens, prompts)
        classes = self.encode_text(prompts)
        image = self.encode_tokens(tokens, (taught or classes).summaries)
        return self.backbone.logit_scale * image @ classes.embeddings.T, image

    def encode_text(self, prompts: PromptTokens) -> ClassFeatures:
        """Features of the classes: one pass of each prompt, independent of images and other prompts. Needs the support
        context."""
        text, use = self.backbone.text, self.useformer
        x, state = text.embed(prompts.tokens)
        s, shared = use.start(len(x))
        hidden = F.pad(~state.valid, (self.config.support_tokens, 0))[:, None]
        mask = torch.zeros_like(hidden, dtype=x.dtype).masked_fill_(hidden, -torch.inf)
        support = None if self.support is None else self.support[:, None].unbind()
        summaries = []
        for k in range(text.depth):
            x = text.block(k, x, state)
            if str(k) in self.oca_text:
                normed = token_norm(x)
                own = None if support is None else support[k]
                s = use.step(self.text_steps[k], s, shared, text=normed, support=own, mask=mask)
                x = self.oca_text[str(k)](x, use.to_text(s), normed)
            summaries.append(_mean_token(x, state.valid))
        embeddings = F.normalize(text.pool(x, state).float(), dim=-1)
        return ClassFeatures(
            F.normalize(class_means(embeddings, prompts.counts), dim=-1),
            class_means(torch.stack(summaries, dim=1), prompts.counts).transpose(0, 1),
        )

    def encode_image(self, images: Tensor, summaries: Tensor) -> Tensor:
        """Unit image embeddings [B, E] of normalised pixels [B, 3, H, W], given the prompts' summaries
        [text layers, C, D_t]. Each image is independent of the rest of the batch."""
        return self.encode_tokens(self.backbone.vision.embed(images), summaries)

    def encode_tokens(self, x: Tensor, summaries: Tensor) -> Tensor:
        """Unit image embeddings [B, E] of embedded patches [B, N, D_v]."""
        vision, use = self.backbone.vision, self.useformer
        s, shared = use.start(len(x))
        read = summaries.unbind()
        for k in range(vision.depth):
            x = vision.block(k, x)
            if str(k) in self.oca_vision:
                step, normed = self.vision_steps[k], token_norm(x)
                reached = max(sum(t <= step for t in self.text_steps) - 1, 0)
                s = use.step(step, s, shared, vision=normed, text=token_norm(read[reached])[None])
                x = self.oca_vision[str(k)](x, use.to_vision(s), normed)
        return F.normalize(vision.pool(x).float(), dim=-1)

    def _read_per_image(self, v: Tensor, prompts: PromptTokens) -> tuple[Tensor, Tensor]:
        """``read`` with one stream of queries per image, at B x P text passes."""
        vision, text, use = self.backbone.vision, self.backbone.text, self.useformer
        batch, count = len(v), len(prompts.tokens)
        s, shared = use.start(batch)
        t, state = text.embed(prompts.tokens.repeat(batch, 1))
        at_vision = {step: k for k, step in enumerate(self.vision_steps)}
        at_text = {step: k for k, step in enumerate(self.text_steps)}
        for step in range(self.total_steps):
            i, j = at_vision.get(step), at_text.get(step)
            v = v if i is None else vision.block(i, v)
            t = t if j is None else text.block(j, t, state)
            adapt_vision, adapt_text = str(i) in self.oca_vision, str(j) in self.oca_text
            if not (adapt_vision or adapt_text):
                continue
            read = token_norm(_mean_token(t, state.valid)).unflatten(0, (batch, count))
            s = use.step(step, s, shared, vision=token_norm(v), text=read)
            if adapt_vision:
                v = self.oca_vision[str(i)](v, use.to_vision(s))
            if adapt_text:
                t = self.oca_text[str(j)](t, use.to_text(s).repeat_interleave(count, 0))
        image = F.normalize(vision.pool(v).float(), dim=-1)
        embeddings = F.normalize(text.pool(t, state).float(), dim=-1).unflatten(0, (batch, count))
        classes = F.normalize(torch.stack([e.mean(1) for e in embeddings.split(prompts.counts, 1)], 1), dim=-1)
        return self.backbone.logit_scale * torch.einsum("be,bce->bc", image, classes), image

    def parameters_by_part(self) -> dict[str, int]:
        """Numbers of trainable parameters by part, without parts that the configuration leaves out."""
        parts: dict[str, int] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                part = _part(name)
                parts[part] = parts.get(part, 0) + parameter.numel()
        return parts


def _part(name: str) -> str:
    """The part of the adapter that a parameter belongs to, from its name in the state dict."""
    head, _, tail = name.partition(".")
    if head == "useformer":
        kinds = {"in": "useformer_projections", "out": "useformer_projections", "blocks": "useformer_blocks"}
        return kinds.get(re.split(r"[._]", tail)[0], "queries_depths_norms")
    return "support_context" if head == "support" else head


def aligned_steps(depth: int, total: int) -> list[int]:
    """The lockstep step at which each block of a tower ends, aligned by relative depth."""
    return [ceil((k + 1) * total / depth) - 1 for k in range(depth)]


def _adapters(tower, layers: tuple[int, ...] | None, config: NearlConfig, side: str) -> nn.ModuleDict:
    layers = range(tower.depth) if layers is None else layers
    if any(not 0 <= k < tower.depth for k in layers):
        raise NearlError(f"The {side} tower has blocks 0 to {tower.depth - 1}; the adapter asks for {list(layers)}.")
    return nn.ModuleDict({str(k): OCA(tower.width, config.rank, config.orthogonal) for k in layers})


def _mean_token(x: Tensor, valid: Tensor) -> Tensor:
    """Mean [P, D] over the valid tokens of texts [P, L, D]; valid: bool [P, L]."""
    weight = valid.to(x.dtype)[..., None]
    return (x * weight).sum(1) / weight.sum(1)
