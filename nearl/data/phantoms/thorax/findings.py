"""The findings of the 3-D phantom. Each has a painter of its own with a random stream of its own, so that none depends
on the others (all of it our choice).

A painter is called paint(scene, rng, grow) -> Lesion. What it draws from `rng` does not depend on `grow`, by which the
lesion of a prior study is smaller or larger than that of the current one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nearl.data.phantoms.brushes import Rng, ramp
from nearl.data.phantoms.thorax.scene import AORTA, BLOOD, HILUM, SIDES, Scene, heart, rib_phase, smooth_noise


class Lesion(NamedTuple):
    """What a painter adds to a scene."""

    alpha: np.ndarray
    """Coverage 0..1 [D, H, W]."""
    value: float | np.ndarray
    """Its density in HU."""
    words: dict[str, str]
    """What a report says of it: "side", "place", "size"; "" where nothing is said."""


Painter = Callable[[Scene, Rng, float], Lesion]


class Finding(NamedTuple):
    """A finding of the phantom."""

    noun: str
    paint: Painter
    denser: bool = True
    """Whether it raises the density where it lies."""


def lobe(x: float, y: float, z: float) -> str:
    """The lobe in which a point of a lung lies, in words."""
    side = "right" if x < 0 else "left"
    if z > fissure(y):
        return f"{side} lower lobe"
    return "right middle lobe" if side == "right" and z > 14 and y < 20 else f"{side} upper lobe"


def fissure(y):
    """Height z in mm of the oblique fissure at depth y: what lies below is the lower lobe."""
    return -48 + 1.1 * (62 - y)


def _spot(s: Scene, rng: Rng, side: str, deep: float, where: np.ndarray | None = None) -> tuple[float, float, float]:
    """A random point of a lung at least `deep` mm inside it, in mm."""
    room = s.lungs[side] > deep
    room = room if where is None else room & where
    room = room & (s.above[side] > deep + 6) & (s.z > -95)
    found = np.flatnonzero(room)
    if not len(found):
        found = np.array([int(np.argmax(s.lungs[side]))])
    k, j, i = np.unravel_index(found[int(rng.random() * len(found))], s.volume.shape)
    return float(s.x[0, 0, i]), float(s.y[0, j, 0]), float(s.z[k, 0, 0])


def _side(rng: Rng) -> str:
    return ("right", "left")[int(rng.integers(2))]


def _millimetres(radius: float) -> str:
    return f"{2 * radius:.0f} mm"


def nodule(s: Scene, rng: Rng, grow: float) -> Lesion:
    side, radius, value = _side(rng), rng.uniform(6, 10), rng.uniform(20, 80)
    at = _spot(s, rng, side, 12)
    words = {"side": side, "place": lobe(*at), "size": _millimetres(radius * grow)}
    return Lesion(s.soft(s.ball(at, (radius * grow,) * 3)) * s.lung(side), value, words)


def mass(s: Scene, rng: Rng, grow: float) -> Lesion:
    side, radius = _side(rng), rng.uniform(17, 25)
    at, wave, turn = _spot(s, rng, side, 13), rng.normal(0, 1, (5, 3)), rng.uniform(0, 2 * math.pi, 5)
    dx, dy, dz = s.x - at[0], s.y - at[1], s.z - at[2]
    far = np.sqrt(dx * dx + dy * dy + dz * dz) + 1e-3
    bumps = sum(np.sin((dx * w[0] + dy * w[1] + dz * w[2]) / far * 3.2 + t) for w, t in zip(wave, turn, strict=True))
    words = {"side": side, "place": lobe(*at), "size": _millimetres(radius * grow)}
    return Lesion(s.soft(radius * grow * (1 + 0.06 * bumps) - far, 4) * s.lung(side), 42.0, words)


def _effusion(side: str) -> Painter:
    def paint(s: Scene, rng: Rng, grow: float) -> Lesion:
        height, value = rng.uniform(26, 62), rng.uniform(4, 18)
        near = np.exp(-np.maximum(s.wall - 4, 0) / 15)
        level = height * grow * (0.22 + 0.78 * near) * (1 + 0.006 * s.y)
        amount = "small" if height * grow < 34 else "moderate" if height * grow < 56 else "large"
        words = {"side": side, "place": "", "size": amount}
        return Lesion(s.soft(level - s.above[side], 5) * s.lung(side), value, words)

    return paint


def pneumothorax(s: Scene, rng: Rng, grow: float) -> Lesion:
    side, thick = _side(rng), rng.uniform(14, 27)
    reach = thick * grow * (0.25 + 0.75 * ramp(-10 - s.z, 130))
    alpha = s.soft(reach + 4 - s.wall, 2) * s.lung(side) * ramp(s.above[side] - 4, 6)
    size = "small" if thick * grow < 17 else "moderate" if thick * grow < 25 else "large"
    edge = np.exp(-(((s.wall - reach - 4) / (0.7 * s.voxel)) ** 2))
    return Lesion(alpha, -1000 + 800 * min(1.0, 2.5 / s.voxel) * edge, {"side": side, "place": "", "size": size})


def _consolidation(lower: bool) -> Painter:
    def paint(s: Scene, rng: Rng, grow: float) -> Lesion:
        side = _side(rng)
        radii = rng.uniform(26, 38, 3) * grow
        below = np.broadcast_to(s.z > fissure(s.y) + 8, s.volume.shape)
        above = np.broadcast_to(s.z < fissure(s.y) - 8, s.volume.shape)
        at = _spot(s, rng, side, 14, below if lower else above)
        patches, streaks = smooth_noise(rng, s.size, 9), smooth_noise(rng, s.size, 22)
        away = 1 if lower else -1
        in_lobe = ramp(away * (s.z - fissure(s.y)), 8)
        rough = s.ball(at, tuple(radii)) + 5 * patches
        value = 12 + 14 * patches - 620 * (streaks > 1.7)  # air is left in some bronchi
        words = {"side": side, "place": f"{side} {'lower' if lower else 'upper'} lobe", "size": ""}
        return Lesion(s.soft(rough, 16) * s.lung(side) * in_lobe * 0.92, value, words)

    return paint


def cardiomegaly(s: Scene, rng: Rng, grow: float) -> Lesion:
    larger = rng.uniform(1.26, 1.38)
    room = ramp(s.facts["floor"] + 26 - s.z, 8) * s.soft(s.wall - 4)
    alpha = (s.soft(heart(s, 1 + (larger - 1) * grow)) - s.soft(heart(s, 1.0))) * room
    return Lesion(np.clip(alpha, 0, 1), BLOOD, {"side": "", "place": "", "size": ""})


def rib_lesion(s: Scene, rng: Rng, grow: float) -> Lesion:
    side, number, t = _side(rng), int(rng.integers(3, 8)), rng.uniform(0.28, 0.62)
    radius, value = rng.uniform(10, 14) * grow, rng.uniform(520, 800)
    along, sign = rib_phase(s), SIDES[side]
    length = np.abs(s.around - t) * math.pi * 100
    off = np.abs(along - number) * s.facts["step"]
    inside = radius - np.sqrt((length / 1.7) ** 2 + off**2 + (1.3 * (s.wall + 0.5)) ** 2)
    ordinal = {1: "st", 2: "nd", 3: "rd"}.get(number + 1, "th")
    words = {"side": side, "place": f"{side} {number + 1}{ordinal} rib", "size": _millimetres(radius)}
    return Lesion(s.soft(inside) * (sign * s.x > 0), value, words)


def calcification(s: Scene, rng: Rng, grow: float) -> Lesion:
    spots, value = smooth_noise(rng, s.size, 26), rng.uniform(850, 1300)
    shell = s.soft(2.6 - np.abs(s.aorta - AORTA + 1), 2) * ramp(95 - s.z, 20)
    arch = ramp(-20 - s.z, 30)
    return Lesion(shell * ramp(spots - 1.0 + 0.9 * arch + 0.5 * (grow - 1), 0.8), value, dict.fromkeys(_WORDS, ""))


def adenopathy(s: Scene, rng: Rng, grow: float) -> Lesion:
    side, radius = _side(rng), rng.uniform(13, 18) * grow
    sign, inside = SIDES[side], []
    for step in rng.normal(0, 9, (4, 3)):
        at = (sign * (HILUM[0] + 9) + step[0], HILUM[1] + step[1], HILUM[2] + 1.3 * step[2])
        inside.append(s.ball(at, (radius,) * 3))
    words = {"side": side, "place": f"{side} hilum", "size": _millimetres(radius)}
    return Lesion(s.soft(np.maximum.reduce(inside)) * s.lung(side), 48.0, words)


def fracture(s: Scene, rng: Rng, grow: float) -> Lesion:
    number, loss = int(rng.integers(0, 4)), rng.uniform(0.5, 0.7)
    place = (s.z - s.facts["vertebra"]) / 24.0 - number
    back = s.facts["spine"] + 0.00035 * (s.z - 20) ** 2
    body = 1 - np.sqrt((s.x / 19) ** 2 + ((s.y - back) / 16) ** 2)
    front = ramp(back + 12 - s.y, 10)  # the front loses height, the back does not
    lost = ramp(0.78 * min(loss * grow, 0.9) * front - place, 0.12) * ramp(place + 0.03, 0.06)
    level = f"T{number + 6}"
    return Lesion(s.soft(body * 16) * lost, 60.0, {"side": "", "place": level, "size": ""})


_WORDS = ("side", "place", "size")
FINDINGS: dict[str, Finding] = {  # the place in this list is part of the seed, so that the order must not change
    "nodule": Finding("lung nodule", nodule),
    "mass": Finding("lung mass", mass),
    "right effusion": Finding("right pleural effusion", _effusion("right")),
    "left effusion": Finding("left pleural effusion", _effusion("left")),
    "pneumothorax": Finding("pneumothorax", pneumothorax, denser=False),
    "upper lobe consolidation": Finding("upper lobe consolidation", _consolidation(False)),
    "lower lobe consolidation": Finding("lower lobe consolidation", _consolidation(True)),
    "cardiomegaly": Finding("cardiomegaly", cardiomegaly),
    "rib lesion": Finding("sclerotic rib lesion", rib_lesion),
    "aortic calcification": Finding("aortic calcification", calcification),
    "hilar adenopathy": Finding("hilar adenopathy", adenopathy),
    "vertebral fracture": Finding("vertebral compression fracture", fracture, denser=False),
}
NAMES = tuple(FINDINGS)
