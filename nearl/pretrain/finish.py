"""The end of pretraining: the image tower is frozen; projection, anchors and text tower learn from stored features."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from nearl.backbones.embedded import MEAN, STD
from nearl.pretrain.captions import CaptionGrammar, CompactVocabulary, tell
from nearl.pretrain.config import concepts_of, twins
from nearl.pretrain.images import Pool, draw, sampling_weights, see, set_numbers
from nearl.pretrain.losses import contrastive_loss, multi_positive, pairs, place_loss, text_targets
from nearl.pretrain.model import Pretraining, parameter_groups
from nearl.pretrain.teacher import WIDTH as TEACHER_WIDTH
from nearl.pretrain.teacher import affirmative_phrases, teacher_embeddings


class Stored(NamedTuple):
    """Features of all B images, kept so that the rest can be trained without the image tower."""

    pooled: torch.Tensor  # [B, D], mean patch tokens
    concept: torch.Tensor  # int64 [B]
    attributes: list  # of each image
    lesions: torch.Tensor  # int64 [K], rows of the images that show a lesion
    tokens: torch.Tensor  # bfloat16 [K, N, D], patch tokens of those
    masks: torch.Tensor  # [K, N], the lesion's share of each patch


@torch.no_grad()
def store(model: Pretraining, pool: Pool, clear: torch.Tensor) -> Stored:
    """Encode every image of the pool once, at the size at which the backbone will be used and without augmentation.

    Features of cropped and tilted views vary so much more that a head fitted to them reads whole images worse.
    """
    device = next(model.parameters()).device
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    pooled, concepts, facts, tokens, where, lesions = [], [], [], [], [], []
    for picked in torch.arange(len(pool.concept)).split(64):
        pixels = pool.pixels[picked].float() / 255
        images, masks = (pixels[:, :3] - mean) / std, pixels[:, 3]
        labels, attributes = see(pool, picked, masks, clear)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            patches = model.tokens(images.to(device, memory_format=torch.channels_last))[:, 1:]
        shown = torch.tensor([a is not None for a in attributes])
        lesions.append(len(facts) + shown.nonzero()[:, 0])
        tokens.append(patches[shown].bfloat16())
        where.append(F.adaptive_avg_pool2d(masks[shown], math.isqrt(patches.shape[1])).flatten(1))
        pooled.append(patches.float().mean(1))
        concepts.append(labels)
        facts += attributes
    return Stored(
        torch.cat(pooled),
        torch.cat(concepts),
        facts,
        torch.cat(lesions),
        torch.cat(tokens),
        torch.cat(where).to(device),
    )


@torch.no_grad()
def standardise(model: Pretraining, stored: Stored) -> Stored:
    """Scale the last norm, in place, so that every feature of the pooled patches has mean 0 and deviation 1.

    The projection then starts from features of one size; its weights are scaled back, so that only the mean is lost,
    which all images share.
    """
    mean, deviation = stored.pooled.mean(0), stored.pooled.std(0) + 1e-3
    norm, projection = model.clip.visual.trunk.norm, model.clip.visual.head.proj
    norm.weight.div_(deviation)
    norm.bias.sub_(mean).div_(deviation)
    projection.weight.mul_(deviation)
    tokens = ((stored.tokens.float() - mean) / deviation).bfloat16()
    return stored._replace(pooled=(stored.pooled - mean) / deviation, tokens=tokens)


def finish_head(
    model: Pretraining,
    stored: Stored,
    probability: np.ndarray,
    config: dict[str, Any],
    progress: Callable[[str], None],
) -> None:
    """Refit the projection and the anchors, in place, on the stored features.

    A linear map fitted to the finished features reads the classes much better than the projection trained with them.
    """
    settings, pair, seed = config["training"]["head"], twins(config), config["seed"]
    projection, device = model.clip.visual.head.proj, stored.pooled.device
    model.clip.logit_scale.fill_(math.log(settings["scale"]))
    trained = [projection.weight.requires_grad_(True), model.anchors.requires_grad_(True)]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=settings["weight_decay"])
    scale, recent = model.clip.logit_scale.exp(), []
    for step in range(settings["steps"]):
        rng = np.random.default_rng([seed, 2, step])
        picked = rng.choice(len(probability), settings["batch"], p=probability)
        labels = stored.concept[picked].to(device)
        image = F.normalize(model.project(stored.pooled[picked]), dim=-1)
        towards = F.normalize(model.anchors, dim=-1).T
        anchored = F.cross_entropy(scale * image @ towards, labels, label_smoothing=settings["smoothing"])
        place = torch.zeros((), device=device)
        if len(stored.lesions):
            some = rng.choice(len(stored.lesions), min(64, len(stored.lesions)), replace=False)
            concepts = stored.concept[stored.lesions[some]]
            evidence = model.lesion_evidence(
                stored.tokens[some].float(), concepts.to(device), pair[0][concepts].to(device)
            )
            place = place_loss(evidence, stored.masks[some])
        for group in optimizer.param_groups:
            group["lr"] = settings["lr"] * (0.5 * (1 + math.cos(math.pi * step / settings["steps"])) + 0.005)
        optimizer.zero_grad(set_to_none=True)
        (anchored + config["training"]["weights"]["place"] * place).backward()
        optimizer.step()
        recent.append((anchored.item(), place.item()))
    a, b = np.mean(recent[-config["training"]["log_every"] :], axis=0)
    progress(f"projection and anchors: {settings['steps']} steps  anchored {a:.3f}  place {b:.3f}")
    for parameter in trained:
        parameter.requires_grad_(False)


def finish_text(
    model: Pretraining,
    stored: Stored,
    sampling: tuple[np.ndarray, np.ndarray],
    grammar: CaptionGrammar,
    vocabulary: CompactVocabulary,
    config: dict[str, Any],
    progress: Callable[[str], None],
) -> None:
    """Continue to train the text tower, in place, against the stored images and the anchors, which are frozen.

    sampling: probability of each image and the number of its set. With a weight for the teacher, a linear map of the
    text embeddings also learns the teacher's (a term of the loss).
    """
    training, settings, seed = config["training"], config["training"]["text"], config["seed"]
    device = stored.pooled.device
    images = F.normalize(model.project(stored.pooled), dim=-1)
    tower = model.clip.text.requires_grad_(True)
    taught = affirmative_phrases(config) if settings["teacher"] else []
    wanted = teacher_embeddings(taught).to(device) if taught else None
    towards_teacher = nn.Linear(images.shape[1], TEACHER_WIDTH, bias=False).to(device)
    trained = nn.ModuleDict({"tower": tower, "towards_teacher": towards_teacher})
    optimizer = torch.optim.AdamW(parameter_groups(trained, training["weight_decay"]), lr=0.0, betas=(0.9, 0.98))
    scale = model.clip.logit_scale.exp()
    towards = scale * F.normalize(model.anchors, dim=-1).T
    recent = []
    for step in range(settings["steps"]):
        rng = np.random.default_rng([seed, 1, step])
        picked = draw(*sampling, settings["captions"], training["focus"], rng)
        labels, attributes = stored.concept[picked], [stored.attributes[i] for i in picked]
        captions = tell(grammar, labels, attributes, settings["captions"] // 10, rng)
        ids = vocabulary.encode([caption.text for caption in captions], rng, training["unknown_words"]).to(device)
        text = model.encode_text(ids)
        positive, unknown = (x.to(device) for x in pairs(captions, labels, attributes))
        contrastive = contrastive_loss(images[picked], text, scale, positive, unknown)
        anchored = multi_positive(text @ towards, text_targets(captions, device))
        distilled = torch.zeros((), device=device)
        if taught:
            asked = rng.choice(len(taught), settings["captions"] // 2, replace=False)
            mapped = towards_teacher(model.encode_text(vocabulary.encode([taught[i] for i in asked]).to(device)))
            distilled = 1 - F.cosine_similarity(mapped, wanted[asked]).mean()
        lr = settings["lr"] * min((step + 1) / 50, 0.5 * (1 + math.cos(math.pi * step / settings["steps"])) + 0.005)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        (contrastive + anchored + settings["teacher"] * distilled).backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        recent.append((contrastive.item(), anchored.item(), distilled.item()))
        if (step + 1) % training["log_every"] == 0:
            a, b, c = np.mean(recent[-training["log_every"] :], axis=0)
            shown = f"contrastive {a:.3f}  anchored {b:.3f}  teacher {c:.3f}"
            progress(f"text alone: step {step + 1}/{settings['steps']}  {shown}")
    tower.requires_grad_(False)


def finish(
    model: Pretraining,
    pool: Pool,
    grammar: CaptionGrammar,
    vocabulary: CompactVocabulary,
    config: dict[str, Any],
    progress: Callable[[str], None],
) -> None:
    """Refit projection and anchors, then the text tower, with the image tower frozen; all in place.

    pool: the images at the size of the finished model.
    """
    progress(f"encoding {len(pool.concept)} images without augmentation")
    stored = standardise(model, store(model, pool, twins(config)[0]))
    probability = sampling_weights(pool, config)
    finish_head(model, stored, probability, config, progress)
    groups = set_numbers(pool, concepts_of(config))
    finish_text(model, stored, (probability, groups), grammar, vocabulary, config, progress)
