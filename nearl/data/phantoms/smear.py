"""Painter of blood smears: stains add up as optical densities, so that overlapping cells are darker."""

from __future__ import annotations

import numpy as np

from nearl.data.phantoms.brushes import Painted, Rng, ellipse, grain, grid, noise, radius, ramp

_PINK = np.array([0.10, 0.40, 0.30], np.float32)  # optical densities of the stains in red, green, blue
_PURPLE = np.array([0.62, 1.05, 0.42], np.float32)
_LILAC = np.array([0.22, 0.30, 0.10], np.float32)


def _stain(density: np.ndarray, cx: float, cy: float, reach: float, painter) -> None:
    """density += painter(dx, dy) inside a square of half-width `reach` about the centre."""
    size = density.shape[0]
    x, y = grid(size)
    cols = slice(*np.clip(np.array([cx - reach + 1, cx + reach + 1]) * size / 2, 0, size).astype(int))
    rows = slice(*np.clip(np.array([cy - reach + 1, cy + reach + 1]) * size / 2, 0, size).astype(int))
    if rows.start < rows.stop and cols.start < cols.stop:
        density[rows, cols] += painter(x[:, cols] - cx, y[rows] - cy)


def _red_cells(rng: Rng, big: float, white: np.ndarray) -> list[tuple[float, ...]]:
    """(x, y, radius, flatness, angle, central pallor) of red cells on a jittered grid, none under the white cell."""
    spots, cells = np.arange(-1.0, 1.01, 2.15 * big), []
    for gy in spots:
        for gx in spots:
            cx, cy = np.array([gx, gy]) + rng.uniform(-0.65, 0.65, 2) * big
            look = (big * rng.uniform(0.85, 1.1), rng.uniform(0.86, 1), rng.uniform(0, np.pi), rng.uniform(0.3, 0.8))
            if rng.uniform() < 0.78 and np.hypot(*(white - (cx, cy))) > 0.32:
                cells.append((cx, cy, *look))
    return cells


def _white_cell(rng: Rng, density: np.ndarray, cx: float, cy: float) -> None:
    lobes = [(rng.uniform(0.06, 0.11), rng.uniform(0, 2 * np.pi)) for _ in range(int(rng.integers(1, 5)))]

    def leukocyte(dx, dy):
        body = ramp(1 - np.hypot(dx, dy) / 0.24, 0.08)[..., None] * _LILAC
        nucleus = np.zeros_like(dx + dy)
        for r, turn in lobes:
            off = 0.1 if len(lobes) > 1 else 0.03
            lobe = ellipse((dx, dy), off * np.cos(turn), off * np.sin(turn), r * 1.35, r, turn + 1.3)
            nucleus = np.maximum(nucleus, lobe)
        return body + nucleus[..., None] * _PURPLE

    _stain(density, cx, cy, 0.3, leukocyte)


def _parasite(g: Rng, density: np.ndarray, cx: float, cy: float, r: float) -> str:
    """Stain one parasite in a cell of radius r; returns its form."""
    form = str(g.choice(("ring-shaped", "double-ring", "amoeboid", "dotted")))
    parts = []  # (dx, dy, radius, hollow, angle)
    if form in ("ring-shaped", "double-ring"):
        for k in range(1 if form == "ring-shaped" else 2):
            turn, far = g.uniform(0, 2 * np.pi), (0.25 if form == "ring-shaped" else 0.42) * r
            turn = turn if k == 0 else parts[0][4] + np.pi
            parts.append((far * np.cos(turn), far * np.sin(turn), g.uniform(0.3, 0.4) * r, True, turn))
    elif form == "amoeboid":
        parts.append((0.1 * r, 0.05 * r, g.uniform(0.45, 0.6) * r, False, g.uniform(0, 6)))
    else:
        for turn in g.uniform(0, 2 * np.pi) + np.arange(9) * 2.4:
            far = g.uniform(0.15, 0.62) * r
            parts.append((far * np.cos(turn), far * np.sin(turn), 0.11 * r, False, turn))

    def parasite(dx, dy):
        total = np.zeros_like(dx + dy)
        for px, py, pr, hollow, turn in parts:
            rho = radius(dx, dy, px, py, pr, pr * (0.7 if form == "amoeboid" else 0.9), turn)
            if hollow:
                total += 0.75 * np.exp(-(((rho - 1) / 0.28) ** 2))
                total += 1.1 * ellipse((dx, dy), px + pr * np.cos(turn), py + pr * np.sin(turn), 0.14 * r, 0.14 * r)
            else:
                total += (0.6 if form == "amoeboid" else 0.9) * ramp(1 - rho, 0.5)
                total += 0.8 * (form == "amoeboid") * ellipse((dx, dy), px + pr * 0.5, py, 0.17 * r, 0.15 * r)
        return (np.minimum(total, 1.2) * ramp(1 - np.hypot(dx, dy) / r, 0.1))[..., None] * _PURPLE

    _stain(density, cx, cy, r, parasite)
    return form


def smear(rng: Rng, lesion_rng: Rng | None, size: int) -> Painted:
    """Stained thin blood film in colour: red cells, platelets, sometimes a white cell. Lesion: one infected red cell.

    The infected cell holds a purple ring, several rings, a larger parasite or many dots; the mask is the whole cell.
    """
    edge = 5 / size
    density = np.zeros((size, size, 3), np.float32)
    big = rng.uniform(0.115, 0.15)
    strength = rng.uniform(0.75, 1.2)
    white = rng.uniform(-0.75, 0.75, 2) if rng.uniform() < 0.5 else np.array([9.0, 9.0])  # or outside
    cells = _red_cells(rng, big, white)
    chosen = None
    if lesion_rng is not None:
        chosen = int(lesion_rng.choice([i for i, cell in enumerate(cells) if max(abs(cell[0]), abs(cell[1])) < 0.75]))
    for index, (cx, cy, r, flat, angle, pallor) in enumerate(cells):
        if index == chosen:
            r, pallor = r * 1.12, 0.15

        def red(dx, dy, r=r, flat=flat, angle=angle, pallor=pallor):
            rho = radius(dx, dy, 0, 0, r, r * flat, angle)
            body = ramp(1 - rho, edge / r) * (1 - pallor * np.exp(-((rho / 0.48) ** 2)) + 0.15 * rho**4)
            return body[..., None] * _PINK * strength

        _stain(density, cx, cy, r * 1.15, red)
    for _ in range(int(rng.integers(0, 5))):  # platelets
        px, py, r = *rng.uniform(-0.95, 0.95, 2), rng.uniform(0.02, 0.035)
        _stain(density, px, py, 0.05, lambda dx, dy, r=r: ramp(r - np.hypot(dx, dy), 0.02)[..., None] * _PURPLE * 0.7)
    if white[0] < 2:
        _white_cell(rng, density, *white)

    x, y = grid(size)
    mask, details = np.zeros((size, size), bool), {}
    if chosen is not None:
        cx, cy, r, flat, angle, _ = cells[chosen]
        r *= 1.12
        mask = radius(x, y, cx, cy, r, r * flat, angle) <= 1
        details = {"shape": _parasite(lesion_rng, density, cx, cy, r), "brightness": "purple"}

    light = np.array([0.95, 0.90, 0.89], np.float32) + rng.uniform(-0.03, 0.03, 3).astype(np.float32)
    vignette = 1 - rng.uniform(0.03, 0.12) * (x**2 + y**2) + 0.012 * noise(rng, size, 3)
    density *= 1 + 0.05 * noise(rng, size, 40)[..., None]
    image = light * vignette[..., None] * np.exp(-density)
    return image + grain(rng, size, 0.012)[..., None], mask, details
