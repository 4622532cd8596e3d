"""The training loop of the embedded backbone: images with captions, and at the end what reads their features.

Each step draws images, a share of them from one set so that there are hard negatives, takes two random views of each,
writes a caption that is true of each view (`nearl.pretrain.captions`) and pulls every view towards all captions of the
batch that are true of it (UniCL, Yang et al., arXiv 2204.03610). Helpers that are not exported: anchors, one learned
direction per class in the joint space, to which images and captions are pulled; classifiers on the class token and the
mean patch token; agreement of the two views; and on phantoms, whose lesion's mask is known, the patches' parts of the
class logit are taught to be greatest on the lesion. Resolution grows in phases; `nearl.pretrain.finish` follows.
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
from nearl.pretrain.losses import (
    background_loss,
    contrastive_loss,
    empty_patches,
    multi_positive,
    pairs,
    place_loss,
    text_targets,
    view_loss,
)
from nearl.pretrain.model import Pretraining, average, export, parameter_groups, start_from_imagenet

CHECKPOINT, SUMMARY = "checkpoint.safetensors", "pretrain.json"  # files in the folder of a run


@torch.inference_mode()
def validate(
    model: Pretraining, pool: Pool, grammar: CaptionGrammar, vocabulary: CompactVocabulary, seed: int
) -> dict[str, float]:
    """The zero-shot balanced accuracy by set on held-out images.

    A class is the mean of its 32 narrowest captions.
    """
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
    """The losses of one step by name, not yet weighted.

    seen: images [B, 3, H, W], lesion masks [B, H, W], concepts [B] and attributes of the views. ids: the captions'
    compact tokens. drawn: bool [B], views whose finding's mask is known. pair: the concepts without and with a lesion.
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
    side = math.isqrt(tokens.shape[1] - 1)
    without, lesion = (concept.to(device)[labels] for concept in pair)
    evidence = model.lesion_evidence(tokens[:, 1:], lesion, without)
    if drawn.any():
        where = F.adaptive_avg_pool2d(masks[drawn], side).flatten(1).to(device)
        shown = where.sum(1) > 0
        if shown.any():
            losses["place"] = place_loss(evidence[drawn][shown], where[shown])
    losses["background"] = background_loss(evidence, empty_patches(images, side).to(device))
    return losses


class Run:
    """One pretraining run: its data, its model, and how far it is."""

    def __init__(self, config_path: Path, out: Path, data_root: Path | str | None, progress: Callable[[str], None]):
        self.config, self.out, self.progress = read_config(config_path), out, progress
        self.training, self.seed = self.config["training"], self.config["seed"]
        self.phases = self.training["phases"]
        self.total = sum(phase["steps"] for phase in self.phases)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        root = data_location(data_root)
        self.learn, self.held = train_files(self.config, root)
        if self.config.get("manifest"):
            check_manifest(config_path.parent / self.config["manifest"], self.learn + self.held, root)
        self.concepts, self.pair = concepts_of(self.config), twins(self.config)
        self.grammar = CaptionGrammar(self.concepts, self.config["families"], self.config["findings"])
        tokenizer = open_clip.SimpleTokenizer(context_length=self.config["model"]["text"]["context_length"])
        phrases = self.grammar.phrases() + list(self.config.get("general") or [])
        self.vocabulary = CompactVocabulary(tokenizer, phrases, tokenizer.vocab_size)
        torch.manual_seed(self.seed)
        model = Pretraining(self.config, self.vocabulary, len(self.concepts))
        if "frozen_stages" in self.config["model"]:
            start_from_imagenet(model, self.config["model"]["frozen_stages"])
        self.model = model.to(self.device, memory_format=torch.channels_last)
        self.ema = copy.deepcopy(self.model).eval().requires_grad_(False)
        groups = parameter_groups(self.model, self.training["weight_decay"])
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98))
        self.step, self.views, self.before, self.started = 0, 0, 0.0, time.monotonic()
        self.losses: list[list[float]] = []
        self.summary: dict[str, Any] = {}
        self.phase: dict[str, Any] | None = None

    @property
    def minutes(self) -> float:
        """Minutes of training, those before an interruption included."""
        return self.before + (time.monotonic() - self.started) / 60

    @property
    def _identity(self) -> dict[str, Any]:
        tokens = self.vocabulary.known.tolist()
        return {"model": self.config["model"], "concepts": self.concepts, "tokens": tokens}

    def resume(self) -> None:
        """Continue from the checkpoint in the folder, if there is one."""
        checkpoint = self.out / CHECKPOINT
        if not checkpoint.exists():
            return
        saved = load_checkpoint(checkpoint, {"model": self.model, "ema": self.ema}, self.optimizer, self._identity)
        self.step, self.before, self.views = saved["step"], saved["minutes"], saved["views"]
        self.summary = json.loads((self.out / SUMMARY).read_text(encoding="utf-8"))
        self.progress(f"resuming at step {self.step}")

    def enter_phase(self) -> None:
        """Load the images at the resolution of the phase that the current step is in."""
        ends = np.cumsum([phase["steps"] for phase in self.phases])
        phase = self.phases[min(int(np.searchsorted(ends, self.step, side="right")), len(self.phases) - 1)]
        if phase is self.phase:
            return
        self.phase = phase
        self.pool = load_pool(self.learn, self.config, round(phase["size"] * 1.125))
        self.held_pool = load_pool(self.held, self.config, phase["size"])
        self.weights, self.groups = sampling_weights(self.pool, self.config), set_numbers(self.pool, self.concepts)
        self.progress(f"{len(self.learn)} images to learn from, {len(self.held)} held out, {phase['size']} px")

    def take_step(self) -> None:
        """One step; each has a seed of its own, so that an interrupted run ends as an uninterrupted one would."""
        training, phase = self.training, self.phase
        rng = np.random.default_rng([self.seed, self.step])
        torch.manual_seed(self.seed + self.step)
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        picked = torch.from_numpy(draw(self.weights, self.groups, phase["batch"] // 2, training["focus"], rng))
        picked = picked.repeat_interleave(2)  # two views of each
        images, masks = augment(self.pool, picked, phase["size"], generator)
        labels, attributes = see(self.pool, picked, masks, self.pair[0])
        captions = tell(self.grammar, labels, attributes, training["distractors"], rng)
        ids = self.vocabulary.encode([caption.text for caption in captions], rng, training["unknown_words"])
        drawn = torch.tensor([self.pool.details[i] is not None for i in picked.tolist()]) | self.pool.masked[picked]

        warm, cosine = (self.step + 1) / training["warmup"], 0.5 * (1 + math.cos(math.pi * self.step / self.total))
        for group in self.optimizer.param_groups:
            group["lr"] = training["lr"] * group["rate"] * min(warm, cosine + 0.005)
        seen = (images, masks, labels, attributes)
        parts = image_losses(self.model, seen, captions, ids.to(self.device), drawn, self.pair)
        loss = sum(training["weights"][name] * value for name, value in parts.items())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.clip.logit_scale.clamp_(max=math.log(100))
        average(self.ema, self.model, min(training["ema"], (1 + self.step) / (10 + self.step)))
        self.step += 1
        self.views += phase["batch"]
        self.losses.append([parts[name].item() if name in parts else math.nan for name in training["weights"]])

    def tell_progress(self) -> None:
        """Say the mean losses of the latest steps and how long is left."""
        recent = np.array(self.losses[-self.training["log_every"] :])
        means = np.nan_to_num(recent).sum(0) / (~np.isnan(recent)).sum(0).clip(1)
        shown = "  ".join(f"{name} {value:.3f}" for name, value in zip(self.training["weights"], means, strict=True))
        lr, minutes = self.optimizer.param_groups[0]["lr"], self.minutes
        left = (minutes - self.before) / len(self.losses) * (self.total - self.step)
        self.progress(
            f"step {self.step}/{self.total}  {shown}  lr {lr:.1e}  {self.views} views  {minutes:.1f} min, about "
            f"{left:.0f} left"
        )

    def leave(self, text_steps: int) -> None:
        """Measure on the held-out images, export, and write the summary."""
        accuracy = validate(self.ema, self.held_pool, self.grammar, self.vocabulary, self.seed)
        self.progress("held out  " + "  ".join(f"{name} {value:.2f}" for name, value in accuracy.items()))
        self.summary |= {
            "steps": self.step,
            "of": self.total,
            "text_steps": text_steps,
            "views": self.views,
            "minutes": round(self.minutes, 1),
            "held_out": accuracy,
        }
        export(self.ema, self.vocabulary, self.config, self.out)
        (self.out / SUMMARY).write_text(json.dumps(self.summary, indent=2) + "\n", encoding="utf-8")

    def save(self) -> None:
        """Leave the result so far and a checkpoint to resume from."""
        self.leave(0)
        about = {"step": self.step, "minutes": self.minutes, "views": self.views}
        modules = {"model": self.model, "ema": self.ema}
        save_checkpoint(self.out / CHECKPOINT, modules, self.optimizer, self._identity, about)

    def finish(self) -> None:
        """Refit projection and anchors, then the text tower, on the averaged image tower."""
        whole = load_pool(self.learn, self.config, self.phase["size"])
        finish(self.ema, whole, self.grammar, self.vocabulary, self.config, self.progress)
        self.leave(self.training["text"]["steps"])


def pretrain(
    config_path: Path | str,
    out: Path | str,
    data_root: Path | str | None = None,
    resume: bool = True,
    max_minutes: float | None = None,
    progress: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Train by the config and leave the backbone, `checkpoint.safetensors` and `pretrain.json` in `out`.

    data_root: folder of the sets (default: `NEARL_DATA`, else ../shared/data beside the repository). resume: continue
    from the checkpoint in `out`. max_minutes: stop in an orderly way after that long. progress: called with one line at
    a time.

    Returns what `pretrain.json` holds: steps, views, minutes and the held-out zero-shot balanced accuracy by set.
    Raises NearlError if the config, the data or the checkpoint do not fit together.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    run = Run(Path(config_path), out, data_root, progress)
    if resume:
        run.resume()
    training = run.training
    while run.step < run.total or run.summary.get("text_steps") != training["text"]["steps"]:
        run.enter_phase()
        if run.step == run.total:
            run.finish()
            break
        run.take_step()
        if run.step % training["log_every"] == 0 or run.step == run.total:
            run.tell_progress()
        out_of_time = max_minutes is not None and run.minutes - run.before >= max_minutes
        if run.step % training["save_every"] == 0 or run.step == run.total or out_of_time:
            run.save()
        if out_of_time:
            break
    return run.summary
