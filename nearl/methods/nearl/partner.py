"""A closed-form classifier beside NEARL, as strong as it reads support images that it has not seen.

On kinds of image that the frozen model does not know, a ridge regression on its features is soon better than what
adapters learn from a few images, and the frozen model's answer, from which NEARL begins, is a burden. On kinds that it
knows, the regression is what harms. So NEARL's logits become ``share x scale x cos + weight x ridge``. How well the
frozen model and the regression read support images that were left out, one at a time, which a ridge regression answers
in closed form, decides about share and weight: they are the mean over a grid, each point as probable as the answers
that it gives, with most of the prior probability on the frozen model alone (share 1, weight 0). A single best point of
the grid would be chance where images are few. Caches and probes are combined with the frozen model's answer in the same
way by Tip-Adapter (Zhang et al., arXiv 2207.09519) and by the text-informed probe (Shakeri et al., arXiv 2409.03868).
The paper on NEARL-CLIP has no such part; it is our choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

RIDGE = 0.3  # against features of mean square 1
SHARES = (0.0, 0.125, 0.25, 0.5, 1.0)  # of the frozen model's logits
WEIGHTS = (0.0, *(2.0 ** (k / 2) for k in range(7)))  # of the regression
PRIOR = 0.8  # probability of the frozen model alone before any image is read
LEAST = 0.125  # of NEARL's own logits that is left, so that edited prompts still count
ALONE = 8.0  # weight of the regression where no image can be left out
RANK = 1e-2  # singular values of the projection below this share of the largest are not inverted


class Partner(nn.Module):
    """What is kept of the classifier: ``share`` of NEARL's logits, and a linear map of unit image embeddings. With
    several questions every class has a share, that of its question."""

    def __init__(self, classes: int, width: int, questions: int = 1):
        super().__init__()
        self.register_buffer("share", torch.ones(() if questions == 1 else (classes,)))
        self.register_buffer("weight", torch.zeros(classes, width))
        self.register_buffer("bias", torch.zeros(classes))

    def join(self, logits: Tensor, images: Tensor, rows: list[int] | slice = slice(None)) -> Tensor:
        """The joint logits [..., C] of NEARL's own [..., C] and the unit image embeddings [..., E].

        ``rows``: of each class asked about its number among the taught ones, or -1, which has the taught ones' mean.
        """
        own = F.linear(images.float(), self.weight, self.bias)
        share = self.share if self.share.ndim == 0 else F.pad(self.share, (0, 1), value=1.0)[rows][: logits.shape[-1]]
        return share * logits.float() + F.pad(own, (0, 1))[..., rows][..., : logits.shape[-1]]


class Lessons:
    """Fits a partner for all questions: a `Lesson` for each, with the images for which its answer is known.

    ``problems``: of each question its classes, these images and the answers; the rest is as of a lesson.
    """

    def __init__(self, embeddings: Tensor, problems: Sequence[tuple], frozen: Tensor, projection: Tensor | None):
        self.questions = [question for question, _, _ in problems]
        self.each, self.places = [], []
        for question, index, answers in problems:
            labels = torch.as_tensor(answers, device=frozen.device)
            index = torch.as_tensor(index, device=frozen.device)
            self.each.append(Lesson(embeddings[index], labels, frozen[index][:, question], projection))
            place = torch.full((len(embeddings),), -1, device=frozen.device)
            place[index] = torch.arange(len(index), device=frozen.device)
            self.places.append(place)
        self.partner = self.each[0].partner
        if len(problems) > 1:
            self.partner = Partner(frozen.shape[1], embeddings.shape[1], len(problems)).to(frozen.device)
            for question, lesson in zip(self.questions, self.each, strict=True):
                for name, value in lesson.partner.named_buffers():
                    self.partner.get_buffer(name)[question] = value

    def join(self, logits: Tensor, images: Tensor, index: Tensor) -> Tensor:
        """As `Lesson.join`, of all questions; an image for which an answer is not known has not taught its question."""
        if len(self.each) == 1:
            return self.each[0].join(logits, images, index)
        index = index.to(logits.device)
        parts = []
        for question, lesson, place in zip(self.questions, self.each, self.places, strict=True):
            at = place[index]
            taught = lesson.join(logits[:, question], images, at.clamp(min=0))
            parts.append(torch.where((at >= 0)[:, None], taught, lesson.partner.join(logits[:, question], images)))
        return torch.cat(parts, 1)


class Lesson:
    """Fits a partner for one question, and joins it in training as it would be without the image in question.

    The features are the embeddings taken back before the tower's last projection, which was trained for other images
    (``projection``: its weight [E, D], or None). ``embeddings``: unit embeddings [N, E] of the support images in the
    frozen model, ``labels`` int64 [N], ``frozen``: its logits [N, C]. Classes count equally. Where a class has a single
    image, the frozen model is weighed against chance instead, and the regression steps in as far as chance is better.
    """

    @torch.no_grad()
    def __init__(self, embeddings: Tensor, labels: Tensor, frozen: Tensor, projection: Tensor | None):
        device = embeddings.device
        home = torch.device("cpu") if device.type == "mps" else device  # which has no float64
        labels, frozen = labels.to(home), frozen.to(home)
        classes, x = frozen.shape[1], embeddings.to(home).double()
        back = torch.eye(x.shape[1], device=home).to(x)
        if projection is not None:
            back = torch.linalg.pinv(projection.to(home).double(), rtol=RANK).T
        counts = torch.bincount(labels, minlength=classes).to(x)
        centre = torch.stack([(x[labels == c] @ back).mean(0) for c in range(classes)]).mean(0)
        z = x @ back - centre
        size = z.square().sum(1).mean().sqrt()
        z, each = z / size, (len(labels) / classes / counts)[labels][:, None]
        truth = F.one_hot(labels, classes).to(x) - 1 / classes
        inverse = torch.linalg.inv(z.T @ (each * z) + RIDGE * torch.eye(z.shape[1], device=home).to(x))
        coefficients = inverse @ z.T @ (each * truth)
        influence = z @ inverse
        lever = each * (influence * z).sum(1, keepdim=True)
        left_out = (truth - z @ coefficients) / (1 - lever)
        self.alone = bool(counts.min() < 2)
        loss = lambda logits: F.cross_entropy(logits, labels, weight=1 / counts).item()  # noqa: E731
        if self.alone:
            losses = {(1.0, 0.0): loss(frozen.double()), (0.0, ALONE): math.log(classes)}
        else:
            held = truth - left_out
            losses = {(g, a): loss(g * frozen + a * held) for g, a in product(SHARES, WEIGHTS)}
        self.share, self.weight = _mean(losses, len(labels))
        self.partner = Partner(classes, x.shape[1]).to(device)
        self.partner.share.fill_(max(self.share, LEAST))
        to_logits = self.weight * coefficients / size
        self.partner.weight.copy_((back @ to_logits).T)
        self.partner.bias.copy_(-centre @ to_logits)
        self._toward = (influence @ back.T / size).float().to(device)
        self._offset = (influence @ centre / size).float().to(device)
        self._change = (self.weight * each * left_out).float().to(device)

    def join(self, logits: Tensor, images: Tensor, index: Tensor) -> Tensor:
        """The joint logits [B, C] in training: each image, number ``index`` int64 [B] of the support set, is read by
        the regression without it."""
        with torch.autocast(images.device.type, enabled=False):
            joint = self.partner.join(logits, images)
            if self.alone:
                return joint
            near = (images.float() * self._toward[index]).sum(1) - self._offset[index]
            return joint - near[:, None] * self._change[index]


def _mean(losses: dict[tuple[float, float], float], images: int) -> tuple[float, float]:
    """Expected share and weight, where each pair's likelihood is that of so many images with its mean loss."""
    pairs = torch.tensor(list(losses), dtype=torch.float64)
    prior = [PRIOR if pair == (1.0, 0.0) else (1 - PRIOR) / (len(losses) - 1) for pair in losses]
    evidence = torch.tensor(prior).double().log() - images * torch.tensor(list(losses.values())).double()
    share, weight = evidence.softmax(0) @ pairs
    return share.item(), weight.item()
