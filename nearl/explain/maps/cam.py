"""The Grad-CAM family on the tokens of a Vision Transformer, with the arithmetic of the ``grad-cam`` package.

Grad-CAM (Selvaraju et al., ICCV 2017), Grad-CAM++ (Chattopadhay et al., WACV 2018), HiResCAM (Draelos & Carin, 2020),
LayerCAM (Jiang et al., TIP 2021), EigenCAM (Muhammad & Yeasin, IJCNN 2020), Score-CAM (Wang et al., CVPR-W 2020).
The package would run the model again for every map, so it is given activations and gradients of one shared trace.

``layer`` k reads what the attention of block k reads (the output of its first norm); None is the tower's ``cam_layer``,
the last place where patch tokens carry gradient.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from nearl.explain.card import MapCard
from nearl.explain.score import Score
from nearl.explain.trace import CAM, Trace

SCORE_CHANNELS = 64  # of Score-CAM, those that vary most over the image (our choice; each costs a forward pass)
BATCH = 16


@lru_cache(maxsize=8)
def _package(name: str):
    """An instance of one of the package's classes, to combine arrays with; its own model is never run."""
    import pytorch_grad_cam  # takes seconds to import

    return getattr(pytorch_grad_cam, name)(nn.Linear(1, 1), [])


def _read(trace: Trace, score: Score, layer: int | None, gradient: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
    """Activations and gradients, [B, D, grid height, grid width] each."""
    tokens, key = (trace.cam, CAM) if layer is None else (trace.norms[layer], ("norm", layer))
    grads = trace.to_channels(trace.grad(score, key)[0]) if gradient else None
    return trace.to_channels(tokens), grads


def _of_package(name: str, split: bool = False):
    """The ``draw`` of one of the package's maps.

    ``split``: LayerCAM and Grad-CAM++ keep positive gradients only and are derived for activations after a ReLU, but
    tokens have both signs, and a falling feature can be what raises the score. So each feature is split into its
    positive and its negative part. Grad-CAM++ also gets gradients on a common scale, since its formula has an absolute
    epsilon. Both are our choice.
    """

    def draw(trace: Trace, score: Score, layer: int | None, head: int | None) -> np.ndarray:
        activations, grads = _read(trace, score, layer)
        if split:
            activations = np.maximum(np.concatenate([activations, -activations], 1), 0)
            grads = np.concatenate([grads, -grads], 1) * (activations > 0)
        if name == "GradCAMPlusPlus":
            grads = grads / np.maximum(np.abs(grads).max((1, 2, 3), keepdims=True), 1e-30)
        return np.maximum(_package(name).get_cam_image(None, None, None, activations, grads, False), 0)

    return draw


def eigencam(trace: Trace, score: Score, layer: int | None, head: int | None) -> np.ndarray:
    """The first principal component; its sign is arbitrary, so the side that reaches further from zero is shown."""
    activations, _ = _read(trace, score, layer, gradient=False)
    maps = _package("EigenCAM").get_cam_image(None, None, None, activations, None, False)
    return np.stack([np.maximum(-m if -m.min() > m.max() else m, 0) for m in maps])


@torch.no_grad()
def scorecam(trace: Trace, score: Score, layer: int | None, head: int | None) -> np.ndarray:
    """Each channel masks the image by its own activation and is weighted by the softmax of the remaining scores.

    The package's own version would run every channel, one image at a time.
    """
    activations, _ = _read(trace, score, layer, gradient=False)
    maps = []
    for pixels, channels in zip(trace.pixels, torch.from_numpy(activations), strict=True):
        spread = channels.flatten(1).std(1)
        channels = channels[spread.topk(min(SCORE_CHANNELS, len(spread))).indices]
        masks = F.interpolate(channels[:, None], pixels.shape[1:], mode="bilinear", align_corners=False)
        low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
        parts = ((masks - low) / (high - low + 1e-8)).to(pixels.device).split(BATCH)
        scores = trace.passes(score, len(maps), (pixels * part for part in parts), len(parts))
        weights = scores.softmax(0).cpu()
        maps.append((weights[:, None, None] * channels).sum(0).clamp(min=0).numpy())
    return np.stack(maps)


CARDS = (
    MapCard(
        "gradcam",
        "Grad-CAM",
        _of_package("GradCAM"),
        "Patches whose content raises the class's score, each feature weighted by its mean effect on the score.",
        "Features are weighted alike everywhere, so it can highlight a place that only resembles the one that counted.",
        "weighted activation",
        gradient=True,
        layers=True,
    ),
    MapCard(
        "gradcam++",
        "Grad-CAM++",
        _of_package("GradCAMPlusPlus", split=True),
        "Grad-CAM that counts several separate places of the same finding more evenly.",
        "It counts raising effects alone, so evidence against the class is never shown.",
        "weighted activation",
        gradient=True,
        layers=True,
    ),
    MapCard(
        "hirescam",
        "HiResCAM",
        _of_package("HiResCAM"),
        "Patches whose content raises the score, each feature weighted by its effect at that very place.",
        "It is a first-order estimate: it holds for small changes, not for taking a patch away.",
        "logits, first order",
        gradient=True,
        layers=True,
    ),
    MapCard(
        "layercam",
        "LayerCAM",
        _of_package("LayerCAM", split=True),
        "Like HiResCAM, counting only those features of a patch that raise the score.",
        "Leaving out lowering effects makes the map look more certain than the model is.",
        "logits, first order",
        gradient=True,
        layers=True,
    ),
    MapCard(
        "eigencam",
        "EigenCAM",
        eigencam,
        "The main pattern in what the model holds of the patches, whatever the class.",
        "It knows nothing of the class: it shows what stands out, not what decided.",
        "first component",
        by_class=False,
        layers=True,
    ),
    MapCard(
        "scorecam",
        "Score-CAM",
        scorecam,
        "Shows the model the image through each of its features in turn and keeps those that leave the score high.",
        "The half-hidden images are unlike any it was trained on, and the map takes tens of passes.",
        "weighted activation",
        slow=True,
        layers=True,
    ),
)
