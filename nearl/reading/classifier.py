"""Backbone, prompt set and optional method -> probabilities before and after teaching."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nearl.backbones import Backbone
from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.methods import Frozen, Method, Task
from nearl.methods.shows import Shows
from nearl.methods.zero_shot import ZeroShot
from nearl.prompts import PromptSet, class_key, unknown_words
from nearl.reading.claims import Claim, Claims, recognised
from nearl.reading.findings import limits_of
from nearl.reading.trust import Trust
from nearl.reading.words import text_notes

CACHE_ENTRIES = 8192


@dataclass(frozen=True)
class Prediction:
    """Probabilities of images relative to the prompts."""

    files: list[str]
    classes: list[str]
    frozen: np.ndarray
    """Of the frozen model, float32 [B, C]; rows sum to one."""
    adapted: np.ndarray | None
    """Of the taught method, likewise; None without one."""
    trust: dict | None = None
    """None unless the adapter has a `nearl.reading.trust.Trust`, else "calibrated" (whether ``adapted`` is), "coverage"
    (of the sets, or None), "sets" (for each image the names of the classes that include the true one that often,
    likeliest first; or None), "thresholds" (of each finding the probability from which on it counts as present; or
    None), "unlike" (for each image whether it is unlike the training images; or None) and "notes"
    (sentences on what is missing and why)."""
    unfamiliar: list[bool] | None = None
    """For each image whether it is unlike those that the frozen model was pretrained on
    (`nearl.backbones.familiar.Familiar`); None where that is not known."""
    claims: list[Claim] | None = None
    """What may be claimed of each answer of the frozen model; None where the backbone was not measured."""
    measured: str = ""
    """How often the frozen model is right with these prompts, in a sentence; "" likewise."""


class Classifier:
    """Classifies images with the frozen model and, if given, a taught method.

    Text is encoded once per prompt and image features once per image content, so that editing a prompt encodes that
    prompt alone. (With ``nearl:image-context`` the taught side cannot be cached.) The classifier takes the method over:
    it changes the prompts that the method answers for, and where it keeps features.
    """

    def __init__(self, backbone: Backbone, prompt_set: PromptSet, method: Method | None = None):
        self.backbone, self.prompt_set = backbone, prompt_set
        self.frozen = Frozen(backbone, CACHE_ENTRIES)
        self.zero_shot = ZeroShot(Task(backbone, prompt_set, frozen=self.frozen))
        self.method: Method | None = None
        self.trust: Trust | None = None
        self.set_method(method)

    def set_prompts(self, prompt_set: PromptSet) -> None:
        """Use other classes or prompts. Raises NearlError, with nothing changed, for a class that the method cannot
        answer for because it was never fitted to it."""
        for method in filter(None, (self.method, self.zero_shot)):
            method.ask(prompt_set)
        self.prompt_set = prompt_set

    def set_method(self, method: Method | None) -> None:
        """Use another method, or none. Raises NearlError, with nothing changed, if it cannot answer for the prompts or
        its adapter's trust cannot be used."""
        measured = None if method is None or method.source is None else method.source.meta.get("trust")
        trust = None if measured is None else Trust.from_dict(measured)
        if trust is not None and len(trust.centroids[0]) != self.backbone.embed_dim:
            raise NearlError("The trust stored with this adapter was measured with another model; teach it again.")
        if trust is not None and method is not None:
            trust.check(method.taught)
        if method is not None:
            method.ask(self.prompt_set, self.frozen)
        self.method, self.trust = method, trust

    def limits(self, adapted: bool) -> list[float]:
        """Of each finding the probability, as shown, from which on it counts as present, of the taught method or the
        frozen model; none for classes."""
        own = adapted and self.trust is not None and self.trust.prompts == self.prompt_set.digest
        return limits_of(self.prompt_set, self.trust.limits() if own else None)

    def untaught(self) -> list[str]:
        """Classes of the prompt set that the method was never taught."""
        if self.method is None:
            return []
        taught = {class_key(name) for name in self.method.taught.classes}
        return [name for name in self.prompt_set.classes if class_key(name) not in taught]

    def unknown_words(self) -> list[str]:
        """Words of the prompts that the text tower was never trained on, and therefore ignores."""
        return unknown_words((text for group in self.prompt_set.texts() for text in group), self.backbone.knows)

    def text_notes(self) -> list[str]:
        """What the text tower does not read of the prompts, and classes whose prompts are the same to it, in
        sentences."""
        return text_notes(self.backbone, self.prompt_set)

    @torch.no_grad()
    def predict(self, records: Sequence[ImageRecord]) -> Prediction:
        """Probabilities of every image; each is independent of the others.

        Those of the frozen model are calibrated where the backbone was measured.
        """
        claims = Claims(self.backbone, self.prompt_set)
        with self.backbone.lock:
            frozen = self.zero_shot.predict(records)
            adapted = None if self.method is None else self.method.predict(records)
            embeddings = self.image_features(records)
        trust = None
        if self.trust is not None:
            adapted, trust = self.trust.read(adapted, embeddings.cpu().numpy(), self.prompt_set)
        familiar = self.backbone.familiar
        unfamiliar = None if familiar is None else familiar.unlike(embeddings).tolist()
        known = claims.of(embeddings, records)
        frozen = claims.calibrated(frozen, known)
        names, classes = [record.name for record in records], list(self.prompt_set.classes)
        return Prediction(names, classes, frozen, adapted, trust, unfamiliar, known, claims.words())

    def recognised(self, record: ImageRecord) -> ImageRecord:
        """A scan in the view in which the frozen model recognises its kind best (`nearl.reading.claims.recognised`);
        as it is with a taught method, which was taught with views as they are."""
        return record if self.method is not None else recognised(self.frozen, record)

    @property
    def reads_volumes(self) -> bool:
        """Whether there is a taught method that reads a volume as a study of all its slices."""
        return self.method is not None and self.method.card.volumes

    @property
    def mapped(self) -> bool:
        """Whether there is a taught method that maps can be drawn of."""
        return self.method is not None and Shows.TOKENS in self.method.shows

    def pixels(self, records: Sequence[ImageRecord]) -> Tensor:
        """Normalised model input [B, 3, H, W] on the backbone's device."""
        return self.frozen.pixels(records)

    @torch.no_grad()
    def image_features(self, records: Sequence[ImageRecord]) -> Tensor:
        """Unit embeddings [B, E] float32 of images in the frozen model."""
        if not records:
            return torch.zeros(0, self.backbone.embed_dim, device=self.backbone.device)
        return self.zero_shot.images(records).float()

    @torch.no_grad()
    def class_embeddings(self) -> Tensor:
        """Unit embeddings [C, E] of the classes in the frozen model."""
        return self.zero_shot.classes()
