"""Painter of skin: pigment and blood add up as optical densities over a lit, furrowed skin colour."""

from __future__ import annotations

import numpy as np

from nearl.data.phantoms.brushes import Painted, Rng, blend, grain, grid, noise, outline, ramp

_TONES = np.array(  # red, green, blue from pale to dark; neighbours are mixed
    [
        [0.93, 0.80, 0.77],
        [0.86, 0.68, 0.68],
        [0.90, 0.72, 0.62],
        [0.85, 0.62, 0.47],
        [0.76, 0.52, 0.37],
        [0.60, 0.40, 0.28],
        [0.43, 0.28, 0.20],
    ],
    np.float32,
)
_MELANIN = np.array([0.42, 0.72, 0.90], np.float32)  # optical densities in red, green, blue
_BLACK = np.array([0.95, 1.05, 1.00], np.float32)
_BLOOD = np.array([0.14, 0.62, 0.50], np.float32)
_SLATE = np.array([0.80, 0.68, 0.50], np.float32)
_LUMA = np.array([0.30, 0.59, 0.11], np.float32)


def _smooth(values: np.ndarray, width: float) -> np.ndarray:
    """`ramp` with rounded ends."""
    t = ramp(values, width)
    return t * t * (3 - 2 * t)


def _texture(rng: Rng, size: int) -> np.ndarray:
    """Relief [H, W], mean about 0: two families of warped furrows, a ridged network, pores and mottling."""
    x, y = grid(size)
    turn, pitch = rng.uniform(0, np.pi), rng.uniform(35, 95)
    warp, relief = noise(rng, size, int(rng.integers(5, 11)), 2), np.zeros((size, size), np.float32)
    for angle in (turn, turn + rng.uniform(0.9, 1.5)):
        wave = np.sin((pitch * (x * np.cos(angle) + y * np.sin(angle)) + 1.8 * warp).astype(np.float32))
        relief += ramp(wave - 0.55, 0.8) * ramp(noise(rng, size, 9) + 0.2, 1.5)
    relief *= -rng.uniform(0.2, 1.6)
    relief -= rng.uniform(0.3, 1.5) * np.exp(-((noise(rng, size, int(rng.integers(28, 64))) / 0.35) ** 2))
    relief -= rng.uniform(0, 1.2) * ramp(noise(rng, size, int(rng.integers(35, 80))) - 1.9, 0.6)
    relief += rng.uniform(0.2, 0.7) * noise(rng, size, int(rng.integers(14, 30)), 3)
    return relief - relief.mean()


def _frame(rng: Rng, size: int) -> tuple[np.ndarray, str]:
    """How much of the skin shows [H, W], 0..1, and the view: a cut-out on black, a dermatoscope's disc or open."""
    x, y = grid(size)
    view = str(rng.choice(("cut-out", "dermatoscope", "open"), p=(0.34, 0.26, 0.4)))
    share, power, shift = rng.uniform(0.5, 0.8), rng.uniform(2, 3.2), rng.uniform(-0.12, 0.12, 2)
    sides, turns, depths = rng.uniform(0.88, 1.12), rng.uniform(0, 2 * np.pi, 4), rng.uniform(0.0, 0.16, 4)
    wide, blur, floor = rng.uniform(1.02, 1.3), rng.uniform(0.02, 0.22), rng.choice((0.0, 0.0, 0.15))
    if view == "open":
        return np.ones((size, size), np.float32), view
    if view == "dermatoscope":
        rho = np.hypot(x - 0.4 * float(shift[0]), y - 0.4 * float(shift[1]))
        return floor + (1 - floor) * _smooth(wide - rho, blur), view
    dx, dy = (x - float(shift[0])) * float(sides), (y - float(shift[1])) / float(sides)
    rho, theta = (np.abs(dx) ** power + np.abs(dy) ** power) ** (1 / power), np.arctan2(dy, dx)
    border = np.ones_like(theta)
    for k, turn, depth in zip((2, 3, 5, 7), turns, depths, strict=True):
        border += float(depth * 1.4 / k) * np.cos(k * theta + float(turn))
    rho = rho / border + 0.006 * noise(rng, size, 14)
    return ramp(np.quantile(rho, share) - rho, 3 / size), view


def _hairs(rng: Rng, size: int) -> np.ndarray:
    """Coverage [H, W] of 0 to 12 thin curved hairs, mostly along one direction."""
    x, y = grid(size)
    cover = np.zeros((size, size), np.float32)
    count = int(rng.integers(1, 13)) if rng.uniform() < 0.45 else 0
    lie, width = rng.uniform(0, np.pi), rng.uniform(0.006, 0.014)
    for _ in range(count):
        angle, (cx, cy) = lie + rng.normal(0, 0.5), rng.uniform(-1, 1, 2)
        long, bend, skew = rng.uniform(0.25, 1.0), rng.uniform(-0.5, 0.5), rng.uniform(-0.4, 0.4)
        strength = rng.uniform(0.5, 0.95)
        c, s = float(np.cos(angle)), float(np.sin(angle))
        u, v = (x - float(cx)) * c + (y - float(cy)) * s, (y - float(cy)) * c - (x - float(cx)) * s
        slope = 2 * bend * u + 3 * skew * u * u
        off = np.abs(v - (bend + skew * u) * u * u) / np.sqrt(1 + slope * slope)
        thick = width * (1 - 0.5 * u / long)
        cover = np.maximum(cover, strength * ramp(thick - off, 4 / size + 0.006) * ramp(long - np.abs(u), 0.06))
    return cover


def _freckles(rng: Rng, size: int) -> np.ndarray:
    """Amount of pigment [H, W] of a few to many small soft spots."""
    x, y = grid(size)
    total = np.zeros((size, size), np.float32)
    for _ in range(int(rng.integers(3, 45))):
        (cx, cy), spread, depth = rng.uniform(-1, 1, 2), rng.gamma(4, 0.006) + 0.008, rng.uniform(0.3, 1)
        flat = rng.uniform(0.7, 1.4)
        across = np.exp(-(((x - float(cx)) / float(spread * flat)) ** 2))
        total = np.maximum(total, across * (float(depth) * np.exp(-(((y - float(cy)) / float(spread / flat)) ** 2))))
    return total * (1 + 0.2 * noise(rng, size, 40))


def _glare(rng: Rng, size: int) -> np.ndarray:
    """Whiteness [H, W] added on top: specular spots, or rings of gel bubbles, in some scenes."""
    x, y = grid(size)
    kind, white = rng.uniform(), np.zeros((size, size), np.float32)
    if kind < 0.17:
        wet = ramp(noise(rng, size, 3) - 0.4, 1.2)
        white = 0.6 * wet * ramp(noise(rng, size, int(rng.integers(40, 80))) - rng.uniform(1.7, 2.3), 0.9)
    elif kind < 0.4:
        for _ in range(int(rng.integers(1, 6))):
            (cx, cy), r = rng.uniform(-0.9, 0.9, 2), rng.uniform(0.015, 0.08)
            rho = np.hypot(x - float(cx), y - float(cy)) / float(r)
            side = (x - float(cx) + y - float(cy)) / float(r)
            white += 0.3 * np.exp(-(((rho - 1) / 0.2) ** 2)) * ramp(0.4 - side, 2.0)
            white += 0.6 * np.exp(-((x - float(cx - 0.4 * r)) ** 2 + (y - float(cy - 0.4 * r)) ** 2) / (0.2 * r) ** 2)
    return np.minimum(white, 0.8)


def _lesion(g: Rng, shown: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """Density [H, W, 3], scale [H, W], mask [H, W] and shape of one pigmented lesion inside shown > 0.9."""
    x, y = grid(size)
    shape = str(g.choice(("round", "oval", "irregular", "lobulated"), p=(0.2, 0.25, 0.35, 0.2)))
    r = float(np.exp(g.uniform(np.log(0.18), np.log(0.58))))
    far, turn = np.sqrt(g.uniform()) * max(0.06, 0.7 - r), g.uniform(0, 2 * np.pi)
    cx, cy = float(far * np.cos(turn)), float(far * np.sin(turn))
    rho = outline(g, x, y, cx, cy, r, shape).astype(np.float32)
    rough = g.uniform(0.01, 0.035) if shape in ("round", "oval") else g.uniform(0.03, 0.07)
    rho += np.float32(rough) * noise(g, size, int(g.integers(8, 15)), 2) * np.minimum(rho, 1)
    edge = g.uniform(0.03, 0.09) if g.uniform() < 0.75 else 0.02
    outside = shown < 0.9
    outside[[0, -1]] = outside[:, [0, -1]] = True
    rho *= max(1.0, (1.04 + 0.3 * edge / r) / float(rho[outside].min()))
    down, right = np.gradient(rho, 2 / size)
    depth = (1 - rho) / np.maximum(
        np.hypot(down, right), 0.6 / r
    )  # distance to the border, in units of half the image's side
    alpha = np.maximum(_smooth(depth, max(edge, 4 / size)) * 1.03 - 0.03, 0)
    theta = np.arctan2(y - cy, x - cx)

    main = g.choice(("brown", "dark", "red"), p=(0.5, 0.3, 0.2))
    amount = {"brown": g.uniform(0.3, 1.0), "dark": g.uniform(1.0, 1.9), "red": g.uniform(0.35, 0.75)}[main]
    tint = {"brown": _MELANIN, "dark": 0.7 * _MELANIN + 0.3 * _BLACK, "red": 0.75 * _BLOOD + 0.2 * _MELANIN}[main]
    level = 1 + g.uniform(0.08, 0.25) * noise(g, size, int(g.integers(3, 6)), 3)
    level += 0.07 * noise(g, size, 34, 2)
    level *= 1 + g.uniform(-0.25, 0.5) * ramp(0.75 - rho, 0.8)  # paler or darker middle
    density = (amount * np.maximum(level, 0.3))[..., None] * tint
    for _ in range(int(g.integers(0, 3))):  # further shades
        patch = _smooth(noise(g, size, int(g.integers(3, 7)), 2) - g.uniform(0.1, 0.8), g.uniform(0.6, 2.0))
        shade = (_MELANIN, _BLACK, _BLOOD, _SLATE)[int(g.choice(4, p=(0.35, 0.3, 0.15, 0.2)))]
        density += (g.uniform(0.3, 0.8) * patch)[..., None] * shade
    if g.uniform() < 0.35 and main != "red":  # pigment network
        net = np.exp(-((noise(g, size, int(g.integers(26, 42))) / 0.45) ** 2)) * ramp(rho - 0.25, 0.5)
        density += (g.uniform(0.2, 0.45) * net)[..., None] * _MELANIN
    if g.uniform() < 0.3:  # globules
        dots = _smooth(noise(g, size, int(g.integers(18, 36))) - 1.0, 0.6)
        density += (g.uniform(0.3, 0.7) * dots)[..., None] * (0.6 * _MELANIN + 0.4 * _BLACK)
    if g.uniform() < 0.16:  # streaks towards the border
        rays = np.cos(int(g.integers(20, 44)) * theta + 2.5 * noise(g, size, 8))
        streaks = (ramp(rays, 1.6) - 0.5) * ramp(rho - 0.75, 0.4) * ramp(noise(g, size, 4) + 0.3, 1.2)
        density *= 1 + g.uniform(0.4, 0.8) * streaks[..., None]
    scale = np.zeros((size, size), np.float32)
    if g.uniform() < 0.22:
        scale = ramp(noise(g, size, int(g.integers(4, 8)), 2) - g.uniform(0.3, 0.9), 0.8)
        scale = g.uniform(0.4, 0.75) * scale * ramp(noise(g, size, 26, 2), 1.8) * ramp(0.9 - rho, 0.3)
    return density * alpha[..., None], scale, alpha > 0.15, shape


def skin(rng: Rng, lesion_rng: Rng | None, size: int) -> Painted:
    """Skin in colour, open, under a dermatoscope or cut out on black, sometimes with hairs, freckles, redness, glare.

    Lesion: one pigmented area of brown, black or red shades with a sharp or soft border, wholly on the skin.
    """
    x, y = grid(size)
    tone = rng.uniform(0, len(_TONES) - 1.001)
    low = int(tone)
    base = _TONES[low] + np.float32(tone - low) * (_TONES[low + 1] - _TONES[low])
    base = base * rng.uniform(0.95, 1.05, 3).astype(np.float32) * np.float32(rng.uniform(0.84, 1.06))
    angle, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.16)
    light = 1 + fall * (x * np.cos(angle) + y * np.sin(angle)) - rng.uniform(0, 0.16) * (x * x + y * y)
    light = light + rng.uniform(0.01, 0.05) * noise(rng, size, 2)
    light = light * (1 + rng.uniform(0.012, 0.04) * _texture(rng, size))

    density = (rng.uniform(0.01, 0.045) * noise(rng, size, int(rng.integers(3, 12)), 3))[..., None] * _MELANIN
    if rng.uniform() < 0.4:
        red = ramp(noise(rng, size, int(rng.integers(2, 5)), 2) - 0.2, 2.0)
        density += (rng.uniform(0.08, 0.3) * red)[..., None] * _BLOOD
    if rng.uniform() < 0.35:
        density += (rng.uniform(0.15, 0.5) * _freckles(rng, size))[..., None] * _MELANIN
    if rng.uniform() < 0.2:  # fine vessels
        vessels = np.exp(-((noise(rng, size, int(rng.integers(8, 16)), 2) / 0.06) ** 2)) * ramp(noise(rng, size, 4), 2)
        density += (rng.uniform(0.1, 0.3) * vessels)[..., None] * _BLOOD
    shown, view = _frame(rng, size)
    image = base * light[..., None] * np.exp(-density)

    mask, details = np.zeros((size, size), bool), {"view": view}
    if lesion_rng is not None:
        stain, scale, mask, shape = _lesion(lesion_rng, shown, size)
        plain = float((image[mask] @ _LUMA).mean())
        image *= np.exp(-stain)
        blend(image, np.array([0.88, 0.84, 0.78], np.float32) * min(1.0, plain + 0.25), scale[..., None])
        ratio = float((image[mask] @ _LUMA).mean()) / plain
        details |= {"shape": shape, "brightness": "dark" if ratio < 0.72 else "faint"}

    hair = np.array([0.13, 0.09, 0.07], np.float32) + np.float32(rng.uniform(0, 0.12))
    blend(image, hair, (_hairs(rng, size) * rng.uniform(0.6, 1))[..., None])
    blend(image, np.float32(0.97), _glare(rng, size)[..., None])
    sigma = rng.uniform(0.004, 0.014)
    image += (grain(rng, size, sigma) + sigma * 0.8 * noise(rng, size, size // 3))[..., None]
    return image * shown[..., None], mask, details
