"""The healthy chest of the 3-D phantom: body, lungs, heart, vessels and bones as CT values (all of it our choice).

Coordinates are in mm about the middle of a cube of 360 mm: x from the patient's right to the left, y from front to
back, z from head to feet. Arrays are [z, y, x], float32. Densities are in Hounsfield units (HU): air -1000, water 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from nearl.data.phantoms.brushes import Rng, ramp

SIDE = 360.0  # mm
FAT, MUSCLE, BLOOD, BONE = -95.0, 45.0, 42.0, 420.0
SIDES = {"right": -1, "left": 1}
Point = tuple[float, float, float]  # x, y, z


@dataclass
class Scene:
    """A healthy chest. ``lungs``: signed distance in mm, about, to the border of each lung, positive inside; ``wall``:
    distance from the inside of the rib cage; ``above``: height above each dome of the diaphragm."""

    size: int
    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    volume: np.ndarray = field(repr=False)
    lungs: dict[str, np.ndarray] = field(repr=False)
    wall: np.ndarray = field(repr=False)
    above: dict[str, np.ndarray] = field(repr=False)
    around: np.ndarray = field(repr=False)
    """Position along a rib: 0 at the spine, 1 at the breastbone."""
    aorta: np.ndarray = field(repr=False)
    """Distance in mm from the centre line of the arch and the descending aorta."""
    facts: dict[str, float]
    """Sizes in mm that findings and projections need."""

    @property
    def voxel(self) -> float:
        """Side of a voxel in mm."""
        return SIDE / self.size

    def soft(self, inside: np.ndarray, width: float = 0.0) -> np.ndarray:
        """Coverage 0..1 of where a signed distance in mm is positive, with a border of `width`, at least a voxel."""
        return ramp(inside, max(width, self.voxel))

    def ball(self, centre: Point, radii: Point) -> np.ndarray:
        """Signed distance in mm, about, to an ellipsoid, positive inside."""
        axes = zip((self.x, self.y, self.z), centre, radii, strict=True)
        total = sum(((axis - c) / r) ** 2 for axis, c, r in axes)
        return (1 - np.sqrt(total)) * min(radii)

    def lung(self, side: str) -> np.ndarray:
        """Coverage 0..1 of a lung."""
        return self.soft(self.lungs[side])


def scene(seed: int, size: int, shift: Point = (0.0, 0.0, 0.0)) -> Scene:
    """The healthy chest of a seed without noise. `shift`: how far the patient lies from the middle, in mm."""
    rng = np.random.default_rng([77, seed, 0])
    axis = (np.arange(size, dtype=np.float32) + 0.5) * np.float32(SIDE / size) - np.float32(SIDE / 2)
    x, y, z = axis[None, None, :] - shift[0], axis[None, :, None] - shift[1], axis[:, None, None] - shift[2]
    facts = _sizes(rng)
    made = Scene(size, x, y, z, np.full((size, size, size), -1000, np.float32), {}, axis, {}, axis, axis, facts)
    _body(made)
    made.aorta = _aorta(made)
    _lungs(made, rng)
    _heart(made, facts)
    _bones(made, rng)
    _vessels(made, rng)
    _airways(made)
    return made


def paint(volume: np.ndarray, value: float | np.ndarray, alpha: np.ndarray) -> None:
    """volume <- alpha * value + (1 - alpha) * volume, in place."""
    volume += alpha * (value - volume)


def smooth_noise(rng: Rng, size: int, cells: int) -> np.ndarray:
    """Smooth noise [size, size, size] of deviation about 1, with blobs of 1/cells of the cube."""
    coarse = rng.standard_normal((cells + 2,) * 3, dtype=np.float32)
    at = (np.arange(size, dtype=np.float32) + 0.5) / size * (cells + 1)
    low = at.astype(int)
    part = at - low
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = size
        weight = part.reshape(shape)
        coarse = np.take(coarse, low, axis) * (1 - weight) + np.take(coarse, low + 1, axis) * weight
    return coarse * np.float32(1.8)


def _sizes(rng: Rng) -> dict[str, float]:
    """What differs between patients."""
    rx, ry = rng.uniform(110, 138), rng.uniform(78, 98)
    fat = rng.uniform(6, 26)
    return {
        "rx": rx, "ry": ry, "fat": fat, "wide": rx + 16 + fat, "deep": ry + 15 + fat,
        "floor": rng.uniform(74, 116), "raised": rng.uniform(8, 18), "air": rng.uniform(-880, -820),
        "heart": rng.uniform(0.9, 1.03), "tilt": rng.uniform(-4, 4), "step": rng.uniform(23, 26),
        "first": rng.uniform(-118, -110), "vertebra": rng.uniform(0, 24), "spine": ry * 0.66,
        "bubble": rng.uniform(0, 1), "age": rng.uniform(0.8, 1.2),
    }  # fmt: skip


def _body(s: Scene) -> None:
    """Fat, muscle and the rib cage's space; the neck and the shoulders above."""
    f = s.facts
    up = ramp(s.z + 138, 50)
    wide = 62 + (f["wide"] + 26 * ramp(-78 - s.z, 60) - 62) * up
    deep = 60 + (f["deep"] - 60) * ramp(s.z + 130, 80)
    rim = np.abs(s.x / wide) ** 2.4 + np.abs(s.y / deep) ** 2.4
    depth = (1 - rim) * (np.minimum(wide, deep) / 2.4)
    paint(s.volume, FAT, s.soft(depth))
    paint(s.volume, MUSCLE, s.soft(depth - f["fat"]))
    grown = np.sqrt(np.clip(1 - (np.minimum(s.z - 25, 0) / 158) ** 2, 0.0004, 1))
    cx, cy = f["rx"] * grown, f["ry"] * grown
    rho = np.abs(s.x / cx) ** 2.2 + np.abs(s.y / cy) ** 2.2
    s.wall = (1 - rho) * (np.minimum(cx, cy) / 2.2)
    s.around = np.arctan2(np.abs(s.x) / cx, s.y / cy) / np.float32(math.pi)


def _lungs(s: Scene, rng: Rng) -> None:
    f = s.facts
    cells = 0.5 * smooth_noise(rng, s.size, 30) + 0.5 * smooth_noise(rng, s.size, 12)
    for side, sign in SIDES.items():
        floor = f["floor"] - f["raised"] * (sign < 0)
        dome = floor + 0.0052 * (s.x - sign * 68) ** 2 + 0.004 * (s.y + 12) ** 2 + 0.14 * s.y - 8
        middle = 9 + 15 * np.exp(-(((s.y - 2) / 48) ** 2)) + 5 * ramp(-40 - s.z, 60)
        s.above[side] = np.broadcast_to(dome - s.z, s.volume.shape)
        inside = np.minimum(np.minimum(s.wall - 4, dome - s.z), sign * (s.x - f["tilt"] * 0.5) - middle)
        s.lungs[side] = inside
        below = s.soft(np.minimum(s.wall - 2, s.z - dome)) * (sign * s.x > 0)
        paint(s.volume, 56 if sign < 0 else 44, below * ramp(s.z - 40, 20))
        paint(s.volume, f["air"] + 28 * cells + 0.42 * (s.y + 20), s.soft(inside))
    if f["bubble"] < 0.65:
        top = f["floor"] + 14
        paint(s.volume, -960, s.soft(s.ball((62, -18, top + 10), (20 + 16 * f["bubble"], 24, 12))) * s.soft(s.z - top))


def heart(s: Scene, scale: float) -> np.ndarray:
    """Signed distance in mm, about, to the heart at `scale` times its usual size."""
    f = s.facts
    cx, cz = 20 + f["tilt"], f["floor"] - 48
    turn = 0.5
    u = (s.x - cx) * math.cos(turn) + (s.z - cz) * math.sin(turn)
    v = (s.z - cz) * math.cos(turn) - (s.x - cx) * math.sin(turn)
    k = f["heart"] * scale
    left = np.sqrt((u / (66 * k)) ** 2 + (v / (47 * k)) ** 2 + ((s.y + 22) / (46 * k)) ** 2)
    right = np.sqrt(((s.x + 20) / (31 * k)) ** 2 + ((s.y + 14) / (38 * k)) ** 2 + ((s.z - cz - 4) / (44 * k)) ** 2)
    return np.maximum((1 - left) * 46 * k, (1 - right) * 31 * k)


def _aorta(s: Scene) -> np.ndarray:
    """Distance in mm from the centre line of the arch and the descending aorta."""
    along = np.hypot(s.x - 24 - 0.1 * (s.z + 40), s.y - s.facts["spine"] + 24)
    descending = np.where(s.z > -48, along, np.hypot(along, s.z + 48))
    bend = np.hypot(np.hypot(s.y - 8, s.z + 34) - 28, s.x - 14 - 0.22 * (s.y - 8))
    arch = np.where(s.z < -34, bend, 99.0)
    return np.minimum(descending, arch)


AORTA = 12.5  # mm, its radius
HILUM = (43.0, 16.0, 2.0)  # of the left lung; the right one is its mirror image


def _heart(s: Scene, facts: dict[str, float]) -> None:
    inside = heart(s, 1.0)
    for side in SIDES:  # the heart and the aorta leave less room
        s.lungs[side] = np.minimum(np.minimum(s.lungs[side], -3 - inside), s.aorta - AORTA)
    room = ramp(facts["floor"] + 26 - s.z, 8)
    paint(s.volume, -60, s.soft(inside + 4) * room)
    paint(s.volume, BLOOD, s.soft(inside) * room)
    paint(s.volume, BLOOD, s.soft(AORTA - s.aorta) * ramp(130 - s.z, 20))
    paint(s.volume, BLOOD, s.soft(9 - np.hypot(s.x + 22, s.y + 6)) * ramp(s.z + 110, 20) * ramp(20 - s.z, 20))
    for sign in SIDES.values():
        paint(s.volume, BLOOD, s.soft(s.ball((sign * 35, 14, HILUM[2] - 8 * (sign > 0)), (17, 13, 17))))


def _bones(s: Scene, rng: Rng) -> None:
    f, v = s.facts, s.volume
    place = (s.z - f["vertebra"]) / 24.0
    phase = place - np.floor(place)  # 0 at the top of a vertebra, the disc from 0.78
    back = f["spine"] + 0.00035 * (s.z - 20) ** 2
    body = 1 - np.sqrt((s.x / 19) ** 2 + ((s.y - back) / 16) ** 2)
    paint(v, MUSCLE, s.soft(body * 17 + 9) * ramp(s.y - 20, 8))
    bone = np.where(phase < 0.78, 210 + 240 * np.exp(-((body * 17 - 2) ** 2) / 5) + 0 * s.z, 70)
    paint(v, bone, s.soft(body * 16))
    arch = np.hypot(s.x, s.y - back - 25)
    paint(v, 30, s.soft(9 - arch))
    paint(v, BONE, s.soft(4 - np.abs(arch - 12)) * (np.abs(phase - 0.4) < 0.3) * 0.9)
    spine = (np.abs(s.x) < 4.5) * ramp(s.y - back - 32, 5) * ramp(back + 56 - s.y, 5)
    paint(v, BONE, spine * (np.abs(phase - 0.55) < 0.25) * 0.9)
    across = ramp(34 - np.abs(s.x), 6) * ramp(6 - np.abs(s.y - back - 18), 4) * (np.abs(phase - 0.3) < 0.18)
    paint(v, 330, across * 0.8)

    along = rib_phase(s)
    off = np.abs(along - np.round(along)) * f["step"]
    number = np.round(along)
    real = (number >= 0) & (number <= 10) & (s.z < 150)
    shell = s.soft(3.6 - np.abs(s.wall + 0.5), 3) * ramp(6.2 - off, 3) * real
    paint(v, BONE, shell * ramp(0.80 - s.around, 0.03) * ramp(s.around - 0.03, 0.02))
    paint(v, 110, shell * ramp(s.around - 0.80, 0.03) * ramp(0.95 - s.around, 0.03) * 0.8)
    front = s.soft(4.5 - np.abs(s.wall + 0.5), 4) * (s.y < 0)
    paint(v, 300, front * ramp(17 - np.abs(s.x), 4) * ramp(s.z + 92, 10) * ramp(62 - s.z, 10))
    for sign in SIDES.values():
        plate = ((s.around - 0.27) / 0.12) ** 2 + ((s.z + 42) / 66) ** 2
        paint(v, 380, s.soft(3.2 - np.abs(s.wall + 17), 3) * (plate < 1) * (sign * s.x > 0) * 0.9)
        _rod(s, (sign * 20, -58, -100), (sign * 128, -34, -122 + rng.uniform(-4, 4)), 6.5, BONE)
        _rod(s, (sign * 146, 4, -104), (sign * 172, 0, -84), 18, 260)


def rib_phase(s: Scene) -> np.ndarray:
    """The number of the rib at whose height a point lies; whole numbers are the middles of the ribs."""
    t = s.around
    return (s.z - s.facts["first"] - 26 * t - 62 * t * t) / s.facts["step"]


def _rod(s: Scene, a: Point, b: Point, radius: float, value: float) -> None:
    """A straight rod between two points."""
    start, way = np.array(a, np.float32), np.array(b, np.float32) - np.array(a, np.float32)
    t = ((s.x - start[0]) * way[0] + (s.y - start[1]) * way[1] + (s.z - start[2]) * way[2]) / (way @ way)
    t = np.clip(t, 0, 1)
    parts = zip((s.x, s.y, s.z), start, way, strict=True)
    paint(s.volume, value, s.soft(radius - np.sqrt(sum((axis - p - t * w) ** 2 for axis, p, w in parts))))


def _vessels(s: Scene, rng: Rng) -> None:
    """Branches that fan out from each hilum, thinner after every fork."""
    tree = np.full(s.volume.shape, -1000, np.float32)
    steps = np.linspace(0, 1, 11)[:, None]
    for side, sign in SIDES.items():
        starts = np.tile(np.array([sign * HILUM[0], HILUM[1], HILUM[2]]), (15, 1))
        ways = np.stack([sign * np.abs(rng.normal(0.7, 0.55, 15)), rng.normal(0, 0.75, 15), rng.normal(0, 1, 15)], 1)
        radii = np.full(15, 4.6)
        for _ in range(3):
            ways /= np.linalg.norm(ways, axis=1, keepdims=True)
            length, bend = rng.uniform(24, 42, (len(ways), 1)), rng.normal(0, 0.28, ways.shape)
            each = zip(starts, ways, length, bend, strict=True)
            points = np.concatenate([a + far * steps * (w + steps * c) for a, w, far, c in each])
            _stamp(s, tree, points, (radii[:, None] * (1 - 0.3 * steps[:, 0])).ravel())
            starts = np.repeat(starts + length * (ways + bend), 2, axis=0)
            ways = np.repeat(ways + bend, 2, axis=0) + rng.normal(0, 0.45, (2 * len(ways), 3))
            radii = np.repeat(radii, 2) * rng.uniform(0.55, 0.75, 2 * len(radii))
        np.maximum(s.volume, tree, out=s.volume, where=s.lung(side) > 0.5)


def _stamp(s: Scene, tree: np.ndarray, points: np.ndarray, radii: np.ndarray) -> None:
    """Soft balls of blood at points [P, 3]. A vessel thinner than a voxel is fainter."""
    step = s.voxel
    first = np.array([s.x.flat[0], s.y.flat[0], s.z.flat[0]])
    centres = (points - first) / step
    reach = int(np.ceil(radii.max() / step + 0.5))
    offsets = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3), -1).reshape(-1, 3)
    places = np.round(centres).astype(int)[:, None] + offsets
    far = np.sqrt(((places - centres[:, None]) ** 2).sum(-1)) * step
    alpha = ramp(radii[:, None] - far, step) * np.minimum(1.0, (2 * radii / step) ** 1.5)[:, None]
    use = (alpha > 0) & np.all((places >= 0) & (places < s.size), axis=-1)
    at = places[use]
    np.maximum.at(tree, (at[:, 2], at[:, 1], at[:, 0]), (-850 + alpha[use] * (BLOOD + 850)).astype(np.float32))


def _airways(s: Scene) -> None:
    for start, end, radius in (
        ((0, 4, -190), (2, 12, -40), 8.5),
        ((2, 12, -40), (-40, 17, -4), 6.0),
        ((2, 12, -40), (44, 19, -2), 5.5),
    ):
        _rod(s, start, end, radius + 1.5, 20)
        _rod(s, start, end, radius, -980)


def ct_noise(seed: int, size: int, study: int) -> np.ndarray:
    """The noise of a scan, of 14 to 26 HU and a little blurred; `study` 0 for the current scan, 1 for the prior."""
    rng = np.random.default_rng([77, seed, 1 + study])
    grain = ndimage.gaussian_filter(rng.standard_normal((size,) * 3, dtype=np.float32), 0.6)
    return grain * np.float32(rng.uniform(14, 26) / 0.35)
