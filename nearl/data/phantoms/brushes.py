"""Soft-edged shapes and smooth noise on square float32 images, from which the phantoms are painted.

Coordinates run from -1 to 1, y downwards, at any size in pixels.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

Rng = np.random.Generator
Grid = tuple[np.ndarray, np.ndarray]  # x, y of every pixel; arrays that broadcast to [H, W]
Painted = tuple[np.ndarray, np.ndarray, dict]  # image, mask, details: what every painter returns
SHAPES = {  # frequencies of the waves around the border
    "round": (),
    "oval": (),
    "lobulated": (3, 4),
    "irregular": (2, 3, 5, 7),
    "spiculated": (4, 7, 11, 16),
}


def grid(size: int) -> Grid:
    """x [1, W] and y [H, 1]: the pixel centres in -1..1."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1).astype(np.float32)
    return axis[None, :], axis[:, None]


def noise(rng: Rng, size: int, cells: int, octaves: int = 1) -> np.ndarray:
    """Smooth noise [size, size] of mean about 0 and deviation about 1, with blobs of 1/cells of the image."""
    total = np.zeros((size, size), np.float32)
    for octave in range(octaves):
        coarse = Image.fromarray(rng.standard_normal((cells * 2**octave + 3,) * 2, dtype=np.float32))
        total += np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)) * 0.6**octave
    return total / (0.75 * math.sqrt(sum(0.36**octave for octave in range(octaves))))


def ramp(values: np.ndarray, width: float) -> np.ndarray:
    """0 below -width/2, 1 above width/2, linear in between: a soft edge where `values` crosses zero."""
    return np.clip(values * (1 / float(width)) + 0.5, 0, 1)


def radius(x, y, cx: float, cy: float, rx: float, ry: float, angle: float = 0.0) -> np.ndarray:
    """Distance from the centre of an ellipse, relative to its border: 0 in the centre, 1 on the border."""
    c, s = math.cos(angle), math.sin(angle)
    dx, dy = x - float(cx), y - float(cy)
    across, along = dx * (c / float(rx)) + dy * (s / float(rx)), dy * (c / float(ry)) - dx * (s / float(ry))
    return np.sqrt(across * across + along * along)


def ellipse(xy: Grid, cx: float, cy: float, rx: float, ry: float, angle: float = 0.0, edge: float = 0.02) -> np.ndarray:
    """Coverage 0..1 of an ellipse with a soft edge of width `edge`."""
    return ramp(1 - radius(*xy, cx, cy, rx, ry, angle), edge / min(rx, ry))


def blend(image: np.ndarray, value, alpha: np.ndarray) -> None:
    """image <- alpha * value + (1 - alpha) * image, in place."""
    image += alpha * (value - image)


def dot(image: np.ndarray, cx: float, cy: float, r: float, value: float) -> None:
    """Paint a small soft disc in place; only the pixels near it are computed."""
    size = image.shape[0]
    reach = int(r * size / 2) + 3
    col, row = int((cx + 1) * size / 2), int((cy + 1) * size / 2)
    rows, cols = slice(max(0, row - reach), row + reach), slice(max(0, col - reach), col + reach)
    x, y = grid(size)
    x, y = x[:, cols], y[rows]
    alpha = ramp(r - np.hypot(x - cx, y - cy), 3 / size)
    image[rows, cols] += alpha * np.maximum(value - image[rows, cols], 0)


def outline(rng: Rng, x, y, cx: float, cy: float, r: float, shape: str) -> np.ndarray:
    """As `radius`, of a lesion of mean radius r whose shape is a key of SHAPES."""
    stretch = rng.uniform(1.3, 1.7) if shape == "oval" else rng.uniform(1.0, 1.12)
    angle = rng.uniform(0, np.pi)
    rho = radius(x, y, cx, cy, r * math.sqrt(stretch), r / math.sqrt(stretch), angle)
    theta = np.arctan2(y - cy, x - cx)
    border = np.ones_like(theta)
    for k in SHAPES[shape]:
        border += rng.uniform(0.12, 0.2) / math.sqrt(k) * np.cos(k * theta + rng.uniform(0, 2 * np.pi))
    return rho / border


def posed(rng: Rng, size: int, turn: float, shift: float, zoom: tuple[float, float]) -> Grid:
    """x, y [H, W] in the frame of an anatomy that is turned by up to `turn` radians, shifted and zoomed."""
    x, y = grid(size)
    angle, scale = rng.uniform(-turn, turn), rng.uniform(*zoom)
    x, y = x - rng.uniform(-shift, shift), y - rng.uniform(-shift, shift)
    c, s = np.float32(np.cos(angle) / scale), np.float32(np.sin(angle) / scale)
    return x * c + y * s, y * c - x * s


def grain(rng: Rng, size: int, sigma: float) -> np.ndarray:
    """White noise [size, size] of deviation sigma."""
    return rng.standard_normal((size, size), dtype=np.float32) * np.float32(sigma)
