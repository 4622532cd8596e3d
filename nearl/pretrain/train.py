"""The training loop of the embedded backbone: images with captions, and at the end what reads their features.

Each step draws images, a share of them of one set so that there are hard negatives, sees each in two random views,
writes a caption that is true of each view (`nearl.pretrain.captions`) and pulls every view towards all captions of the
batch that are true of it (UniCL, Yang et al., arXiv 2204.03610). Helpers that stay behind at export: anchors, one
learned direction per class in the joint space to which images and captions are pulled; classifiers on the class token
and the mean patch token; agreement of the two views; and on phantoms, whose lesion's mask is known, the patches' parts
of the class logit are taught to be greatest on the lesion. Resolution grows in phases; `nearl.pretrain.finish` follows.
The result is an average of the weights over time in open_clip's folder format. Losses and settings are our choice.
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
from nearl.pretrain.captions import Caption, CaptionGrammar, CompactVocabulary, tell
from nearl.pretrain.checkpoint import load_checkpoint, save_checkpoint
from nearl.pretrain.config import check_manifest, concepts_of, data_location, read_config, train_files, twins
from nearl.pretrain.finish import finish
from nearl.pretrain.images import Pool, augment, draw, load_pool, sampling_weights, see, set_numbers
from nearl.pretrain.losses import contrastive_loss, multi_positive, pairs, place_loss, text_targets, view_loss
from nearl.pretrain.model import Pretraining, average, export, parameter_groups


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

    def leave(text_steps: int) -> None:
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
            whole = load_pool(learn, config, phase["size"])
            finish(ema, whole, grammar, vocabulary, config, progress)
            minutes = before + (time.monotonic() - started) / 60
            leave(training["text"]["steps"])
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
            leave(0)
            about = {"step": step, "minutes": minutes, "views": views}
            save_checkpoint(checkpoint, {"model": model, "ema": ema}, optimizer, identity, about)
        if out_of_time:
            break
    return summary
