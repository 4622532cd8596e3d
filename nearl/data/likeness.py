"""Images that show nearly the same: re-encoded, resized, slightly cropped, brighter or darker copies.

All of this is our choice. An image is reduced to its fine structure: a band of spatial frequencies, divided by its own
strength nearby, so that faint texture counts as much as strong edges. Anatomy is alike from patient to patient;
texture is not. Two images are copies if their fine structures agree after one is fitted to a crop of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from PIL import Image

from nearl.data.records import ImageRecord

SOURCE, COARSE, FINE = 128, 32, 64  # pixels a side: of the reduced image, and of the two comparisons
CUTS = (0.0, 0.025, 0.05)  # fractions of a side that may be cut off at each border; fitting finds those in between
MAY_BE, WORTH_FITTING = 0.85, 0.65  # least correlation of coarse images, and of fine ones before fitting
ALIKE, MOST_ALIKE = 0.91, 0.96  # least correlation of copies; the higher one in sets whose images are all alike
FEW = 8  # with fewer images, how alike those of a set are cannot be estimated
STEPS = 3  # of fitting
TOGETHER = 128  # pairs fitted at a time
NOISE = 1.0  # structure below so many grey levels is ignored, in an image of standard deviation 50

# i [P], j [P], and the range [x0, x1, y0, y1] of i that j shows [P, 4]
Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]


def near_pairs(records: Sequence[ImageRecord], others: Sequence[ImageRecord] | None = None) -> list[tuple[int, int]]:
    """(i, j) of images that are nearly, not exactly, equal: i < j within records, or i in records and j in others.

    Finds copies with up to about 6 % cut off at each border, at any size of at least 64 pixels.
    """
    first = _reduced(records)
    second = first if others is None else _reduced(others)
    targets = records if others is None else others
    found = set(_copies(first, second))
    if others is None:
        found = {(min(pair), max(pair)) for pair in found}
    else:
        found |= {(i, j) for j, i in _copies(second, first)}
    return sorted((i, j) for i, j in found if records[i].digest != targets[j].digest)


def _copies(a: np.ndarray, b: np.ndarray) -> list[tuple[int, int]]:
    """(i, j) where b[j] shows a[i] or a part of it. a, b: as `_reduced` returns them."""
    if not len(a) or not len(b):
        return []
    (i, j, ranges), typical = _candidates(a, b)
    enough = min(max(ALIKE, 0.8 + 0.2 * typical), MOST_ALIKE) if max(len(a), len(b)) >= FEW else ALIKE
    worth = _agreement(a, b, (i, j, ranges), 0) > WORTH_FITTING
    i, j, ranges = i[worth], j[worth], ranges[worth]
    good = _agreement(a, b, (i, j, ranges), STEPS) > enough
    return list(zip(i[good].tolist(), j[good].tolist(), strict=True))


def _reduced(records: Sequence[ImageRecord]) -> np.ndarray:
    """Grey float32 [N, 128, 128], every image with mean 0 and standard deviation 50."""
    grey = np.zeros((len(records), SOURCE, SOURCE), np.float32)
    for row, record in enumerate(records):
        grey[row] = record.image().convert("L").resize((SOURCE, SOURCE), Image.Resampling.BOX)
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    return grey * (50 / np.maximum(grey.std(axis=(1, 2), keepdims=True), 1))


def _window(low: np.ndarray, high: np.ndarray, size: int) -> np.ndarray:
    """[..., size, SOURCE]: averages over `size` equal parts of the range from low to high (shares of a side)."""
    edges = low[..., None] + (high - low)[..., None] * np.linspace(0, 1, size + 1)
    edges = np.clip(edges, 0, 1) * SOURCE
    bins = np.arange(SOURCE)
    cover = np.minimum(edges[..., 1:, None], bins + 1) - np.maximum(edges[..., :-1, None], bins)
    cover = np.maximum(cover, 0)
    return (cover / np.maximum(cover.sum(axis=-1, keepdims=True), 1e-6)).astype(np.float32)


def _blur(size: int, sigma: float) -> np.ndarray:
    """[size, size]: a Gaussian blur along one axis, in pixels."""
    place = np.arange(size)
    weights = np.exp(-0.5 * ((place[:, None] - place) / sigma) ** 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _structure(images: np.ndarray) -> np.ndarray:
    """The fine structure of images [N, S, S], each of mean 0 and length 1."""
    size = images.shape[-1]
    near, wide, around = (_blur(size, sigma) for sigma in (0.7, 2.0, 5.0))
    band = near @ images @ near.T - wide @ images @ wide.T
    band /= np.sqrt(np.maximum(around @ (band * band) @ around.T, 0)) + NOISE
    band -= band.mean(axis=(1, 2), keepdims=True)
    return band / np.maximum(np.sqrt((band * band).sum(axis=(1, 2), keepdims=True)), 1e-6)


def _candidates(a: np.ndarray, b: np.ndarray) -> tuple[Pairs, float]:
    """(pairs where b[j] may be a part of a[i], compared coarsely at all cuts; median correlation of all pairs)."""
    cuts = list(product(CUTS, repeat=2))
    windows = {cut: _window(np.array(cut[0]), np.array(1 - cut[1]), COARSE) for cut in cuts}
    whole = windows[0.0, 0.0]
    target = _structure(whole @ b @ whole.T).reshape(len(b), -1)
    best = np.full((len(a), len(b)), -1, np.float32)
    which = np.zeros((len(a), len(b)), np.int16)
    both = list(product(cuts, repeat=2))
    for number, (across, down) in enumerate(both):
        score = _structure(windows[down] @ a @ windows[across].T).reshape(len(a), -1) @ target.T
        better = score > best
        best[better] = score[better]
        which[better] = number
    typical = float(np.median(best))
    if a is b:
        np.fill_diagonal(best, -1)
    i, j = np.nonzero(best > MAY_BE)
    ranges = np.array([[x[0], 1 - x[1], y[0], 1 - y[1]] for x, y in both])
    return (i, j, ranges[which[i, j]]), typical


def _agreement(a: np.ndarray, b: np.ndarray, pairs: Pairs, steps: int) -> np.ndarray:
    """Correlation [P] of the fine structures of b[j] and of the part of a[i] that fits it best (Gauss-Newton)."""
    i, j, ranges = pairs
    whole = _window(np.array(0.0), np.array(1.0), FINE)
    targets = _structure(whole @ b @ whole.T)
    share = ((np.arange(FINE) + 0.5) / FINE).astype(np.float32)
    result = np.zeros(len(i), np.float32)
    for start in range(0, len(i), TOGETHER):
        rows = slice(start, start + TOGETHER)
        source, target = a[i[rows]], targets[j[rows]]
        place = ranges[rows].copy()
        for step in range(steps + 1):
            across, down = (_window(place[:, k], place[:, k + 1], FINE) for k in (0, 2))
            part = _structure(down @ source @ across.transpose(0, 2, 1))
            result[rows] = np.maximum(result[rows], (part * target).sum(axis=(1, 2)))
            if step < steps:
                place = _better(place, part, target, share)
    return result


def _better(place: np.ndarray, part: np.ndarray, target: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Ranges [P, 4] after one step that moves their borders so that `part` fits `target`, both [P, S, S], better."""
    right, below = np.gradient(part, axis=2) * FINE, np.gradient(part, axis=1) * FINE
    slopes = [right * (1 - share), right * share, below * (1 - share)[:, None], below * share[:, None]]
    slopes = np.stack([slope.reshape(len(part), -1) for slope in slopes], axis=1)
    wanted = slopes @ (target - part).reshape(len(part), -1, 1)
    normal = slopes @ slopes.transpose(0, 2, 1)
    normal += (1e-3 * np.trace(normal, axis1=1, axis2=2)[:, None, None] + 1e-6) * np.eye(4, dtype=np.float32)
    size = np.repeat(place[:, 1::2] - place[:, 0::2], 2, axis=1)
    moved = place + np.clip(np.linalg.solve(normal, wanted)[..., 0] * size, -0.02, 0.02)
    return np.clip(moved, [0, 0.8, 0, 0.8], [0.2, 1, 0.2, 1])
