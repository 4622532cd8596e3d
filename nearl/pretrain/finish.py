"""The end of pretraining: the image tower is frozen; projection, anchors and text tower learn from stored features."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from nearl.backbones.embedded import MEAN, STD, GatedNorm
from nearl.explain.outside import covered, patient
from nearl.pretrain.captions import CaptionGrammar, CompactVocabulary, tell
from nearl.pretrain.config import concepts_of, twins
from nearl.pretrain.images import Pool, draw, sampling_weights, see, set_numbers
from nearl.pretrain.losses import contrastive_loss, multi_positive, pairs, place_loss, text_targets
from nearl.pretrain.model import Pretraining, parameter_groups
from nearl.pretrain.teacher import WIDTH as TEACHER_WIDTH
from nearl.pretrain.teacher import affirmative_phrases, teacher_embeddings


class Stored(NamedTuple):
    """Features of all B images, kept so that the rest can be trained without the image tower."""

    pooled: torch.Tensor  # [B, D], weighted mean of the patch tokens
    concept: torch.Tensor  # int64 [B]
    attributes: list  # of each image
    lesions: torch.Tensor  # int64 [K], rows of the images that show a lesion
    tokens: torch.Tensor  # bfloat16 [K, N, D], patch tokens of those
    weights: torch.Tensor  # bfloat16 [K, N, 1], of these in the mean
    masks: torch.Tensor  # [K, N], the lesion's share of each patch


def weigh_patches(model: Pretraining, pool: Pool, settings: dict[str, Any], seed: int) -> float:
    """Put a `GatedNorm` in the place of the tower's last norm, fitted to tell the patient from what is around it.

    Where the patient is comes from `nearl.explain.outside`, on so many images drawn from the pool. Returns the share of
    the patches of those images that are told correctly.
    """
    trunk, side = model.clip.visual.trunk, 0
    gated = GatedNorm(trunk.num_features, eps=trunk.norm.eps).to(trunk.norm.weight.device)
    gated.load_state_dict({**gated.state_dict(), **trunk.norm.state_dict()})
    trunk.norm = gated.requires_grad_(False)
    picked = torch.from_numpy(np.random.default_rng([seed, 3]).permutation(len(pool.concept))[: settings["images"]])
    tokens, shown = [], []
    for some in picked.split(32):
        tokens.append(_encode(model, pool, some)[0].float().flatten(0, 1))
        side = math.isqrt(len(tokens[-1]) // len(some))
        for pixels in pool.pixels[some, :3].permute(0, 2, 3, 1).numpy():
            mask = patient(Image.fromarray(pixels))
            shown.append(covered(mask, (0, 0, mask.shape[1], mask.shape[0]), (side, side)).ravel())
    x, y = torch.cat(tokens), torch.from_numpy(np.concatenate(shown)).to(tokens[0].device)
    with torch.enable_grad():
        gate = nn.Linear(x.shape[1], 1).to(x.device)
        optimizer = torch.optim.AdamW(gate.parameters(), lr=settings["lr"], weight_decay=0.0)
        for step in range(settings["steps"]):
            rows = torch.from_numpy(np.random.default_rng([seed, 4, step]).integers(len(x), size=4096))
            loss = F.binary_cross_entropy_with_logits(gate(x[rows])[:, 0], y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    gated.gate.load_state_dict(gate.state_dict())
    return float(((gated.gate(x)[:, 0] > 0) == (y > 0.5)).float().mean())


def _encode(model: Pretraining, pool: Pool, picked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Patch tokens [B, N, D] and weights [B, N, 1] of the picked images as they are."""
    device = next(model.parameters()).device
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    images = (pool.pixels[picked, :3].float() / 255 - mean) / std
    with torch.autocast(device.type, dtype=torch.bfloat16):
        return model.patches(images.to(device, memory_format=torch.channels_last))


@torch.no_grad()
def store(model: Pretraining, pool: Pool, clear: torch.Tensor) -> Stored:
    """Encode every image of the pool once, at the size at which the backbone will be used and without augmentation.

    Features of cropped and tilted views vary so much more that a head fitted to them reads whole images worse.
    """
    pooled, concepts, facts, tokens, each, where, lesions = [], [], [], [], [], [], []
    for picked in torch.arange(len(pool.concept)).split(64):
        masks = pool.pixels[picked, 3].float() / 255
        labels, attributes = see(pool, picked, masks, clear)
        patches, weights = _encode(model, pool, picked)
        shown = (torch.tensor([a is not None for a in attributes]) | pool.masked[picked]) & (
            masks.flatten(1).sum(1) > 0
        )
        lesions.append(len(facts) + shown.nonzero()[:, 0])
        tokens.append(patches[shown].bfloat16())
        each.append(weights[shown].bfloat16())
        where.append(F.adaptive_avg_pool2d(masks[shown], math.isqrt(patches.shape[1])).flatten(1))
        weights = weights.float() + 1e-4  # an image of nothing but background still has a mean
        pooled.append((patches.float() * weights).sum(1) / weights.sum(1))
        concepts.append(labels)
        facts += attributes
    return Stored(
        torch.cat(pooled),
        torch.cat(concepts),
        facts,
        torch.cat(lesions),
        torch.cat(tokens),
        torch.cat(each),
        torch.cat(where).to(pooled[0].device),
    )


@torch.no_grad()
def standardise(model: Pretraining, stored: Stored) -> Stored:
    """Scale the last norm, in place, so that every feature of the pooled patches has mean 0 and deviation 1.

    The projection then starts from features of one size; its weights are scaled back, so that only the mean is lost,
    which all images share. The weights of the patches stay as they are.
    """
    mean, deviation = stored.pooled.mean(0), stored.pooled.std(0) + 1e-3
    norm, projection = model.clip.visual.trunk.norm, model.clip.visual.head.proj
    norm.weight.div_(deviation)
    norm.bias.sub_(mean).div_(deviation)
    if isinstance(norm, GatedNorm):
        norm.gate.bias.add_(norm.gate.weight @ mean)
        norm.gate.weight.mul_(deviation)
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
            weighed = stored.tokens[some].float() * stored.weights[some].float()
            evidence = model.lesion_evidence(weighed, concepts.to(device), pair[0][concepts].to(device))
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
    text embeddings also learns the teacher's (a term of the loss). With a weight for place, what patches add to a
    caption of what they show, against one that denies it, goes to the mask.
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
    recent, outlined = [], _by_set(stored, sampling[1]) if settings.get("place") else []
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
        place = torch.zeros((), device=device)
        if outlined:
            some = [rng.choice(outlined[rng.integers(len(outlined))]) for _ in range(settings["captions"] // 4)]
            both = [grammar.contrast(int(stored.concept[stored.lesions[i]]), rng) for i in some]
            shown, denied = (
                model.encode_text(vocabulary.encode(list(texts)).to(device)) for texts in zip(*both, strict=True)
            )
            each = model.project(stored.tokens[some].float() * stored.weights[some].float())
            size = each.mean(1).norm(dim=-1)[:, None]
            place = place_loss(scale * (each @ (shown - denied)[:, :, None])[..., 0] / size, stored.masks[some])
        lr = settings["lr"] * min((step + 1) / 50, 0.5 * (1 + math.cos(math.pi * step / settings["steps"])) + 0.005)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        (contrastive + anchored + settings["teacher"] * distilled + settings.get("place", 0) * place).backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        recent.append((contrastive.item(), anchored.item(), distilled.item(), place.item()))
        if (step + 1) % training["log_every"] == 0:
            names, means = (
                ("contrastive", "anchored", "teacher", "place"),
                np.mean(recent[-training["log_every"] :], axis=0),
            )
            told = "  ".join(f"{name} {mean:.3f}" for name, mean in zip(names, means, strict=True))
            progress(f"text alone: step {step + 1}/{settings['steps']}  {told}")
    tower.requires_grad_(False)


def _by_set(stored: Stored, groups: np.ndarray) -> list[np.ndarray]:
    """The rows of `Stored.tokens`, one array for each set that has any."""
    of = groups[stored.lesions.numpy()]
    return [np.flatnonzero(of == group) for group in np.unique(of)]


def finish(
    model: Pretraining,
    pool: Pool,
    grammar: CaptionGrammar,
    vocabulary: CompactVocabulary,
    config: dict[str, Any],
    progress: Callable[[str], None],
) -> None:
    """Refit projection and anchors, then the text tower, with the image tower frozen; all in place.

    pool: the images at the size of the finished model. With settings for ``patches`` the background is weighed out
    first.
    """
    if "patches" in config["training"]["head"]:
        share = weigh_patches(model, pool, config["training"]["head"]["patches"], config["seed"])
        progress(f"weights of patches: {share:.3f} of them told to be patient or background correctly")
    progress(f"encoding {len(pool.concept)} images without augmentation")
    stored = standardise(model, store(model, pool, twins(config)[0]))
    probability = sampling_weights(pool, config)
    finish_head(model, stored, probability, config, progress)
    groups = set_numbers(pool, concepts_of(config))
    finish_text(model, stored, (probability, groups), grammar, vocabulary, config, progress)
