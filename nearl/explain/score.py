"""What a map explains: one class's logit, on its own or against others, in the frozen or the adapted model."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from nearl.errors import NearlError
from nearl.methods import restore
from nearl.methods.shows import Shows
from nearl.prompts import FINDINGS
from nearl.reading.classifier import Classifier

OTHERS, ALONE = "others", "alone"


class Score(NamedTuple):
    """A class's logit less the mean of the other classes' (``OTHERS``), less that of one other class (its number), or
    ``ALONE``.

    ``OTHERS`` is our default: probabilities are relative to the prompts too, and what raises all logits alike decides
    nothing.
    """

    class_index: int
    against: int | str = OTHERS

    def weights(self, count: int) -> Tensor:
        """float32 [C], whose scalar product with the logits is the score.

        Raises NearlError for a class that is not there.
        """
        for index in (self.class_index, self.against):
            if isinstance(index, int) and not 0 <= index < count:
                raise NearlError(f"There is no class number {index + 1} among these prompts.")
        w = torch.zeros(count)
        if self.against == OTHERS and count > 1:
            w -= 1 / (count - 1)
        elif isinstance(self.against, int):
            w[self.against] -= 1
        w[self.class_index] = 1.0
        return w

    def of(self, logits: Tensor) -> Tensor:
        """Logits [..., C] -> scores [...]."""
        return logits @ self.weights(logits.shape[-1]).to(logits)

    def words(self, classes: tuple[str, ...]) -> str:
        """What the class is compared with, "" where it stands alone."""
        if self.against == ALONE or len(classes) == 1:
            return ""
        if self.against == OTHERS and len(classes) > 2:
            return "the other classes"
        return classes[1 - self.class_index if self.against == OTHERS else self.against]


class Scorer:
    """Normalised pixels [B, 3, H, W] -> logits [B, C] by one method, with the text side encoded once.

    ``adapted`` None takes the adapted model if there is one. ``head_seed`` permutes the coordinates of the image
    embeddings before they are scored, which randomises the head and keeps all angles between classes. Raises NearlError
    for an adapted model without an adapter, or whose method no map can be drawn of.
    """

    def __init__(self, classifier: Classifier, adapted: bool | None = None, head_seed: int | None = None):
        self.adapted = classifier.method is not None if adapted is None else adapted
        method = classifier.method if self.adapted else classifier.zero_shot
        if method is None:
            raise NearlError("There is no adapter yet, so only the map of the frozen model can be drawn.")
        if Shows.TOKENS not in method.shows:
            raise NearlError(Shows.TOKENS.value.format(title=method.card.title))
        self.method, self.backbone = method, method.tower
        self.classes = tuple(classifier.prompt_set.classes)
        self.findings = classifier.prompt_set.kind == FINDINGS
        with self.backbone.lock, torch.no_grad():
            self.method.warm()
        self.turn = None
        if head_seed is not None:
            generator = torch.Generator().manual_seed(head_seed)
            self.turn = torch.randperm(self.backbone.embed_dim, generator=generator).to(self.backbone.device)

    def logits(self, pixels: Tensor) -> Tensor:
        """The caller holds the backbone's lock and decides about gradients."""
        return self.method.see(pixels, self.turn)

    def scores(self, embeddings: Tensor) -> Tensor:
        """Image embeddings [..., E] -> logits [..., C], for methods that show ``Shows.LINEAR``."""
        return self.method.scores(embeddings if self.turn is None else embeddings[..., self.turn])


def randomised(classifier: Classifier, seed: int) -> Classifier:
    """The same classifier with every tensor of its adapter shuffled.

    With a ``Scorer`` that has a ``head_seed`` this is the control of Adebayo et al., "Sanity Checks for Saliency Maps",
    NeurIPS 2018.
    """
    if classifier.method is None:
        return classifier
    adapter, generator = classifier.method.adapter(), torch.Generator().manual_seed(seed)
    state = {
        key: value.reshape(-1)[torch.randperm(value.numel(), generator=generator)].reshape(value.shape)
        for key, value in adapter.state.items()
    }
    method = restore(classifier.backbone, replace(adapter, state=state))
    return Classifier(classifier.backbone, classifier.prompt_set, method)
