"""The losses of pretraining: on unit embeddings, and on two views of one image."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from nearl.pretrain.captions import Caption


def multi_positive(logits: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of logits [B, C], with targets uniform over each row's true entries of positive.

    positive: bool [B, C]; a row without a true entry does not count.
    """
    target = positive.float()
    some = target.sum(1) > 0
    per_row = -(logits.log_softmax(1) * target).sum(1) / target.sum(1).clamp(min=1)
    return per_row[some].mean()


def contrastive_loss(
    image: torch.Tensor,
    text: torch.Tensor,
    scale: torch.Tensor,
    positive: torch.Tensor,
    unknown: torch.Tensor | None = None,
) -> torch.Tensor:
    """`multi_positive` in both directions, for unit embeddings image [B, E] and text [C, E].

    positive: bool [B, C]. unknown: bool [B, C], pairs that may or may not be true: neither pulled nor pushed.
    """
    logits = scale * image @ text.T
    if unknown is not None:
        logits = logits.masked_fill(unknown & ~positive, -1e4)
    return (multi_positive(logits, positive) + multi_positive(logits.T, positive.T)) / 2


def pairs(captions: list[Caption], labels: torch.Tensor, attributes: list) -> tuple[torch.Tensor, torch.Tensor]:
    """Which caption is true of which image, and for which pairs that is unknown: two bool [B, C]."""
    true_of = torch.from_numpy(np.stack([caption.true_of for caption in captions]))[:, labels.cpu()].T
    meets, unknown = torch.ones_like(true_of), torch.zeros_like(true_of)
    for j, caption in enumerate(captions):
        if caption.requires:
            for i, facts in enumerate(attributes):
                unknown[i, j] = facts is None and true_of[i, j]
                meets[i, j] = facts is not None and all(facts[key] == word for key, word in caption.requires.items())
    return true_of & meets, unknown


def view_loss(projected: torch.Tensor, temperature: float = 0.2) -> torch.Tensor:
    """NT-Xent of neighbouring rows [B, P], two views of one image each (SimCLR, arXiv 2002.05709)."""
    unit = F.normalize(projected.float(), dim=-1)
    logits = (unit @ unit.T / temperature).fill_diagonal_(-1e4)
    return F.cross_entropy(logits, torch.arange(len(unit), device=unit.device) ^ 1)


def place_loss(evidence: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of the patches' evidence [B, N], by softmax, with the lesion's mask [B, N], >= 0.

    A constant added to all patches changes nothing, so the class logit, their mean, remains free. No mask is empty.
    """
    target = mask / mask.sum(1, keepdim=True)
    return -(evidence.log_softmax(1) * target).sum(1).mean()


def empty_patches(images: torch.Tensor, side: int, threshold: float = 0.08) -> torch.Tensor:
    """Which of side x side patches show nothing, air or glass say: bool [B, N], of normalised images [B, 3, H, W]. A
    patch is empty if its grey values hardly vary (standard deviation below threshold, in -1..1)."""
    grey = images.float().mean(1, keepdim=True)
    mean = F.adaptive_avg_pool2d(grey, side)
    variance = F.adaptive_avg_pool2d(grey**2, side) - mean**2
    return (variance.clamp(min=0).sqrt() < threshold).flatten(1)


def background_loss(evidence: torch.Tensor, empty: torch.Tensor) -> torch.Tensor:
    """-log of the share of the evidence [B, N], a softmax over patches, that does not lie on empty patches."""
    usable = empty.float().mean(1) < 0.9
    share = (evidence.softmax(1) * empty).sum(1)[usable]
    return -(1 - share).clamp(min=1e-3).log().mean() if usable.any() else evidence.sum() * 0


def text_targets(captions: list[Caption], device: torch.device) -> torch.Tensor:
    """The anchors that each caption belongs to, bool [C, concepts + 1]; the last is that of no concept."""
    true_of = torch.from_numpy(np.stack([caption.true_of for caption in captions])).to(device)
    return torch.cat([true_of, ~true_of.any(1, keepdim=True)], 1)
