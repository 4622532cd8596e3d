"""Backbone + prompt set + optional adapter -> probabilities before and after adaptation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nearl.adapters.store import Adapter
from nearl.backbones import Backbone
from nearl.data.images import ImageRecord
from nearl.errors import NearlError
from nearl.methods import Frozen, Method, build, is_nearl, restore
from nearl.methods.nearl.network import ClassFeatures, NearlCLIP, PromptTokens
from nearl.methods.shows import Shows
from nearl.prompts import PromptSet, class_key, unknown_words
from nearl.reading.trust import Trust

CACHE_ENTRIES = 8192
BATCH = 16


@dataclass(frozen=True)
class Prediction:
    """Probabilities relative to the prompts: ``frozen`` and ``adapted`` are float32 [B, C], rows sum to one.

    ``adapted`` is None without an adapter. ``trust`` is None unless the adapter brings one
    (`nearl.reading.trust.Trust`), else
    "calibrated" (whether ``adapted`` is), "coverage" (of the sets, float or None), "sets" (per image the names of the
    classes that hold the true one that often, likeliest first; or None), "unlike" (per image whether it is unlike those
    taught with; or None), "notes" (sentences on what is missing and why). ``unfamiliar``: per image whether it is
    unlike those that the frozen model was pretrained on (`nearl.backbones.familiar.Familiar`); None where that is
    not known.
    """

    files: list[str]
    classes: list[str]
    frozen: np.ndarray
    adapted: np.ndarray | None
    trust: dict | None = None
    unfamiliar: list[bool] | None = None


class Classifier:
    """Classifies images by their similarity to the prompts, with the frozen and, if given, the adapted model.

    Text is encoded once per prompt and image features once per image content; editing a prompt encodes that prompt and
    nothing else. (With an adapter whose ``text_context`` is "image" the adapted side cannot be cached; an adapter of
    another method encodes all prompts anew where it changes the text tower.)

    ``model`` is a NEARL adapter's, ``method`` that of any other adapter; at most one of them is not None.
    """

    def __init__(self, backbone: Backbone, prompt_set: PromptSet, adapter: Adapter | None = None):
        self.backbone = backbone
        self.model: NearlCLIP | None = None
        self.method: Method | None = None
        self._frozen = Frozen(backbone, CACHE_ENTRIES)
        self._cache: OrderedDict[tuple, Tensor | ClassFeatures] = OrderedDict()
        self.set_prompts(prompt_set)
        self.set_adapter(adapter)

    def set_prompts(self, prompt_set: PromptSet) -> None:
        """Ask about other classes or in other words. NearlError, and nothing changed, for a class that the adapter's
        method cannot answer for, since it was never fitted to it."""
        if self.method is not None:
            self.method.ask(prompt_set)
        self.prompt_set = prompt_set

    def set_adapter(self, adapter: Adapter | None) -> None:
        """Use another adapter, or none. Raises NearlError if it does not fit the backbone, or its method the prompts;
        the one in use then stays."""
        model = method = None
        if adapter is not None and is_nearl(adapter):
            model = build(self.backbone, adapter)
        elif adapter is not None:
            method = restore(self.backbone, adapter, self._frozen)
            method.ask(self.prompt_set)
        measured = None if adapter is None else adapter.meta.get("trust")
        trust = None if measured is None else Trust.from_dict(measured)
        if trust is not None and len(trust.centroids[0]) != self.backbone.embed_dim:
            raise NearlError(
                "What this adapter says about how far to trust it was measured on another model; teach it anew."
            )
        self.adapter, self.model, self.method, self.trust = adapter, model, method, trust

    @property
    def mapped(self) -> bool:
        """Whether there is an adapted model that maps can be drawn of."""
        return self.adapter is not None and (self.method is None or Shows.TOKENS in self.method.shows)

    def untaught(self) -> list[str]:
        """Classes of the prompt set that the adapter was never taught."""
        if self.adapter is None:
            return []
        taught = {class_key(name) for name in self.adapter.meta["classes"]}
        return [name for name in self.prompt_set.classes if class_key(name) not in taught]

    def unknown_words(self) -> list[str]:
        """Words of the prompts that the text tower was never trained on: they do not steer it."""
        return unknown_words((text for group in self.prompt_set.texts() for text in group), self.backbone.knows)

    @torch.no_grad()
    def predict(self, records: Sequence[ImageRecord]) -> Prediction:
        """Probabilities for every image; each is independent of the others in ``records``."""
        with self.backbone.lock:
            embeddings = self.image_features(records, adapted=False)
            frozen = self._softmax(embeddings, self.class_embeddings())
            adapted = None
            if self.model is not None and self.model.config.text_context == "image":
                prompts = self.prompt_tokens()
                images = [self.pixels(records[i : i + BATCH]) for i in range(0, len(records), BATCH)]
                logits = [self.model(batch, prompts) for batch in images]
                adapted = torch.cat(logits).softmax(-1).cpu().numpy() if logits else frozen
            elif self.method is not None:
                scores = self.method.scores(self.image_features(records, adapted=True))
                adapted = scores.float().softmax(-1).cpu().numpy()
            elif self.model is not None:
                classes = self._adapted_classes(self.prompt_set).embeddings
                adapted = self._softmax(self.image_features(records, adapted=True), classes)
        files, classes = [r.name for r in records], list(self.prompt_set.classes)
        trust = None
        if self.trust is not None:
            adapted, trust = self.trust.read(adapted, embeddings.float().cpu().numpy(), self.prompt_set)
        familiar = self.backbone.familiar
        unfamiliar = None if familiar is None else familiar.unlike(embeddings).tolist()
        return Prediction(files, classes, frozen, adapted, trust, unfamiliar)

    def pixels(self, records: Sequence[ImageRecord]) -> Tensor:
        """Normalised model input [B, 3, H, W] on the backbone's device."""
        return self._frozen.pixels(records)

    def prompt_tokens(self, prompt_set: PromptSet | None = None) -> PromptTokens:
        """Tokens of a prompt set (default: the one in use)."""
        groups = (prompt_set or self.prompt_set).texts()
        texts = [text for group in groups for text in group]
        return PromptTokens(self.backbone.tokenize(texts), [len(group) for group in groups])

    def taught_features(self) -> ClassFeatures:
        """Features of the prompts that the adapter was taught with: what its image side attends to."""
        return self._adapted_classes(PromptSet.from_dict(self.adapter.meta["prompts"]))

    @torch.no_grad()
    def embeddings(self, adapted: bool) -> Tensor:
        """Unit class embeddings [C, E] of the frozen or the adapted model; adapted ones need the support context."""
        if adapted and self.method is not None:
            return self.method.classes().float()
        return self._adapted_classes(self.prompt_set).embeddings if adapted else self.class_embeddings()

    def _softmax(self, images: Tensor, classes: Tensor) -> np.ndarray:
        return (self.backbone.logit_scale * images @ classes.T).softmax(-1).float().cpu().numpy()

    def class_embeddings(self) -> Tensor:
        """Unit embeddings [C, E] of the classes in the frozen model: the mean of their prompts' unit embeddings."""
        return self._frozen.classes(self.prompt_set)

    def _adapted_classes(self, prompt_set: PromptSet) -> ClassFeatures:
        def encode(texts: list[str]) -> list[ClassFeatures]:
            features = self.model.encode_text(PromptTokens(self.backbone.tokenize(texts), [1] * len(texts)))
            return [ClassFeatures(features.embeddings[i], features.summaries[:, i]) for i in range(len(texts))]

        groups = prompt_set.texts()
        kind = f"adapted text {self.adapter.version}"
        each = iter(self._cached(kind, [text for group in groups for text in group], encode))
        classes = [[next(each) for _ in group] for group in groups]
        return ClassFeatures(
            torch.stack([F.normalize(torch.stack([f.embeddings for f in c]).mean(0), dim=-1) for c in classes]),
            torch.stack([torch.stack([f.summaries for f in c]).mean(0) for c in classes], dim=1),
        )

    @torch.no_grad()
    def image_features(self, records: Sequence[ImageRecord], adapted: bool) -> Tensor:
        """Unit embeddings [B, E], each image encoded once. The adapted ones exist for the support context only."""
        if not records:
            return torch.zeros(0, self.backbone.embed_dim, device=self.backbone.device)
        if not adapted:
            return self._frozen.embed(self._frozen.pooled(records))
        by_digest = {record.digest: record for record in records}

        def encode(digests: list[str]) -> list[Tensor]:
            some = [by_digest[digest] for digest in digests]
            if self.method is not None:
                return list(self.method.images(some).float())
            return list(self.model.encode_image(self.pixels(some), self.taught_features().summaries))

        kind = f"adapted image {self.adapter.version}"
        return torch.stack(self._cached(kind, [record.digest for record in records], encode))

    def _cached(self, kind: str, keys: list[str], encode) -> list:
        """``encode`` (keys -> values, in batches) for the keys not seen lately; values in the order of ``keys``."""
        found = {key: self._cache[kind, key] for key in keys if (kind, key) in self._cache}
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]
            found.update(zip(batch, encode(batch), strict=True))
        for key in found:
            self._cache[kind, key] = found[key]
            self._cache.move_to_end((kind, key))
        while len(self._cache) > CACHE_ENTRIES:
            self._cache.popitem(last=False)
        return [found[key] for key in keys]
