"""Painters of the grey phantoms: stylised anatomy from ellipses, bands and smooth noise (all of it our choice).

Every painter, also those of skin and smear, is called paint(rng, lesion_rng, size) -> (image, mask, details): image
float32 [H, W] or [H, W, 3] in 0..1, mask bool [H, W], details with "shape" and "brightness" for the caption. The scene
depends on `rng` alone and the lesion on `lesion_rng` alone (None: no lesion), so that the same seed gives the same
image outside the lesion, with and without it.
"""

from __future__ import annotations

import math

import numpy as np

from nearl.data.phantoms.brushes import (
    Painted,
    Rng,
    blend,
    dot,
    ellipse,
    grain,
    grid,
    noise,
    outline,
    posed,
    radius,
    ramp,
)

# ---- head MRI ---------------------------------------------------------------------------------------------------

_WEIGHTINGS = {  # cerebrospinal fluid, grey matter, white matter, scalp fat, skull
    "T1-weighted": (0.10, 0.42, 0.58, 0.86, 0.07),
    "T2-weighted": (0.88, 0.58, 0.40, 0.66, 0.05),
    "FLAIR": (0.08, 0.50, 0.40, 0.62, 0.05),
}


def head_mri(rng: Rng, lesion_rng: Rng | None, size: int) -> Painted:
    """Axial slice: scalp, skull, folded cortex, white matter, deep grey nuclei, ventricles. Lesion: solid or ring."""
    weighting = str(rng.choice(list(_WEIGHTINGS)))
    csf, grey, white, fat, bone = _WEIGHTINGS[weighting]
    u, v = posed(rng, size, 0.2, 0.05, (0.9, 1.08))
    rx, ry, egg = rng.uniform(0.64, 0.72), rng.uniform(0.8, 0.88), rng.uniform(0.04, 0.14)
    rim = np.hypot(u / (rx * (1 + egg * v)), v / ry) + 0.006 * noise(rng, size, 5)
    inner = rng.uniform(0.83, 0.86)
    depth = 1 - rim / inner  # 0 on the brain's surface, 1 in its middle

    image = np.zeros((size, size), np.float32)
    blend(image, fat, ramp(1 - rim, 0.025))
    blend(image, bone, ramp(0.95 - rim, 0.02))
    marrow = np.exp(-(((rim - (inner + 0.95) / 2 - 0.01) / 0.014) ** 2))
    blend(image, fat * rng.uniform(0.3, 0.7), marrow * 0.8)
    blend(image, csf, ramp(depth + 0.03, 0.02))
    blend(image, white, ramp(depth - 0.005, 0.03))
    folds = noise(rng, size, int(rng.integers(11, 15)), 2) + 0.25 * np.sin(40 * depth)
    outer = ramp(rng.uniform(0.28, 0.34) - depth, 0.12) * ramp(depth, 0.02)
    blend(image, grey, outer * np.maximum(np.exp(-((folds / 0.75) ** 4)), ramp(0.07 - depth, 0.03)))
    blend(image, csf, outer * ramp(0.22 - depth, 0.15) * np.exp(-((folds / 0.26) ** 2)) * 0.85)
    blend(image, csf, np.exp(-((u / 0.012) ** 2)) * ramp(0.42 - depth, 0.1) * ramp(depth, 0.02) * 0.8)

    wide, high = rng.uniform(0.6, 1.35), rng.uniform(0, 1)  # ventricle size; level of the slice
    for side in (-1, 1):
        if high < 0.65:
            blend(image, grey, ellipse((u, v), side * 0.13, 0.12, 0.1, 0.13, side * 0.3, 0.05) * 0.85)
            blend(image, grey, ellipse((u, v), side * 0.27, -0.02, 0.07, 0.16, -side * 0.25, 0.05) * 0.8)
        blend(image, grey, ellipse((u, v), side * 0.16, -0.2, 0.055, 0.12, -side * 0.35, 0.04) * 0.8)
        front = ellipse((u, v), side * 0.085, -0.2, 0.042 * wide, 0.15 + 0.06 * high, -side * 0.4, 0.02)
        back = ellipse((u, v), side * (0.2 - 0.07 * high), 0.28, 0.05 * wide, 0.17, -side * 0.3, 0.02)
        body = ellipse((u, v), side * 0.09, 0.05, 0.04 * wide, 0.22, -side * 0.12, 0.02) * (high >= 0.65)
        blend(image, csf, np.maximum(np.maximum(front, back), body))
    blend(image, csf, ellipse((u, v), 0, 0.1, 0.016 * wide, 0.1, 0, 0.02) * (high < 0.65))
    image *= 1 + 0.1 * noise(rng, size, 2) * ramp(inner - rim, 0.2) + 0.035 * noise(rng, size, 30)

    mask, details = np.zeros((size, size), bool), {"weighting": weighting}
    if lesion_rng is not None:
        g = lesion_rng
        side = 2 * int(g.integers(2)) - 1
        shape = str(g.choice(("round", "oval", "lobulated", "irregular")))
        form = str(g.choice(("bright", "dark", "ring-shaped")))
        rho = outline(g, u, v, side * g.uniform(0.24, 0.36), g.uniform(-0.38, 0.4), g.uniform(0.08, 0.17), shape)
        alpha = ramp(1 - rho, 0.18) * ramp(depth - 0.03, 0.03)
        bright, dark = white + g.uniform(0.2, 0.36), white * g.uniform(0.35, 0.6)
        value = dark + (bright - dark) * np.exp(-(((rho - 0.82) / 0.16) ** 2)) if form == "ring-shaped" else bright
        value = dark if form == "dark" else value
        blend(image, value * (1 + 0.08 * noise(g, size, 24)), alpha)
        mask, details = alpha > 0.5, {**details, "shape": shape, "brightness": form}
    sigma = rng.uniform(0.015, 0.035)
    return np.hypot(image + grain(rng, size, sigma), grain(rng, size, sigma)), mask, details


# ---- chest X-ray ------------------------------------------------------------------------------------------------


def _bands(x, y, first: float, step: float, count: int, thick: float) -> np.ndarray:
    """`count` parallel bands of brighter edges along y = first + k * step; x only gives the shape."""
    k = np.clip(np.round((y - first) / step), 0, count - 1)
    off = np.abs(y - first - k * step) + 0 * x
    return 0.6 * ramp(thick - off, 0.03) + 0.5 * np.exp(-(((off - thick) / 0.012) ** 2))


def chest_xray(rng: Rng, lesion_rng: Rng | None, size: int) -> Painted:
    """Frontal view: two lungs, ribs, clavicles, heart, spine, diaphragm, vessels. Lesion: a hazy or dense opacity."""
    x, y = posed(rng, size, 0.05, 0.05, (0.92, 1.06))
    aside = np.abs(x)
    image = np.full((size, size), rng.uniform(0.54, 0.62), np.float32)
    image += 0.1 * ramp(y, 2.0) - 0.16 * ramp(aside - 0.72, 0.5)

    slim, deep = rng.uniform(0.29, 0.34), rng.uniform(0.38, 0.56)
    lungs, raised = [], rng.uniform(0.04, 0.1)  # the dome at the left is higher, above the liver
    for side in (-1, 1):
        top, floor = rng.uniform(-0.8, -0.74), deep - raised * (side < 0)
        down = np.clip((y - top) / (floor - top), 0, 1)
        half = slim * np.sqrt(np.clip(1 - (1 - down) ** 2.3, 0, 1))
        middle = 0.3 + 0.13 * down
        base = floor - 0.12 + 1.1 * (aside - 0.36) ** 2
        inside = ramp(half - np.abs(side * x - middle), 0.05) * ramp(y - top - 0.01, 0.03)
        inside *= ramp(base - y, 0.03) * (side * x > 0)
        lungs.append(inside)
    lung = np.maximum(*lungs)
    blend(image, rng.uniform(0.17, 0.25), lung * 0.88)
    image += 0.05 * lung * (y - 0.1)

    for side in (-1, 1):  # vessels fan out from each hilum
        hx, hy = x - side * 0.17, y - 0.02
        out, fan = np.hypot(hx, hy), np.arctan2(hy, hx * side)
        bend = noise(rng, size, 7)
        twigs = np.maximum(np.cos(13 * fan + 1.1 * bend), 0) ** 6 + np.maximum(np.cos(21 * fan - 1.6 * bend), 0) ** 8
        image += lung * (side * x > 0) * np.exp(-out / 0.22) * (0.12 * twigs + 0.13)
    image += lung * (0.018 * noise(rng, size, 26, 2))

    reach = ramp(0.83 - aside, 0.06)
    first, step = rng.uniform(-0.74, -0.66), rng.uniform(0.14, 0.165)
    back = y - 0.1 * aside - 0.5 * np.maximum(aside - 0.42, 0) ** 2
    front = y + 0.42 * aside + 0.35 * aside**2
    cage = reach * ramp(0.62 - y, 0.25)
    image += rng.uniform(0.07, 0.11) * cage * ramp(aside - 0.08, 0.05) * _bands(x, back, first, step, 9, 0.03)
    image += 0.055 * cage * ramp(aside - 0.28, 0.15) * _bands(x, front, first + 0.3, step * 1.1, 7, 0.034)
    collar = y + 0.68 + 0.16 * (aside - 0.1) - 0.1 * np.sin(aside * 5)
    image += 0.15 * ramp(0.035 - np.abs(collar), 0.03) * ramp(aside - 0.08, 0.04) * ramp(0.8 - aside, 0.1)

    heart = ellipse((x, y), rng.uniform(0.08, 0.13), deep - 0.24, rng.uniform(0.25, 0.34), 0.26, 0.55, 0.05)
    heart = np.maximum(heart, ellipse((x, y), -0.1, deep - 0.24, 0.15, 0.2, 0, 0.05))
    heart = np.maximum(heart, ellipse((x, y), 0.11, -0.28, 0.09, 0.11, 0, 0.05))
    heart = np.maximum(heart, ramp(0.13 + 0.05 * np.cos(4 * y) - aside, 0.06))
    blend(image, rng.uniform(0.68, 0.74), heart * 0.92)
    image += 0.09 * ramp(0.085 - aside, 0.03) * (1 + 0.3 * np.sign(np.sin(y * 38)) * ramp(0.08 - aside, 0.02))
    blend(image, 0.42, ramp(0.035 - np.abs(x + 0.01), 0.03) * ramp(-0.28 - y, 0.1) * 0.4)  # trachea
    if rng.uniform() < 0.6:
        bubble = ellipse((x, y), 0.4, deep + 0.16, 0.14, 0.07, -0.2, 0.05)
        blend(image, 0.36, bubble * 0.8)
    outside = ramp(aside - 0.3 - 1.6 * np.maximum(y + 0.98, 0) ** 0.7, 0.08)
    blend(image, 0.06, np.maximum(outside, ramp(aside - 1.0, 0.06)))
    image *= 1 + 0.04 * noise(rng, size, 3)

    mask, details = np.zeros((size, size), bool), {}
    if lesion_rng is not None:
        g = lesion_rng
        side = int(g.integers(2))
        shape = str(g.choice(("round", "oval", "irregular", "lobulated")))
        cx, cy, r = (2 * side - 1) * g.uniform(0.34, 0.5), g.uniform(-0.4, deep - 0.28), g.uniform(0.11, 0.22)
        haze = g.uniform(0.25, 0.8)  # width of the border: sharp for a mass, soft for a pneumonia
        alpha = ramp(1 - outline(g, x, y, cx, cy, r, shape), haze) * lungs[side]
        gain = g.uniform(0.16, 0.34)
        image += alpha * (gain + 0.15 * gain * noise(g, size, 14, 2)) * np.clip((0.75 - image) / 0.5, 0, 1)
        mask, details = alpha > 0.5, {"shape": shape, "brightness": "dense" if gain > 0.25 else "hazy"}
    return image + grain(rng, size, rng.uniform(0.01, 0.025)), mask, details


# ---- CT slice ---------------------------------------------------------------------------------------------------


def ct_slice(rng: Rng, lesion_rng: Rng | None, size: int) -> Painted:
    """Axial chest slice in a lung window: wall, ribs, spine, heart, lungs with vessels, table. Lesion: a nodule."""
    x, y = posed(rng, size, 0.1, 0.04, (0.95, 1.1))
    rx, ry = rng.uniform(0.84, 0.94), rng.uniform(0.6, 0.7)
    rim = (np.abs(x / rx) ** 2.3 + np.abs(y / ry) ** 2.3) ** (1 / 2.3)
    fat, muscle, blood = 0.36, rng.uniform(0.5, 0.56), rng.uniform(0.56, 0.66)
    wall = rng.uniform(0.03, 0.09)  # of fat
    image = np.full((size, size), 0.015, np.float32)
    table = y - rng.uniform(0.72, 0.8) + 0.12 * x**2
    blend(image, 0.45, np.exp(-((table / 0.012) ** 2)) * (np.abs(x) < 0.85) * (rim > 1))
    blend(image, muscle, ramp(1 - rim, 0.025))
    blend(image, fat, ramp(0.975 - rim, 0.02))
    blend(image, muscle, ramp(0.975 - wall - rim + 0.02 * noise(rng, size, 6), 0.03))

    wide, high = rng.uniform(0.3, 0.35), ry * rng.uniform(0.68, 0.76)
    halves = []
    for side in (-1, 1):
        rho = radius(x, y, side * 0.42, rng.uniform(-0.03, 0.03), wide, high, side * rng.uniform(0.08, 0.25))
        halves.append(ramp(1 - rho + 0.03 * noise(rng, size, 5), 0.05))
    hx, big = rng.uniform(0.1, 0.18), rng.uniform(0.2, 0.3)
    heart = ellipse((x, y), hx, -0.14, big * 1.1, big * 0.85, 0.5, 0.03)
    middle = np.maximum(heart, ramp(0.13 + 0.04 * np.cos(7 * y) - np.abs(x), 0.03))
    halves = [half * (1 - middle) for half in halves]
    lung = np.maximum(*halves)
    middle = middle * ramp(0.86 - rim, 0.05)
    blend(image, fat + 0.08, middle * 0.8)
    blend(image, blood, heart)
    blend(image, blood + 0.03, ellipse((x, y), 0.13, 0.24, 0.065, 0.065))  # descending aorta
    blend(image, blood + 0.02, ellipse((x, y), -0.06, -0.2, 0.09, 0.085))
    air = rng.uniform(0.08, 0.15)
    blend(image, air + 0.03 * noise(rng, size, 5, 2) + 0.05 * ramp(y, 0.8), lung)
    for side in (-1, 1):
        blend(image, 0.04, ellipse((x, y), side * 0.1, 0.06, 0.042, 0.036, side * 0.5) * 0.95)  # main bronchi

    bone = rng.uniform(0.88, 0.97)
    blend(image, bone, ellipse((x, y), 0, ry * 0.5, 0.12, 0.095, 0, 0.02) * (0.92 + 0.06 * noise(rng, size, 18)))
    arch = radius(x, y, 0, ry * 0.5 + 0.14, 0.075, 0.062)
    blend(image, bone, np.exp(-(((arch - 1) / 0.3) ** 2)) * 0.9)
    blend(image, bone, ellipse((x, y), 0, ry * 0.5 + 0.24, 0.02, 0.06) * 0.9)
    blend(image, bone, ellipse((x, y), 0, -ry * 0.84, 0.1, 0.035) * 0.85)  # sternum
    start, ring = rng.uniform(0, 0.4), 0.93 - wall
    for angle in (np.arange(12) * (2 * np.pi / 12) + start).tolist():
        if abs(math.cos(angle)) > 0.3:
            at = ring * (1 / (abs(np.cos(angle)) ** 2.3 + abs(np.sin(angle)) ** 2.3) ** (1 / 2.3))
            cx, cy, long = rx * at * np.cos(angle), ry * at * np.sin(angle), rng.uniform(0.06, 0.13)
            along = np.arctan2(ry * np.cos(angle), -rx * np.sin(angle))
            blend(image, bone, ellipse((x, y), cx, cy, long, 0.024, along) * 0.92)
    for side in (-1, 1):
        blend(image, bone, ellipse((x, y), side * rx * 0.62, ry * 0.7, 0.17, 0.018, -side * 0.62) * 0.7)  # scapulae

    vessels = np.zeros_like(image)
    for side in (-1, 1):  # short branches that fan out from the hilum, and dots where a vessel crosses the slice
        for _ in range(8):
            angle, length, thick = rng.normal(0, 0.9), rng.uniform(0.1, 0.32), rng.uniform(0.014, 0.022)
            for t in np.linspace(0, 1, 20).tolist():
                turn = angle + 0.5 * t * np.sin(5 * angle)
                px, py = side * (0.17 + length * t * np.cos(turn)), 0.04 + length * t * np.sin(turn)
                dot(vessels, px, py, thick * (1 - 0.6 * t), 0.45 - 0.2 * t)
        for _ in range(30):
            dot(vessels, side * rng.uniform(0.2, 0.7), rng.uniform(-0.42, 0.42), rng.uniform(0.006, 0.017), 0.42)
    np.maximum(image, vessels * lung, out=image)

    mask, details = np.zeros((size, size), bool), {}
    if lesion_rng is not None:
        g = lesion_rng
        side = int(g.integers(2))
        shape = str(g.choice(("round", "oval", "lobulated", "spiculated")))
        r = g.uniform(0.05, 0.12)
        cx, cy = (2 * side - 1) * g.uniform(0.36, 0.52), g.uniform(-0.26, 0.28)
        alpha = ramp(1 - outline(g, x, y, cx, cy, r, shape), 0.25) * halves[side]
        value = g.uniform(0.36, 0.62)
        blend(image, value * (1 + 0.05 * noise(g, size, 30)), alpha)
        mask, details = alpha > 0.5, {"shape": shape, "brightness": "solid" if value > 0.48 else "faint"}
    return image + grain(rng, size, rng.uniform(0.012, 0.03)) + 0.012 * noise(rng, size, 60), mask, details


# ---- ultrasound -------------------------------------------------------------------------------------------------


def _speckle(rng: Rng, size: int) -> np.ndarray:
    """Rayleigh speckle [size, size] of mean about 1: the magnitude of blurred complex noise, wider across the beam."""
    field = rng.standard_normal((2, size, size), dtype=np.float32)
    for axis, reach in ((1, 1), (2, 1), (2, max(1, size // 110))):
        field = field + np.roll(field, reach, axis) + np.roll(field, -reach, axis)
    return np.hypot(field[0], field[1]) / np.float32(np.sqrt(27 * np.pi / 2))


def ultrasound(rng: Rng, lesion_rng: Rng | None, size: int) -> Painted:
    """B-mode view of soft tissue in layers, linear or sector-shaped. Lesion: a dark mass, shadow or brightness behind.

    The echoes behind the mass change too; the mask holds the mass alone.
    """
    x, y = grid(size)
    sector = rng.uniform() < 0.4
    bend = 0.022 * noise(rng, size, 3)
    down = (np.hypot(x, y + 1.9) - 1.15) / 1.7 if sector else (y + 1) / 2 + 0 * x
    level = down + bend * np.minimum(1, 4 * down)
    fat, gland, fascia = rng.uniform(0.18, 0.3), rng.uniform(0.45, 0.6), rng.uniform(0.66, 0.78)

    echo = np.full((size, size), 0.28, np.float32)
    blend(
        echo,
        np.maximum(0.75 + 0.2 * noise(rng, size, 12, 2), 0.45),
        ramp(level - fat, 0.05) * ramp(gland - level, 0.12),
    )
    blend(echo, np.maximum(0.42 + 0.1 * noise(rng, size, 9), 0.26), ramp(level - gland, 0.1))
    blend(echo, 0.25 + 0.2 * np.sin(150 * level + 4 * noise(rng, size, 4)) ** 2, ramp(level - fascia, 0.03))
    strands = np.exp(-((noise(rng, size, 6, 2) / 0.09) ** 2)) * ramp(fascia - level, 0.05)
    echo += 0.7 * strands * np.exp(-(((level - fat - 0.05) / 0.25) ** 2))
    echo += 2.2 * np.exp(-(((level - fascia) / 0.012) ** 2)) * (0.7 + 0.3 * noise(rng, size, 8))
    echo += 2.0 * ramp(0.035 - down, 0.02) + 1.2 * np.exp(-(((down - 0.06) / 0.01) ** 2))
    for _ in range(3):  # fat lobules: dark, but in both classes
        cx, cy = rng.uniform(-0.8, 0.8), rng.uniform(-0.75, 0.2)
        echo *= 1 - 0.45 * ellipse((x, y), cx, cy, rng.uniform(0.12, 0.28), rng.uniform(0.05, 0.1), 0, 0.05)
    if rng.uniform() < 0.35:  # a rib and its shadow, or none
        rib = rng.uniform(-0.7, 0.7)
        echo += 2.0 * np.exp(-(((x - rib) / 0.16) ** 4) - ((down - fascia - 0.08 - 0.8 * (x - rib) ** 2) / 0.02) ** 2)
        echo *= 1 - 0.85 * ramp(0.17 - np.abs(x - rib), 0.06) * ramp(down - fascia - 0.1, 0.04)

    mask, details = np.zeros((size, size), bool), {"view": "sector" if sector else "linear"}
    if lesion_rng is not None:
        g = lesion_rng
        shape = str(g.choice(("round", "oval", "lobulated", "irregular", "spiculated")))
        cx, cy, r = g.uniform(-0.4, 0.4), g.uniform(-0.3, 0.15), g.uniform(0.14, 0.26)
        rho = outline(g, x, 1.25 * y, cx, 1.25 * cy, r, shape)  # a little wider than tall
        alpha, dark = ramp(1 - rho, 0.2), g.uniform(0.06, 0.22)
        behind = ramp(0.75 * r - np.abs(x - cx - 0.25 * (x - cx) * sector), 0.2) * ramp(y - cy - 0.5 * r, r)
        gain = 1.7 if shape in ("round", "oval") and g.uniform() < 0.5 else g.uniform(0.3, 0.6)
        echo *= 1 + (gain - 1) * behind * (1 - alpha)
        blend(echo, dark * (0.8 + 0.2 * noise(g, size, 20)), alpha)
        details |= {"shape": shape, "brightness": "nearly black" if dark < 0.12 else "dark grey"}
        mask = alpha > 0.5
    fade = np.exp(-rng.uniform(0.3, 1.1) * down)
    sound = np.maximum(echo, 0.02) * fade * _speckle(rng, size)
    span = rng.uniform(1.7, 2.1)
    image = (np.log10(sound + 1e-3) + span - 0.1) / (span + 0.35)
    if sector:
        beam = ramp(0.62 - np.abs(np.arctan2(x, y + 1.9)), 0.02) * ramp(down, 0.01) * ramp(0.985 - down, 0.01)
        image, mask = image * beam, mask & (beam > 0.5)
    return image, mask, details
