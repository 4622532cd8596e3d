"""Train the embedded backbone: image-caption contrastive learning from scratch on a few thousand labelled images.

Each step draws a class-balanced batch of images, writes captions that are true of their classes (`nearl.captions`) and
pulls every image towards all captions of the batch that are true of it (UniCL, Yang et al., arXiv 2204.03610). Two
helpers speed this up and stay behind at export: anchors, one learned direction per class in the joint space to which
images and captions are pulled, and classifiers on class token and mean patch token. Resolution grows in phases; the
result is an average of the weights over time in open_clip's folder format. Losses and settings are our choice.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
import yaml
from open_clip.model import CustomTextCLIP
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from nearl.backbones.embedded import MEAN, STD
from nearl.captions import CaptionGrammar, CompactVocabulary
from nearl.checkpoint import load_checkpoint, save_checkpoint
from nearl.data.images import decode
from nearl.errors import NearlError


class Pool(NamedTuple):
    """Decoded images: pixels uint8 [N, 3, S, S], concept int64 [N], symmetry int64 [N] (0-2), colour bool [N]."""

    pixels: torch.Tensor
    concept: torch.Tensor
    symmetry: torch.Tensor
    colour: torch.Tensor


def data_location(data_root: Path | str | None = None) -> Path:
    """Where the sets are: the argument, else the variable `NEARL_DATA`, else ../shared/data beside the project."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(data_root or os.environ.get("NEARL_DATA") or beside)


def read_config(path: Path | str) -> dict[str, Any]:
    """Read a pretraining config; raises NearlError if it is not YAML or lacks a section."""
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise NearlError(f"The pretraining config {path} cannot be read: {error}.") from error
    missing = {"seed", "hold_out", "model", "training", "sets", "families", "findings"} - set(config or {})
    if missing:
        raise NearlError(f"The pretraining config {path} lacks the sections {', '.join(sorted(missing))}.")
    return config


def concepts_of(config: dict[str, Any]) -> list[str]:
    """`set/class` of every class in the config, in its order."""
    return [f"{name}/{label}" for name, entry in config["sets"].items() for label in entry["classes"]]


def train_files(config: dict[str, Any], root: Path) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    """(file, concept index) of the images to learn from and of the held-out ones; only `<set>/train` is ever looked at.

    The last `hold_out` of every class in file order is held out, as a block: neighbours are often of one patient.
    Raises NearlError if a class has not the number of images that the config states.
    """
    learn, held = [], []
    for index, concept in enumerate(concepts_of(config)):
        name, label = concept.split("/")
        folder, expected = root / name / "train" / label, config["sets"][name]["classes"][label]
        files = sorted(p for p in folder.glob("*") if p.is_file() and not p.name.startswith("."))
        if len(files) != expected:
            raise NearlError(f"{folder} has {len(files)} images where the pretraining config states {expected}.")
        cut = len(files) - max(1, round(len(files) * config["hold_out"]))
        learn += [(path, index) for path in files[:cut]]
        held += [(path, index) for path in files[cut:]]
    return learn, held


def load_pool(files: list[tuple[Path, int]], config: dict[str, Any], side: int) -> Pool:
    """Decode the files once, each squashed to `side` x `side` pixels as the backbone's own preprocessing does."""
    pixels = np.stack(
        [np.asarray(decode(path).image().resize((side, side), Image.Resampling.BICUBIC)) for path, _ in files]
    )
    entries = [config["sets"][concept.split("/")[0]] for concept in concepts_of(config)]
    concept = torch.tensor([index for _, index in files])
    symmetry = torch.tensor([("none", "horizontal", "all").index(entry.get("symmetry", "none")) for entry in entries])
    colour = torch.tensor([bool(entry.get("colour")) for entry in entries])
    return Pool(torch.from_numpy(pixels).permute(0, 3, 1, 2), concept, symmetry[concept], colour[concept])


def sampling_weights(pool: Pool, concepts: list[str]) -> np.ndarray:
    """Probability of drawing each image: sets by the square root of their size, classes equally within a set."""
    names = np.array([concept.split("/")[0] for concept in concepts])
    count = np.bincount(pool.concept.numpy(), minlength=len(concepts))
    per_set = {name: math.sqrt(count[names == name].sum()) / (names == name).sum() for name in names}
    weight = np.array([per_set[name] for name in names]) / count
    weight = weight[pool.concept.numpy()]
    return weight / weight.sum()


def augment(pool: Pool, picked: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """Random views of the picked images: float32 [B, 3, size, size], normalised.

    Geometry (crop, aspect, rotation, the set's symmetry), exposure (gamma, contrast, brightness, colour cast), noise,
    blur and an erased rectangle: against the shortcuts of cropping, borders, exposure and burnt-in marks.
    """
    n = len(picked)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(n, *shape, generator=generator) * (high - low) + low

    def coin(p: float) -> torch.Tensor:
        return torch.rand(n, generator=generator) < p

    symmetry, colour = pool.symmetry[picked], pool.colour[picked]
    scale, aspect, angle = uniform(0.7, 1.05), uniform(-0.12, 0.12).exp(), uniform(-0.2, 0.2)
    angle = angle + (symmetry == 2) * torch.randint(0, 4, (n,), generator=generator) * (math.pi / 2)
    flip = 1 - 2 * ((symmetry >= 1) & coin(0.5)).float()
    sx, sy, slack = scale * aspect * flip, scale / aspect, (1 - scale).clamp(min=0)
    shift = uniform(-1, 1, 2) * slack[:, None]
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack([cos * sx, -sin * sy, shift[:, 0], sin * sx, cos * sy, shift[:, 1]], 1).view(n, 2, 3)
    grid = F.affine_grid(theta, [n, 3, size, size], align_corners=False)
    x = F.grid_sample(pool.pixels[picked].float() / 255, grid, align_corners=False)

    blurred = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    x = torch.where((coin(0.2))[:, None, None, None], blurred, x)
    x = x.clamp(1e-4, 1) ** uniform(-0.4, 0.4, 1, 1, 1).exp()
    x = (x - 0.4) * uniform(0.7, 1.3, 1, 1, 1) + 0.4 + uniform(-0.12, 0.12, 1, 1, 1)
    x = x * torch.where(colour[:, None, None, None], uniform(0.88, 1.12, 3, 1, 1), 1.0)
    x = x + torch.randn(n, 1, size, size, generator=generator) * (uniform(0, 0.05) * coin(0.5))[:, None, None, None]

    position = (torch.arange(size) + 0.5) / size
    centre, half = uniform(0, 1, 2), uniform(0.03, 0.15, 2)
    inside = ((position - centre[:, :, None]).abs() < half[:, :, None]) & coin(0.3)[:, None, None]
    x = torch.where((inside[:, 0, :, None] & inside[:, 1, None, :])[:, None], uniform(0, 1, 1, 1, 1), x)
    return (x.clamp(0, 1) - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def multi_positive(logits: torch.Tensor, positive: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of logits [B, M] with targets uniform over each row's true entries of positive (bool [B, M])."""
    target = positive.float()
    return (-(logits.log_softmax(1) * target).sum(1) / target.sum(1)).mean()


def contrastive_loss(
    image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, positive: torch.Tensor
) -> torch.Tensor:
    """`multi_positive` in both directions; image [B, D] and text [M, D] of unit length, positive bool [B, M]."""
    logits = scale * image @ text.T
    return (multi_positive(logits, positive) + multi_positive(logits.T, positive.T)) / 2


def model_config(config: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """The `model_cfg` of open_clip for this pretraining config."""
    model = config["model"]
    vision = {
        "timm_model_name": model["vision"],
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": model["image_size"],
    }
    return {
        "embed_dim": model["embed_dim"],
        "custom_text": True,
        "vision_cfg": vision,
        "text_cfg": {**model["text"], "vocab_size": vocab_size},
    }


class Pretraining(nn.Module):
    """The dual encoder over the compact vocabulary, plus what is left behind at export: classifiers and anchors."""

    def __init__(self, config: dict[str, Any], vocabulary: CompactVocabulary, classes: int):
        super().__init__()
        settings = model_config(config, len(vocabulary))
        settings.pop("custom_text")
        settings["vision_cfg"] = {**settings["vision_cfg"], "timm_drop_path": config["training"]["drop_path"]}
        self.clip = CustomTextCLIP(**settings)
        width = self.clip.visual.trunk.num_features
        self.class_token_head, self.patch_head = nn.Linear(width, classes), nn.Linear(width, classes)
        self.anchors = nn.Parameter(torch.randn(classes, settings["embed_dim"]))
        embedding = self.clip.text.token_embedding
        embedding.padding_idx = 0  # no gradient: the row of unknown words stays zero
        nn.init.zeros_(embedding.weight.data[0])

    def encode_image(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[B, 3, H, W] -> unit embeddings [B, D], class logits [B, classes] of the class token and of the patches."""
        visual = self.clip.visual
        tokens = visual.trunk.forward_features(images)
        embedding = visual.head(visual.trunk.forward_head(tokens))
        by_class_token, by_patches = self.class_token_head(tokens[:, 0]), self.patch_head(tokens[:, 1:].mean(1))
        return F.normalize(embedding.float(), dim=-1), by_class_token.float(), by_patches.float()

    def encode_text(self, ids: torch.Tensor) -> torch.Tensor:
        """Compact token ids [M, L] -> unit embeddings [M, D]."""
        return F.normalize(self.clip.encode_text(ids).float(), dim=-1)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels decay; embeddings, norms, biases and the logit scale do not."""
    named = list(model.named_parameters())
    decays = [p.ndim >= 2 and not any(s in n for s in ("embed", "embedding", "cls_token", "anchors")) for n, p in named]
    return [
        {"params": [p for (_, p), d in zip(named, decays, strict=True) if d], "weight_decay": weight_decay},
        {"params": [p for (_, p), d in zip(named, decays, strict=True) if not d], "weight_decay": 0.0},
    ]


@torch.no_grad()
def average(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights and running statistics a step towards the model's."""
    for mean, value in zip(ema.state_dict().values(), model.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)


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
            model.encode_image(((chunk.float() / 255 - mean) / std).to(device))[0] @ prototypes.T
            for chunk in pool.pixels.split(32)
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


def export(model: Pretraining, vocabulary: CompactVocabulary, config: dict[str, Any], out: Path) -> None:
    """Write `open_clip_config.json` and `open_clip_model.safetensors` (fp16, the full token table) to `out`."""
    state = {name: value.detach().cpu() for name, value in model.clip.state_dict().items()}
    state["text.token_embedding.weight"] = vocabulary.expand(state["text.token_embedding.weight"])
    state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    settings = {
        "model_cfg": model_config(config, vocabulary.full_size),
        "preprocess_cfg": {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"},
    }
    (out / "open_clip_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    save_file({name: value.contiguous() for name, value in state.items()}, out / "open_clip_model.safetensors")


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
    learn, held = train_files(config, data_location(data_root))
    concepts = concepts_of(config)
    grammar = CaptionGrammar(concepts, config["families"], config["findings"])
    tokenizer = open_clip.SimpleTokenizer(context_length=config["model"]["text"]["context_length"])
    vocabulary = CompactVocabulary(tokenizer, grammar.phrases(), tokenizer.vocab_size)

    torch.manual_seed(seed)
    model = Pretraining(config, vocabulary, len(concepts)).to(device, memory_format=torch.channels_last)
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(parameter_groups(model, training["weight_decay"]), lr=0.0, betas=(0.9, 0.98))
    identity = {"model": config["model"], "concepts": concepts, "tokens": vocabulary.known.tolist()}
    step, minutes, views, losses = 0, 0.0, 0, []
    checkpoint = out / "checkpoint.safetensors"
    if resume and checkpoint.exists():
        saved = load_checkpoint(checkpoint, {"model": model, "ema": ema}, optimizer, identity)
        step, minutes, views = saved["step"], saved["minutes"], saved["views"]
        progress(f"going on from step {step}")

    def save(summary: dict[str, Any]) -> None:
        about = {"step": step, "minutes": minutes, "views": views}
        save_checkpoint(checkpoint, {"model": model, "ema": ema}, optimizer, identity, about)
        export(ema, vocabulary, config, out)
        (out / "pretrain.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")

    phases = training["phases"]
    total = sum(phase["steps"] for phase in phases)
    ends = np.cumsum([phase["steps"] for phase in phases])
    summary: dict[str, Any] = {}
    pool, current = None, None
    before, started = minutes, time.monotonic()
    while step < total:
        phase = phases[int(np.searchsorted(ends, step, side="right"))]
        if phase is not current:
            current = phase
            pool = load_pool(learn, config, round(phase["size"] * 1.125))
            held_pool = load_pool(held, config, phase["size"])
            weights = sampling_weights(pool, concepts)
            progress(f"{len(learn)} images to learn from, {len(held)} held out, {phase['size']} px")

        rng = np.random.default_rng([seed, step])
        torch.manual_seed(seed + step)
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        picked = torch.from_numpy(rng.choice(len(weights), phase["batch"], p=weights))
        images = augment(pool, picked, phase["size"], generator).to(device, memory_format=torch.channels_last)
        labels = pool.concept[picked].to(device)
        captions = [grammar.sample(int(c), rng) for c in labels.tolist() for _ in range(training["captions_per_image"])]
        ids = vocabulary.encode([caption.text for caption in captions], rng, training["unknown_words"]).to(device)
        true_of = torch.from_numpy(np.stack([caption.true_of for caption in captions])).to(device)

        lr = training["lr"] * min((step + 1) / training["warmup"], 0.5 * (1 + math.cos(math.pi * step / total)) + 0.005)
        for group in optimizer.param_groups:
            group["lr"] = lr
        with torch.autocast(device.type, dtype=torch.bfloat16):
            image, by_class_token, by_patches = model.encode_image(images)
            text = model.encode_text(ids)
        scale = model.clip.logit_scale.exp()
        contrastive = contrastive_loss(image, text, scale, true_of[:, labels].T)
        towards = scale * F.normalize(model.anchors, dim=-1).T
        anchored = (F.cross_entropy(image @ towards, labels) + multi_positive(text @ towards, true_of)) / 2
        auxiliary = sum(F.cross_entropy(x, labels, label_smoothing=0.1) for x in (by_class_token, by_patches)) / 2
        loss = contrastive + training["anchored"] * anchored + training["auxiliary"] * auxiliary
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.clip.logit_scale.clamp_(max=math.log(100))
        average(ema, model, min(training["ema"], (1 + step) / (10 + step)))

        step += 1
        views += phase["batch"]
        losses.append((contrastive.item(), anchored.item(), auxiliary.item()))
        minutes = before + (time.monotonic() - started) / 60
        if step % training["log_every"] == 0 or step == total:
            a, b, c = np.mean(losses[-training["log_every"] :], axis=0)
            left = (minutes - before) / len(losses) * (total - step)
            progress(
                f"step {step}/{total}  contrastive {a:.3f}  anchored {b:.3f}  auxiliary {c:.3f}  lr {lr:.1e}  "
                f"{views} views  {minutes:.1f} min, about {left:.0f} left"
            )
        out_of_time = max_minutes is not None and minutes - before >= max_minutes
        if step % training["save_every"] == 0 or step == total or out_of_time:
            accuracy = validate(ema, held_pool, grammar, vocabulary, seed)
            summary = {"steps": step, "of": total, "views": views, "minutes": round(minutes, 1), "held_out": accuracy}
            save(summary)
            progress("held out  " + "  ".join(f"{name} {value:.2f}" for name, value in accuracy.items()))
        if out_of_time:
            break
    return summary or json.loads((out / "pretrain.json").read_text(encoding="utf-8"))
