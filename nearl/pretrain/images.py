"""Images for pretraining: decoded or drawn once, then augmented to random views."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from nearl.backbones.embedded import MEAN, STD
from nearl.data.images import decode_picture
from nearl.data.phantoms.kinds import CLASSES, make_phantom, measure
from nearl.pretrain.config import concepts_of


class Pool(NamedTuple):
    """B images in memory; symmetry, colour, stained and cells are those of their set in the config."""

    pixels: torch.Tensor  # uint8 [B, 4, H, W], RGB and the finding's mask (0 to 255)
    concept: torch.Tensor  # int64 [B]
    symmetry: torch.Tensor  # int64 [B]: 0 none, 1 horizontal, 2 all
    colour: torch.Tensor  # bool [B]
    stained: torch.Tensor  # bool [B]
    cells: torch.Tensor  # bool [B]
    details: list[dict | None]  # a phantom's attributes; None for a real image
    masked: torch.Tensor  # bool [B]: a real image whose finding is outlined


def load_pool(files: list[tuple[Path | int, int]], config: dict[str, Any], side: int) -> Pool:
    """Decode or draw the images once, each squashed to `side` x `side` pixels, as the backbone does it."""
    concepts = [concept.split("/") for concept in concepts_of(config)]
    entries = [config["sets"][name] for name, _ in concepts]
    pixels = np.zeros((len(files), side, side, 4), np.uint8)
    details: list[dict | None] = []
    masked = torch.zeros(len(files), dtype=torch.bool)
    for at, (row, (source, index)) in enumerate(zip(pixels, files, strict=True)):
        if isinstance(source, int):
            phantom = make_phantom(entries[index]["phantom"], concepts[index][1] == CLASSES[1], source, side)
            row[..., :3], row[..., 3] = phantom.pixels, phantom.mask * 255
            details.append(phantom.details)
        else:
            row[..., :3] = np.asarray(decode_picture(source).image().resize((side, side), Image.Resampling.BICUBIC))
            details.append(None)
            beside = source.parents[2] / "masks" / source.parts[-3] / source.parts[-2] / f"{source.stem}.png"
            if entries[index].get("masks") and beside.is_file():
                row[..., 3] = np.asarray(
                    Image.open(beside).convert("L").resize((side, side), Image.Resampling.BILINEAR)
                )
                masked[at] = True
    concept = torch.tensor([index for _, index in files])
    symmetry = torch.tensor([("none", "horizontal", "all").index(entry.get("symmetry", "none")) for entry in entries])
    flags = [torch.tensor([bool(entry.get(key)) for entry in entries]) for key in ("colour", "stained", "cells")]
    pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return Pool(pixels, concept, symmetry[concept], *(flag[concept] for flag in flags), details, masked)  # type: ignore[call-arg]


def sampling_weights(pool: Pool, config: dict[str, Any]) -> np.ndarray:
    """Each image's probability: sets by the square root of their size, classes equally within a set."""
    concepts = concepts_of(config)
    names = np.array([concept.split("/")[0] for concept in concepts])
    count = np.bincount(pool.concept.numpy(), minlength=len(concepts))
    per_set = {
        name: entry.get("weight", 1.0) * math.sqrt(count[names == name].sum()) / (names == name).sum()
        for name, entry in config["sets"].items()
    }
    weight = np.array([per_set[name] for name in names]) / count
    weight = weight[pool.concept.numpy()]
    return weight / weight.sum()


def draw(weights: np.ndarray, groups: np.ndarray, count: int, focus: float, rng: np.random.Generator) -> np.ndarray:
    """Draw indices of `count` images, a share `focus` of them from one set: its classes are hard negatives.

    weights: probability of each image. groups: the number of its set.
    """
    near = round(count * focus)
    group = groups[rng.choice(len(weights), p=weights)]
    inside = weights * (groups == group)
    return np.concatenate(
        [rng.choice(len(weights), near, p=inside / inside.sum()), rng.choice(len(weights), count - near, p=weights)]
    )


def augment(
    pool: Pool, picked: torch.Tensor, size: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random views of the picked images, float32 [B, 3, size, size], normalised, and masks [B, size, size].

    Geometry (crop, aspect, rotation, the set's symmetry), exposure (gamma, contrast, brightness, colour cast), stains,
    noise, blur and an erased rectangle: against the shortcuts of cropping, borders, exposure, one laboratory's dyes and
    burnt-in marks. Of images of cells, some views show one cell cut out, on black.
    """
    n = len(picked)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(n, *shape, generator=generator) * (high - low) + low

    def coin(p: float) -> torch.Tensor:
        return torch.rand(n, generator=generator) < p

    symmetry, colour = pool.symmetry[picked], pool.colour[picked]
    scale, aspect, angle = uniform(0.62, 1.06), uniform(-0.12, 0.12).exp(), uniform(-0.2, 0.2)
    angle = angle + (symmetry == 2) * torch.randint(0, 4, (n,), generator=generator) * (math.pi / 2)
    flip = 1 - 2 * ((symmetry >= 1) & coin(0.5)).float()
    sx, sy, slack = scale * aspect * flip, scale / aspect, (1 - scale).clamp(min=0)
    shift = uniform(-1, 1, 2) * slack[:, None]
    alone = pool.cells[picked] & coin(0.35)
    if alone.any():
        zoom = uniform(0.16, 0.24)
        sx, sy = torch.where(alone, zoom * flip, sx), torch.where(alone, zoom, sy)
        shift[alone] = cell_centres(pool.pixels[picked[alone]], generator)
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack([cos * sx, -sin * sy, shift[:, 0], sin * sx, cos * sy, shift[:, 1]], 1).view(n, 2, 3)
    grid = F.affine_grid(theta, [n, 3, size, size], align_corners=False)
    x = F.grid_sample(pool.pixels[picked].float() / 255, grid, align_corners=False)
    x, mask = x[:, :3], x[:, 3]
    x[alone] = cut_out(x[alone])

    blurred = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    x = torch.where((coin(0.2))[:, None, None, None], blurred, x)
    coarse = F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)
    coarse = F.interpolate(coarse, size=x.shape[-2:], mode="bilinear")
    x = torch.where((coin(0.1))[:, None, None, None], coarse, x)
    x = x.clamp(1e-4, 1) ** uniform(-0.4, 0.4, 1, 1, 1).exp()
    x = (x - 0.4) * uniform(0.7, 1.3, 1, 1, 1) + 0.4 + uniform(-0.12, 0.12, 1, 1, 1)
    x = x * torch.where(colour[:, None, None, None], uniform(0.88, 1.12, 3, 1, 1), 1.0)
    dyes = (torch.eye(3) + uniform(-0.25, 0.25, 3, 3)) * uniform(-0.5, 0.5, 1, 1).exp()
    density = torch.einsum("nij,njhw->nihw", dyes, -x.clamp(0.02, 1).log())
    restained = (pool.stained[picked] & coin(0.6))[:, None, None, None] & (x.amax(1, keepdim=True) > 0.02)
    x = torch.where(restained, (-density).exp(), x)
    x = x + torch.randn(n, 1, size, size, generator=generator) * (uniform(0, 0.05) * coin(0.5))[:, None, None, None]

    position = (torch.arange(size) + 0.5) / size
    centre, half = uniform(0, 1, 2), uniform(0.03, 0.15, 2)
    inside = ((position - centre[:, :, None]).abs() < half[:, :, None]) & coin(0.3)[:, None, None]
    erased = inside[:, 0, :, None] & inside[:, 1, None, :]
    x = torch.where(erased[:, None], uniform(0, 1, 1, 1, 1), x)
    return (x.clamp(0, 1) - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1), mask * ~erased


def cell_centres(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Centres [B, 2] (x, y in -1..1) of one cell in each image of uint8 [B, 4, H, W].

    The cell is the one under the mask, else one of the darkest.
    """
    side = pixels.shape[-1]
    kernel = side // 8 + 1 - side // 8 % 2  # about one cell
    light = F.avg_pool2d(pixels[:, 1:2].float() / 255, kernel, kernel // 4)
    masked = F.avg_pool2d(pixels[:, 3:].float() / 255, kernel, kernel // 4)
    score = masked * 9 - light + 0.06 * torch.rand(light.shape, generator=generator)
    best, columns = score.flatten(1).argmax(1), light.shape[-1]
    at = torch.stack([best % columns, best // columns], 1) * (kernel // 4) + kernel / 2
    return at / side * 2 - 1


def cut_out(x: torch.Tensor) -> torch.Tensor:
    """Images [B, 3, H, W] in 0..1 -> the same with everything black except stained matter near the centre."""
    side = x.shape[-1]
    position = (torch.arange(side) + 0.5) / side * 2 - 1
    middle = position[:, None] ** 2 + position[None] ** 2 < 0.8
    kernel = side // 8 + 1 - side // 8 % 2
    light = F.avg_pool2d(x[:, 1:2], kernel, 1, kernel // 2, count_include_pad=False)
    return x * (middle & (light < 0.93 * light.amax((1, 2, 3), keepdim=True)))


def see(pool: Pool, picked: torch.Tensor, masks: torch.Tensor, clear: torch.Tensor) -> tuple[torch.Tensor, list]:
    """Concept, int64 [B], and attributes of each view: a phantom's lesion may be outside, wholly or in part.

    clear: for every concept, the one without the lesion (itself where there is none).
    """
    labels, attributes = pool.concept[picked].clone(), []
    for i, index in enumerate(picked.tolist()):
        mask = masks[i].numpy() > 0.5
        facts = None
        if clear[labels[i]] != labels[i]:
            if mask.sum() < 1e-3 * mask.size:
                labels[i] = clear[labels[i]]
            else:
                facts = {key: pool.details[index][key] for key in ("shape", "brightness")} | measure(mask)
        attributes.append(facts)
    return labels, attributes


def set_numbers(pool: Pool, concepts: list[str]) -> np.ndarray:
    """The number of each image's set."""
    return np.unique([c.split("/")[0] for c in concepts], return_inverse=True)[1][pool.concept.numpy()]
