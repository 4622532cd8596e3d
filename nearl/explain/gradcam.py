"""Grad-CAM of the vision tower (Selvaraju et al., ICCV 2017), through the ``grad-cam`` package."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from nearl.classifier import Classifier
from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.explain.overlay import Heatmap, seen_box


class _ClassScores(nn.Module):
    """Pixels -> logits of the classes, with the text side already encoded."""

    def __init__(self, classifier: Classifier, adapted: bool):
        super().__init__()
        self.frozen = classifier.backbone.model  # registered so that grad-cam finds the device
        self.prompts = classifier.prompt_tokens()
        self.classifier, self.adapted = classifier, adapted
        with torch.no_grad():
            support = adapted and classifier.model.config.text_context == "support"
            self.taught = classifier.taught_features() if support else None
            self.classes = None if adapted else classifier.class_embeddings()

    def forward(self, images: Tensor) -> Tensor:
        if self.adapted:
            return self.classifier.model(images, self.prompts, self.taught)
        backbone = self.classifier.backbone
        return backbone.logit_scale * backbone.encode_image(images) @ self.classes.T


def gradcam(classifier: Classifier, record: ImageRecord, class_index: int, adapted: bool | None = None) -> Heatmap:
    """Which patches raise one class above the others, for the adapted model (default if there is one) or the frozen.

    The score is the class's logit less the mean of the other classes' (our choice: probabilities are relative to the
    prompts too, and what raises all logits alike says nothing). The layer is the tower's ``cam_layer``. The backbone's
    lock is held, for grad-cam hooks the shared model.
    Raises NearlError for a class that is not there or an adapted map without an adapter.
    """
    from pytorch_grad_cam import GradCAM  # takes seconds to import

    backbone = classifier.backbone
    adapted = classifier.model is not None if adapted is None else adapted
    if adapted and classifier.model is None:
        raise NearlError("There is no adapter yet, so only the map of the frozen model can be drawn.")
    if not 0 <= class_index < len(classifier.prompt_set.classes):
        raise NearlError(f"There is no class number {class_index + 1} among these prompts.")
    tower = backbone.vision
    height, width = tower.grid

    def above_the_others(logits: Tensor) -> Tensor:
        others = torch.cat([logits[:class_index], logits[class_index + 1 :]])
        return logits[class_index] - (others.mean() if len(others) else 0)

    def to_grid(tokens: Tensor) -> Tensor:
        return tokens[:, tower.prefix_tokens :].unflatten(1, (height, width)).permute(0, 3, 1, 2)

    with backbone.lock, torch.enable_grad():
        scores = _ClassScores(classifier, adapted)
        pixels = classifier.pixels([record]).requires_grad_()
        with GradCAM(scores, [tower.cam_layer], reshape_transform=to_grid) as cam:
            values = cam(pixels, [above_the_others])[0]
    return Heatmap(
        np.ascontiguousarray(values, dtype=np.float32),
        seen_box(backbone, record.size),
        record.size,
        classifier.prompt_set.classes[class_index],
        "Grad-CAM",
        adapted,
    )
