"""The training loop of the embedded backbone, in two parts: images with captions, then captions alone.

Each step draws images, a share of them of one set so that there are hard negatives, sees each in two random views,
writes a caption that is true of each view (`nearl.pretrain.captions`) and pulls every view towards all captions of the
batch that are true of it (UniCL, Yang et al., arXiv 2204.03610). Helpers that stay behind at export: anchors, one
learned direction per class in the joint space to which images and captions are pulled; classifiers on the class token
and the mean patch token; agreement of the two views; and on phantoms, whose lesion's mask is known, the patches' parts
of the class logit are taught to be greatest on the lesion. Resolution grows in phases. At the end the images rest, and
the text tower goes on with many more captions against their stored embeddings. The result is an average of the weights
over time in open_clip's folder format. Losses and settings are our choice.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import nn

from nearl.backbones.embedded import MEAN, STD
from nearl.pretrain.captions import Caption, CaptionGrammar, CompactVocabulary
from nearl.pretrain.checkpoint import load_checkpoint, save_checkpoint
from nearl.pretrain.config import check_manifest, concepts_of, data_location, read_config, train_files, twins
from nearl.pretrain.images import Pool, augment, draw, load_pool, sampling_weights, see
from nearl.pretrain.losses import contrastive_loss, multi_positive, pairs, place_loss, view_loss
from nearl.pretrain.model import Pretraining, average, export, parameter_groups
from nearl.pretrain.teacher import WIDTH as TEACHER_WIDTH
from nearl.pretrain.teacher import affirmative_phrases, teacher_embeddings


@torch.inference_mode()
def validate(
    model: Pretraining, pool: Pool, grammar: CaptionGrammar, vocabulary: CompactVocabulary, seed: int
) -> dict[str, float]:
    """Zero-shot balanced accuracy per set on held-out images; a class is the mean of its 32 narrowest captions."""
    device = next(model.parameters()).device
    rng = np.random.default_rng(seed)
    sets = np.array([concept.split("/")[0] for concept in grammar.concepts])
    prototypes = []
    for index in range(len(grammar.concepts)):
        captions = [grammar.sample(index, rng) for _ in range(100)]
        captions.sort(key=lambda caption: caption.true_of[sets == sets[index]].sum())
        texts = [caption.text for caption in captions[:32]]
        prototypes.append(model.encode_text(vocabulary.encode(texts).to(device)).mean(0))
    prototypes = F.normalize(torch.stack(prototypes), dim=-1)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    similarity = torch.cat(
        [
            model.encode_image(((chunk.float() / 255 - mean) / std).to(device)) @ prototypes.T
            for chunk in pool.pixels[:, :3].split(32)
        ]
    ).cpu()
    result = {}
    for name in dict.fromkeys(sets):
        members = np.flatnonzero(sets == name)
        recalls = []
        for index in members:
            mine = similarity[pool.concept == index][:, members]
            recalls.append((mine.argmax(1) == int(np.flatnonzero(members == index)[0])).float().mean().item())
        result[str(name)] = float(np.mean(recalls))
    return result


def set_numbers(pool: Pool, concepts: list[str]) -> np.ndarray:
    """The number of the set that each image of the pool is of."""
    return np.unique([c.split("/")[0] for c in concepts], return_inverse=True)[1][pool.concept.numpy()]


def tell(
    grammar: CaptionGrammar, labels: torch.Tensor, attributes: list, distractors: int, rng: np.random.Generator
) -> list[Caption]:
    """One true caption per view, and up to `distractors` that are true of no image."""
    captions = [grammar.sample(c, rng, facts) for c, facts in zip(labels.tolist(), attributes, strict=True)]
    return captions + [c for c in (grammar.distractor(rng) for _ in range(distractors)) if c]


def text_targets(captions: list[Caption], device: torch.device) -> torch.Tensor:
    """The anchors that each caption belongs to, bool [M, concepts + 1]; the last is that of no concept."""
    true_of = torch.from_numpy(np.stack([caption.true_of for caption in captions])).to(device)
    return torch.cat([true_of, ~true_of.any(1, keepdim=True)], 1)


def image_losses(
    model: Pretraining,
    seen: tuple[torch.Tensor, torch.Tensor, torch.Tensor, list],
    captions: list[Caption],
    ids: torch.Tensor,
    drawn: torch.Tensor,
    pair: tuple[torch.Tensor, torch.Tensor],
) -> dict[str, torch.Tensor]:
    """The losses of one step by name, as the config weighs them.

    seen: images [B, 3, S, S], lesion masks [B, S, S], concepts [B] and attributes of the views. ids: the captions'
    compact tokens. drawn: bool [B], which views are of phantoms. pair: the concepts without and with a lesion.
    """
    images, masks, labels, attributes = seen
    device = ids.device
    positive, unknown = (x.to(device) for x in pairs(captions, labels, attributes))
    labels = labels.to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        tokens = model.tokens(images.to(device, memory_format=torch.channels_last))
    tokens = tokens.float()
    pooled = tokens[:, 1:].mean(1)
    image, text = F.normalize(model.project(pooled), dim=-1), model.encode_text(ids)
    scale = model.clip.logit_scale.exp()
    towards = scale * F.normalize(model.anchors, dim=-1).T
    by_text = multi_positive(text @ towards, text_targets(captions, device))
    classifiers = ((model.class_token_head, tokens[:, 0]), (model.patch_head, pooled))
    losses = {
        "contrastive": contrastive_loss(image, text, scale, positive, unknown),
        "anchored": (F.cross_entropy(image @ towards, labels) + by_text) / 2,
        "auxiliary": sum(F.cross_entropy(head(x), labels, label_smoothing=0.1) for head, x in classifiers) / 2,
        "views": view_loss(model.view_head(pooled)),
    }
    if drawn.any():
        where = F.adaptive_avg_pool2d(masks[drawn], math.isqrt(tokens.shape[1] - 1)).flatten(1).to(device)
        shown = where.sum(1) > 0
        if shown.any():
            without, lesion = (concept.to(device)[labels[drawn]] for concept in pair)
            evidence = model.lesion_evidence(tokens[drawn, 1:], lesion, without)
            losses["place"] = place_loss(evidence[shown], where[shown])
    return losses


@torch.no_grad()
def embed_views(
    model: Pretraining, pool: Pool, size: int, views: int, clear: torch.Tensor, seed: int
) -> tuple[torch.Tensor, torch.Tensor, list]:
    """Unit embeddings [views * N, D], concepts [views * N] and attributes of random views of every image."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    embeddings, concepts, facts = [], [], []
    for picked in torch.arange(len(pool.concept)).repeat(views).split(64):
        images, masks = augment(pool, picked, size, generator)
        labels, attributes = see(pool, picked, masks, clear)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            embeddings.append(model.encode_image(images.to(device, memory_format=torch.channels_last)))
        concepts.append(labels)
        facts += attributes
    return torch.cat(embeddings), torch.cat(concepts), facts


def finish_text(
    model: Pretraining,
    pool: Pool,
    grammar: CaptionGrammar,
    vocabulary: CompactVocabulary,
    config: dict[str, Any],
    progress: Callable[[str], None],
) -> None:
    """Train the text tower on, in place, against stored image embeddings and the anchors, which rest.

    With a weight for the teacher, a linear map of the text embeddings also learns the teacher's (a term of the loss).
    """
    training, settings, seed = config["training"], config["training"]["text"], config["seed"]
    device = next(model.parameters()).device
    progress(f"text alone: {settings['views']} views of {len(pool.concept)} images are being stored")
    stored, concepts, facts = embed_views(model, pool, training["phases"][-1]["size"], settings["views"],
                                          twins(config)[0], seed)  # fmt: skip
    weights = np.tile(sampling_weights(pool, config), settings["views"]) / settings["views"]
    groups = np.tile(set_numbers(pool, concepts_of(config)), settings["views"])
    tower = model.clip.text.requires_grad_(True)
    taught = affirmative_phrases(config) if settings["teacher"] else []
    wanted = teacher_embeddings(taught).to(device) if taught else None
    towards_teacher = nn.Linear(stored.shape[1], TEACHER_WIDTH, bias=False).to(device)
    trained = nn.ModuleDict({"tower": tower, "towards_teacher": towards_teacher})
    optimizer = torch.optim.AdamW(parameter_groups(trained, training["weight_decay"]), lr=0.0, betas=(0.9, 0.98))
    scale = model.clip.logit_scale.exp()
    towards = scale * F.normalize(model.anchors, dim=-1).T
    recent = []
    for step in range(settings["steps"]):
        rng = np.random.default_rng([seed, 1, step])
        picked = draw(weights, groups, settings["captions"], training["focus"], rng)
        labels, attributes = concepts[picked], [facts[i] for i in picked]
        captions = tell(grammar, labels, attributes, settings["captions"] // 10, rng)
        ids = vocabulary.encode([caption.text for caption in captions], rng, training["unknown_words"]).to(device)
        text = model.encode_text(ids)
        positive, unknown = (x.to(device) for x in pairs(captions, labels, attributes))
        contrastive = contrastive_loss(stored[picked], text, scale, positive, unknown)
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


def pretrain(
    config_path: Path | str,
    out: Path | str,
    data_root: Path | str | None = None,
    resume: bool = True,
    max_minutes: float | None = None,
    progress: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train by the config and leave the backbone, `checkpoint.safetensors` and `pretrain.json` in `out`.

    data_root: folder of the sets (default: `NEARL_DATA`, else ../shared/data beside the repository). resume: go on from
    the checkpoint in `out`; every step has its own seed, so an interrupted run ends as an uninterrupted one would.
    max_minutes: stop in an orderly way after that long. progress: called with one line at a time.

    Returns what `pretrain.json` holds: steps, views, minutes and the held-out zero-shot balanced accuracy per set.
    Raises NearlError if the config, the data or the checkpoint do not fit together.
    """
    config = read_config(config_path)
    training, seed = config["training"], config["seed"]
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    root = data_location(data_root)
    learn, held = train_files(config, root)
    if config.get("manifest"):
        check_manifest(Path(config_path).parent / config["manifest"], learn + held, root)
    concepts = concepts_of(config)
    grammar = CaptionGrammar(concepts, config["families"], config["findings"])
    tokenizer = open_clip.SimpleTokenizer(context_length=config["model"]["text"]["context_length"])
    vocabulary = CompactVocabulary(
        tokenizer, grammar.phrases() + list(config.get("general") or []), tokenizer.vocab_size
    )

    torch.manual_seed(seed)
    model = Pretraining(config, vocabulary, len(concepts)).to(device, memory_format=torch.channels_last)
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(parameter_groups(model, training["weight_decay"]), lr=0.0, betas=(0.9, 0.98))
    identity = {"model": config["model"], "concepts": concepts, "tokens": vocabulary.known.tolist()}
    step, minutes, views, losses = 0, 0.0, 0, []
    checkpoint, result = out / "checkpoint.safetensors", out / "pretrain.json"
    summary: dict[str, Any] = {}
    if resume and checkpoint.exists():
        saved = load_checkpoint(checkpoint, {"model": model, "ema": ema}, optimizer, identity)
        step, minutes, views = saved["step"], saved["minutes"], saved["views"]
        summary = json.loads(result.read_text(encoding="utf-8"))
        progress(f"going on from step {step}")

    def finish(text_steps: int) -> None:
        """Measure on the held-out images, export and write the summary."""
        accuracy = validate(ema, held_pool, grammar, vocabulary, seed)
        progress("held out  " + "  ".join(f"{name} {value:.2f}" for name, value in accuracy.items()))
        summary.update(
            {"steps": step, "of": total, "text_steps": text_steps, "views": views, "minutes": round(minutes, 1)}
        )
        summary["held_out"] = accuracy
        export(ema, vocabulary, config, out)
        result.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")

    phases, pair = training["phases"], twins(config)
    total = sum(phase["steps"] for phase in phases)
    ends = np.cumsum([phase["steps"] for phase in phases])
    pool, current = None, None
    before, started = minutes, time.monotonic()
    while step < total or summary.get("text_steps") != training["text"]["steps"]:
        phase = phases[min(int(np.searchsorted(ends, step, side="right")), len(phases) - 1)]
        if phase is not current:
            current = phase
            pool = load_pool(learn, config, round(phase["size"] * 1.125))
            held_pool = load_pool(held, config, phase["size"])
            weights, groups = sampling_weights(pool, config), set_numbers(pool, concepts)
            progress(f"{len(learn)} images to learn from, {len(held)} held out, {phase['size']} px")
        if step == total:
            finish_text(ema, pool, grammar, vocabulary, config, progress)
            minutes = before + (time.monotonic() - started) / 60
            finish(training["text"]["steps"])
            break

        rng = np.random.default_rng([seed, step])
        torch.manual_seed(seed + step)
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        picked = torch.from_numpy(draw(weights, groups, phase["batch"] // 2, training["focus"], rng))
        picked = picked.repeat_interleave(2)  # two views of each
        images, masks = augment(pool, picked, phase["size"], generator)
        labels, attributes = see(pool, picked, masks, pair[0])
        captions = tell(grammar, labels, attributes, training["distractors"], rng)
        ids = vocabulary.encode([caption.text for caption in captions], rng, training["unknown_words"]).to(device)
        drawn = torch.tensor([pool.details[i] is not None for i in picked.tolist()])

        lr = training["lr"] * min((step + 1) / training["warmup"], 0.5 * (1 + math.cos(math.pi * step / total)) + 0.005)
        for group in optimizer.param_groups:
            group["lr"] = lr
        parts = image_losses(model, (images, masks, labels, attributes), captions, ids, drawn, pair)
        loss = sum(training["weights"][name] * value for name, value in parts.items())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.clip.logit_scale.clamp_(max=math.log(100))
        average(ema, model, min(training["ema"], (1 + step) / (10 + step)))

        step += 1
        views += phase["batch"]
        losses.append([parts[name].item() if name in parts else math.nan for name in training["weights"]])
        minutes = before + (time.monotonic() - started) / 60
        if step % training["log_every"] == 0 or step == total:
            recent = np.array(losses[-training["log_every"] :])
            shown = zip(
                training["weights"], np.nan_to_num(recent).sum(0) / (~np.isnan(recent)).sum(0).clip(1), strict=True
            )
            left = (minutes - before) / len(losses) * (total - step)
            progress(
                f"step {step}/{total}  {'  '.join(f'{name} {value:.3f}' for name, value in shown)}  lr {lr:.1e}  "
                f"{views} views  {minutes:.1f} min, about {left:.0f} left"
            )
        out_of_time = max_minutes is not None and minutes - before >= max_minutes
        if step % training["save_every"] == 0 or step == total or out_of_time:
            finish(0)
            about = {"step": step, "minutes": minutes, "views": views}
            save_checkpoint(checkpoint, {"model": model, "ema": ema}, optimizer, identity, about)
        if out_of_time:
            break
    return summary
