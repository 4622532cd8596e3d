"""A synthetic chest study: a CT-like volume, its projections, its findings with masks, a prior study and a report.

It shows no patient and teaches nothing about disease. The same seed gives the same study; with other findings it gives
the same chest and the same noise, and each finding in the same place.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from nearl.data.phantoms.thorax import scene as anatomy
from nearl.data.phantoms.thorax.findings import FINDINGS, NAMES
from nearl.data.phantoms.thorax.report import CHANGES, Report, write
from nearl.errors import NearlError

RATE = 0.3  # of each finding, unless others are asked for
MIN_SIZE, MAX_SIZE = 64, 160
VIEWS = ("frontal", "lateral")
_ORDER = (  # in which findings are painted: one that is named later lies over the others
    "upper lobe consolidation", "lower lobe consolidation", "nodule", "mass", "hilar adenopathy", "cardiomegaly",
    "right effusion", "left effusion", "pneumothorax", "rib lesion", "aortic calcification", "vertebral fracture",
)  # fmt: skip
_GREW = {"larger": 0.62, "smaller": 1.4, "unchanged": 1.0}  # size in the prior study, relative to the current one


@dataclass(frozen=True, eq=False)
class Scan:
    """A volume and what is in it."""

    volume: np.ndarray = field(repr=False)
    """HU, int16 [z, y, x], from head to feet, front to back and the patient's right to left."""
    masks: dict[str, np.ndarray] = field(repr=False)
    """bool [z, y, x] of each finding that is present; where one lies over another, the voxel is of the upper one."""
    words: dict[str, dict[str, str]]
    """"side", "place" and "size" of each finding that is present, as a report says them."""
    facts: dict[str, float]
    """Sizes of this chest in mm."""
    seed: int
    number: int
    """0 for the current scan, 1 for the prior."""

    @property
    def spacing(self) -> float:
        """Side of a voxel in mm."""
        return anatomy.SIDE / len(self.volume)

    def project(self, view: str, side: int = 224) -> np.ndarray:
        """The radiograph, uint8 [side, side], that the "frontal" or "lateral" projection of the volume gives.

        Attenuation is summed along parallel rays. As in a digital radiograph, large differences are reduced and small
        ones enhanced; the noise is that of few photons behind dense parts.
        """
        if view not in VIEWS:
            raise NearlError(f"There is no view “{view}”; choose frontal or lateral.")
        dense = self.volume.astype(np.float32) * 1e-3
        path = np.clip(1 + dense + 0.9 * np.maximum(dense - 0.13, 0), 0, None).sum(1 if view == "frontal" else 2)
        path *= self.spacing / 10 * 0.19
        through = 2 * self.facts["deep" if view == "frontal" else "wide"] / 10 * 0.19
        image = ndimage.zoom(path, side / len(path), order=3, mode="nearest", grid_mode=True)
        level = image / through
        broad = ndimage.gaussian_filter(level, side / 9)
        fine = level - broad
        shown = 0.42 + 0.62 * (broad - 0.6) + 0.5 * np.tanh((3.6 if view == "frontal" else 3.0) * fine)
        rng = np.random.default_rng([77, self.seed, 10 + 2 * self.number + VIEWS.index(view)])
        grain = rng.standard_normal((side, side), dtype=np.float32)
        grain = 0.55 * grain + 1.1 * ndimage.gaussian_filter(grain, 0.9)
        shown += grain * rng.uniform(0.010, 0.022) * np.exp(0.5 * np.clip(level - 0.7, -0.5, 1))
        shown *= 1 - 0.9 * (level < 0.06)
        return np.round(np.clip(shown, 0, 1) * 255).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Study:
    """A current scan, a prior one where there is one, and the report of both."""

    current: Scan
    prior: Scan | None
    findings: dict[str, bool]
    """Whether each finding is present in the current scan."""
    changes: dict[str, str]
    """Of each finding one of `nearl.data.phantoms.thorax.report.CHANGES`: "new", "larger", "smaller", "unchanged",
    "resolved" or "" (in neither scan, or no prior)."""
    report: Report = field(repr=False)


def drawn(seed: int, rates: Mapping[str, float] | None = None) -> list[str]:
    """The findings of a seed: each independent of the others, with its own rate (default: 0.3)."""
    unknown = set(rates or ()) - set(NAMES)
    if unknown:
        raise NearlError(f"There is no finding “{sorted(unknown)[0]}”; choose among {', '.join(NAMES)}.")
    chance = np.random.default_rng([77, seed, 4]).random(len(NAMES))
    return [name for name, c in zip(NAMES, chance, strict=True) if c < (rates or {}).get(name, RATE)]


def make_scan(seed: int, findings: Collection[str] | Mapping[str, float], size: int = 96, number: int = 0) -> Scan:
    """The scan of a seed with these findings, `size` voxels to each side. A mapping gives each its size relative to the
    current scan; `number` 1 draws the same chest again with other noise and a few mm aside, as in a prior scan.

    NearlError for an unknown finding, a negative seed, and a size outside 64 to 160.
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise NearlError(f"The size of a volume must be {MIN_SIZE} to {MAX_SIZE} voxels, not {size}.")
    if seed < 0:
        raise NearlError(f"The seed must be 0 or more, not {seed}.")
    unknown = [name for name in findings if name not in FINDINGS]
    if unknown:
        raise NearlError(f"There is no finding “{unknown[0]}”; choose among {', '.join(NAMES)}.")
    grown = dict(findings) if isinstance(findings, Mapping) else dict.fromkeys(findings, 1.0)
    shift = np.random.default_rng([77, seed, 5]).uniform(-5, 5, 3) if number else np.zeros(3)
    chest = anatomy.scene(seed, size, tuple(shift.tolist()))
    masks, words = {}, {}
    for name in _ORDER:
        if name in grown:
            rng = np.random.default_rng([77, seed, 200 + NAMES.index(name)])
            lesion = FINDINGS[name].paint(chest, rng, grown[name])
            before = chest.volume.copy()
            anatomy.paint(chest.volume, lesion.value, lesion.alpha)
            mask = (lesion.alpha > 0.5) & (np.abs(chest.volume - before) > 60)
            masks = {other: kept & ~mask for other, kept in masks.items()} | {name: mask}
            words[name] = lesion.words
    volume = chest.volume + anatomy.ct_noise(seed, size, number)
    masks = {name: masks[name] for name in NAMES if name in masks}
    return Scan(np.round(volume).astype(np.int16), masks, words, chest.facts, seed, number)


def make_study(
    seed: int,
    findings: Collection[str] | None = None,
    size: int = 96,
    prior: bool = True,
    rates: Mapping[str, float] | None = None,
) -> Study:
    """The study of a seed. `findings`: those of the current scan (default: drawn by `rates`, see `drawn`). `prior`:
    whether there is a prior scan, in which findings are smaller, larger, missing, as they are now, or gone since.

    NearlError as `make_scan`.
    """
    present = drawn(seed, rates) if findings is None else [name for name in NAMES if name in set(findings)]
    for name in findings or ():
        if name not in FINDINGS:
            raise NearlError(f"There is no finding “{name}”; choose among {', '.join(NAMES)}.")
    current, earlier = make_scan(seed, present, size), None
    changes = dict.fromkeys(NAMES, "")
    if prior:
        chance = np.random.default_rng([77, seed, 6]).random(len(NAMES))
        changes = {name: _change(c, name in present) for name, c in zip(NAMES, chance, strict=True)}
        grown = {name: _GREW.get(word, 1.0) for name, word in changes.items() if word not in ("", "new")}
        earlier = make_scan(seed, grown, size, number=1)
    found = {name: name in present for name in NAMES}
    before = earlier.words if earlier is not None else {}
    report = write(seed, {**before, **current.words}, found, changes, earlier is not None)
    return Study(current, earlier, found, changes, report)


def _change(chance: float, present: bool) -> str:
    """What happened to a finding since the prior study, from a number that was drawn in 0..1."""
    if present:
        return CHANGES[int(chance * 4)]
    return "resolved" if chance < 0.12 else ""
