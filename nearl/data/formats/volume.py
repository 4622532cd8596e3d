"""A decoded scan: stored numbers with their physical meaning, its place in the patient, and how it is drawn.

Directions and positions are DICOM's: millimetres in the patient, +x to the left (L), +y to the back (P), +z to the
head (H).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import permutations

import numpy as np
from PIL import Image

from nearl.data.formats.windows import MODALITY_PRESETS, PRESETS, Table, Window, auto_window, to_grey

# What each plane shows, as (patient axis, sign) of the slice order, of down and of right: the usual way to hang it.
PLANES = {
    "axial": ((2, 1), (1, 1), (0, 1)),  # from the feet up; the back is below, the patient's left at the right
    "coronal": ((1, 1), (2, -1), (0, 1)),  # from the front to the back; the head is above
    "sagittal": ((0, 1), (2, -1), (1, 1)),  # from the right to the left; the head is above, the front at the left
}
ACQUIRED = "acquired"
LETTERS = ("LR", "PA", "HF")
OPPOSITE = dict(zip("LRPAHF", "RLAPFH", strict=True))
MIN_SIDE = 16  # pixels; below this there is nothing to look at (our choice)
SECOND_LETTER = 0.3  # an oblique direction names its second axis from this cosine on (our choice)
MAX_PIXEL_ASPECT = 20.0  # pixels more oblong than this are not believed
SAMPLE = 400_000  # values that the automatic window looks at


@dataclass(frozen=True)
class View:
    """What is drawn: one slice of one plane at one time, through one window, or three as red, green and blue."""

    plane: str
    index: int
    frame: int = 0
    window: Window | tuple[Window, Window, Window] | None = None
    invert: bool = False


def letters_of(direction: np.ndarray) -> str:
    """The patient's sides that a unit direction points to, the nearest first: "L", "LP"."""
    order = np.argsort(-np.abs(direction), kind="stable")[:2]
    keep = [i for n, i in enumerate(order) if n == 0 or abs(direction[i]) >= SECOND_LETTER]
    return "".join(LETTERS[i][0 if direction[i] > 0 else 1] for i in keep)


def opposite(letters: str) -> str:
    return "".join(OPPOSITE.get(letter, "") for letter in letters)


@dataclass(frozen=True, eq=False)
class Scan:
    """Everything that survives of a medical file.

    voxels: stored numbers [T, K, H, W], or uint8 colour [T, K, H, W, 3]; read-only. T are moments, K slices.
    slope, intercept: float64 [T, K]; a physical value is stored * slope + intercept. modality: "CT", "MR"..., "" if
    unknown. spacing: mm between slices, rows and columns, each None if unknown. axes: float64 [3, 3], the unit
    directions in the patient of growing slice, row and column number, or None; without ``oriented`` they are only the
    customary ones. aspect: height of a pixel in widths,
    used where spacing is unknown. sides: the letters at the right and at
    the bottom of a projection, or None. windows: those of the file. whites_low: low values are white (MONOCHROME1).
    padding: the stored value that stands for "outside", or None. facts: whitelisted technical facts. notes: sentences.
    """

    voxels: np.ndarray = field(repr=False)
    slope: np.ndarray = field(repr=False)
    intercept: np.ndarray = field(repr=False)
    modality: str = ""
    spacing: tuple[float | None, float | None, float | None] = (None, None, None)
    axes: np.ndarray | None = None
    oriented: bool = True
    aspect: float = 1.0
    sides: tuple[str, str] | None = None
    windows: tuple[Window, ...] = ()
    table: Table | None = None
    whites_low: bool = False
    padding: float | None = None
    full_range: float | None = None  # the largest value that 8-bit greys can take: shown as they are
    facts: dict[str, str | int | float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def colour(self) -> bool:
        return self.voxels.ndim == 5

    @property
    def frames(self) -> int:
        """Moments: frames of a film, volumes of a 4-D series."""
        return self.voxels.shape[0]

    @property
    def planes(self) -> tuple[str, ...]:
        """The planes that can be shown, by name where the place of the slices in the patient is known."""
        if self.axes is None:
            return (ACQUIRED,)
        sides = self.voxels.shape[1:4]
        whole = sides[0] > 1 and all(self.spacing)
        found = []
        for plane in PLANES:
            (axis, _), (down, _), (right, _) = self._layout(plane)
            if (whole or axis == 0) and min(sides[down], sides[right]) >= MIN_SIDE:
                found.append(plane)
        return tuple(found) or (ACQUIRED,)

    def slices(self, plane: str) -> int:
        """How many slices a plane has."""
        return self.voxels.shape[1 + self._layout(plane)[0][0]]

    def default_plane(self) -> str:
        """The plane in which the slices were made, if it can be shown."""
        return next((plane for plane in self.planes if self._layout(plane)[0][0] == 0), self.planes[0])

    def default_view(self) -> View:
        """The middle slice, or the first frame, through the file's own window or the best guess."""
        plane = self.default_plane()
        return View(plane, self.slices(plane) // 2, 0, self.presets()[0] if self.presets() else None)

    def presets(self) -> tuple[Window, ...]:
        """The windows to offer, the one to begin with first. None for colour."""
        if self.colour:
            return ()
        own = list(self.windows)
        if self.table is not None:
            own.insert(0, Window("As stored in the file", 0, 1, "TABLE"))
        if self.full_range is not None:
            own.append(Window("Full range", self.full_range / 2, self.full_range))
        named = [PRESETS[name] for name in MODALITY_PRESETS.get(self.modality, ())]
        if not own and named:
            own.append(PRESETS["abdomen"])
        named = [window for window in named if window not in own]
        return (*own, *named, self.auto())

    def auto(self) -> Window:
        """The automatic window, the same for all slices: percentiles of a sample of the whole scan."""
        step = max(1, self.voxels.size // SAMPLE)
        stored = self.voxels.reshape(-1)[::step]
        # the sample walks through slices of one scale each; with several scales it takes that of the middle slice
        slope, intercept = (a[0, a.shape[1] // 2] for a in (self.slope, self.intercept))
        if self.padding is not None and (stored != self.padding).any():
            stored = stored[stored != self.padding]
        return auto_window(stored * slope + intercept)

    def values(self, plane: str, index: int, frame: int = 0) -> np.ndarray:
        """One slice as it hangs: float64 [h, w] in physical units, or uint8 [h, w, 3].

        Raises IndexError where there is no such slice.
        """
        (axis, sign), (down, down_sign), (_, right_sign) = layout = self._layout(plane)
        n = self.voxels.shape[1 + axis]
        if not (0 <= index < n and 0 <= frame < self.frames):
            raise IndexError(f"slice {index} of {n}, frame {frame} of {self.frames}")
        at = index if sign > 0 else n - 1 - index
        picture = np.take(self.voxels[frame], at, axis=axis)
        if not self.colour:
            slope, intercept = self.slope[frame], self.intercept[frame]
            if axis == 0:
                slope, intercept = slope[at], intercept[at]
            else:  # what is left of the slice axis comes first
                slope, intercept = slope[:, None], intercept[:, None]
            picture = picture.astype(np.float64) * slope + intercept
        if down > layout[2][0]:
            picture = picture.swapaxes(0, 1)
        return picture[:: 1 if down_sign > 0 else -1, :: 1 if right_sign > 0 else -1]

    def ras(self, frame: int = 0) -> tuple[np.ndarray, tuple[float | None, ...]]:
        """What a 3-D model takes: float32 [X, Y, Z] in physical units, growing to the right (R), front (A) and head
        (S), and the millimetres between voxels along each. Raises ValueError for colour or an unknown orientation."""
        if self.colour or self.axes is None:
            raise ValueError("needs grey values and known directions")
        columns = [self._place(axis, sign) for axis, sign in ((0, -1), (1, -1), (2, 1))]
        values = self.voxels[frame].astype(np.float32)
        values = values * self.slope[frame, :, None, None] + self.intercept[frame, :, None, None]
        values = values.astype(np.float32).transpose([axis for axis, _ in columns])
        values = values[tuple(slice(None, None, sign) for _, sign in columns)]
        return values, tuple(self.spacing[axis] for axis, _ in columns)

    def pixel_spacing(self, plane: str) -> tuple[float | None, float | None]:
        """Millimetres between the rows and between the columns of a plane."""
        _, (down, _), (right, _) = self._layout(plane)
        return self.spacing[down], self.spacing[right]

    def slice_spacing(self, plane: str) -> float | None:
        """Millimetres between the slices of a plane."""
        return self.spacing[self._layout(plane)[0][0]]

    def letters(self, plane: str) -> dict[str, str]:
        """The patient's sides at the "left", "right", "top" and "bottom" of a plane; empty where they are unknown."""
        if self.axes is not None and self.oriented:
            _, (down, down_sign), (right, right_sign) = self._layout(plane)
            bottom, side = letters_of(self.axes[down] * down_sign), letters_of(self.axes[right] * right_sign)
        elif self.sides is not None:
            side, bottom = self.sides
        else:
            return {}
        return {"left": opposite(side), "right": side, "top": opposite(bottom), "bottom": bottom}

    def render(self, view: View, max_side: int | None = None) -> np.ndarray:
        """The slice as uint8 [h, w, 3] with square pixels, at most ``max_side`` pixels long."""
        values = self.values(view.plane, view.index, view.frame)
        if not self.colour:
            window = view.window or self.presets()[0]
            windows = window if isinstance(window, tuple) else (window,)
            greys = [to_grey(values, w, self.table) for w in windows]
            values = np.stack(greys if len(greys) == 3 else greys * 3, axis=-1)
        if view.invert != self.whites_low:
            values = 255 - values
        height, width = values.shape[:2]
        aspect = self._aspect(view.plane)
        height, width = round(height * max(aspect, 1)), round(width * max(1 / aspect, 1))
        if max_side is not None and max(height, width) > max_side:
            scale = max_side / max(height, width)
            height, width = max(1, round(height * scale)), max(1, round(width * scale))
        if (height, width) == values.shape[:2]:
            return np.ascontiguousarray(values)
        smaller = height * width < values.shape[0] * values.shape[1]
        how = Image.Resampling.LANCZOS if smaller else Image.Resampling.BICUBIC
        return np.array(Image.fromarray(np.ascontiguousarray(values)).resize((width, height), how))

    def checked(self, view: View) -> View:
        """The view with its plane, slice and frame brought into what the scan has."""
        plane = view.plane if view.plane in self.planes else self.default_plane()
        index = min(max(int(view.index), 0), self.slices(plane) - 1)
        return replace(view, plane=plane, index=index, frame=min(max(int(view.frame), 0), self.frames - 1))

    def _aspect(self, plane: str) -> float:
        rows, columns = self.pixel_spacing(plane)
        aspect = rows / columns if rows and columns else self.aspect
        return aspect if 1 / MAX_PIXEL_ASPECT < aspect < MAX_PIXEL_ASPECT else 1.0

    def _layout(self, plane: str) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """(array axis, sign) of slice, down and right. Array axes: 0 slices, 1 rows, 2 columns."""
        if plane == ACQUIRED or self.axes is None:
            return (0, 1), (1, 1), (2, 1)
        slices, down, right = PLANES[plane]
        return self._place(*slices), self._place(*down), self._place(*right)

    def _place(self, axis: int, sign: int) -> tuple[int, int]:
        """(array axis, sign) of a direction of the patient."""
        order = max(permutations(range(3)), key=lambda p: sum(abs(self.axes[p[i], i]) for i in range(3)))
        return order[axis], sign if self.axes[order[axis], axis] >= 0 else -sign
