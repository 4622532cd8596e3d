"""What a map explains: one class's logit, on its own or against others, in the frozen or the adapted model."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from nearl.errors import NearlError
from nearl.methods.shows import Shows
from nearl.reading.classifier import Classifier

OTHERS, ALONE = "others", "alone"


class Score(NamedTuple):
    """The class's logit less the mean of the other classes' (``OTHERS``, our default: probabilities are relative to the
    prompts too, and what raises all logits alike says nothing), less one other class's (its number), or ``ALONE``."""

    class_index: int
    against: int | str = OTHERS

    def weights(self, count: int) -> Tensor:
        """float32 [C]: the score is their scalar product with the logits.

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
        """[..., C] -> [...]."""
        return logits @ self.weights(logits.shape[-1]).to(logits)

    def words(self, classes: tuple[str, ...]) -> str:
        """What the class is compared with."""
        if self.against == ALONE or len(classes) == 1:
            return ""
        if self.against == OTHERS and len(classes) > 2:
            return "the other classes"
        return classes[1 - self.class_index if self.against == OTHERS else self.against]


class Scorer:
    """Normalised pixels [B, 3, H, W] -> logits [B, C], with the text side encoded once.

    ``adapted`` None takes the adapted model if there is one. ``head_seed`` permutes the coordinates of the class
    embeddings, which randomises the head and keeps all angles between classes; with per-image context, where they are
    made anew for every image, it changes nothing. With an adapter of another method than NEARL the coordinates of the
    image embeddings are permuted, which is the same and serves any head. Raises NearlError for an adapted model without
    an adapter, or whose method no map can be drawn of.
    """

    def __init__(self, classifier: Classifier, adapted: bool | None = None, head_seed: int | None = None):
        self.classifier = classifier
        self.adapted = classifier.adapter is not None if adapted is None else adapted
        if self.adapted and classifier.adapter is None:
            raise NearlError("There is no adapter yet, so only the map of the frozen model can be drawn.")
        self.method = classifier.method if self.adapted else None
        self.backbone = classifier.backbone if self.method is None else self.method.tower
        if self.method is not None and Shows.TOKENS not in self.method.shows:
            raise NearlError(Shows.TOKENS.value.format(title=self.method.card.title))
        self.classes = tuple(classifier.prompt_set.classes)
        self.per_image = self.model is not None and self.model.config.text_context == "image"
        self.summaries = self.embeddings = self.order = None
        with self.backbone.lock, torch.no_grad():
            if self.per_image:
                self.prompts = classifier.prompt_tokens()
                return
            self.embeddings = classifier.embeddings(self.adapted)
            if self.model is not None:
                self.summaries = classifier.taught_features().summaries
        if head_seed is not None:
            generator = torch.Generator().manual_seed(head_seed)
            self.order = torch.randperm(self.embeddings.shape[1], generator=generator).to(self.embeddings.device)
            self.embeddings = self.embeddings[:, self.order]

    @property
    def model(self):
        """A NEARL adapter's modules, or None for the frozen model and for other methods."""
        return self.classifier.model if self.adapted else None

    def logits(self, pixels: Tensor) -> Tensor:
        """The caller holds the backbone's lock and decides about gradients."""
        if self.per_image:
            return self.model(pixels, self.prompts)
        if self.method is not None:
            image = self.method.encode_image(pixels)
            return self.method.scores(image if self.order is None else image[:, self.order])
        image = self.model.encode_image(pixels, self.summaries) if self.adapted else self.backbone.encode_image(pixels)
        return self.backbone.logit_scale * image.float() @ self.embeddings.T


def randomised(classifier: Classifier, seed: int) -> Classifier:
    """The same classifier with every tensor of its adapter shuffled: the control of Adebayo et al., "Sanity Checks for
    Saliency Maps", NeurIPS 2018, together with a ``Scorer`` that has a ``head_seed``."""
    adapter = classifier.adapter
    if adapter is None:
        return classifier
    generator = torch.Generator().manual_seed(seed)
    state = {
        key: value.reshape(-1)[torch.randperm(value.numel(), generator=generator)].reshape(value.shape)
        for key, value in adapter.state.items()
    }
    return Classifier(classifier.backbone, classifier.prompt_set, replace(adapter, state=state))
